//! The byte-level BPE of the Qwen family, from Hugging Face's `tokenizers`: its BPE merges, its added tokens and its NFC.
//! Words are cut by `split.rs`, because the crate's own splitting keeps an alignment for every character, which costs most of
//! its time, and its regular expressions silently stop at a backtracking limit.

use tokenizers::models::bpe::{BpeBuilder, Vocab, BPE};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::{AddedToken, AddedVocabulary, Model, OffsetReferential, OffsetType};

use crate::byte_level;
use crate::split::Splitter;
use crate::token_table::{TokenKind, TokenTable, MAX_TOKENS};

/// What both file formats come down to.
pub struct Parts {
    pub vocab: Vocab,
    pub merges: Vec<(String, String)>,
    pub added: Vec<(u32, AddedToken)>,
    pub splitter: Splitter,
    pub nfc: bool,
    pub ignore_merges: bool,
    /// Ids that encoding with `add_special` puts before and after the text.
    pub prefix: Vec<u32>,
    pub suffix: Vec<u32>,
}

pub struct Tokenizer {
    pub bpe: BPE,
    pub added: AddedVocabulary,
    /// The same, but special tokens in the text are text.
    added_plain: AddedVocabulary,
    nfc: Option<NFC>,
    pub splitter: Splitter,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    pub table: TokenTable,
}

#[derive(Clone, Copy)]
pub struct EncodeOptions {
    pub add_special: bool,
    pub parse_special: bool,
}

impl Tokenizer {
    pub fn new(mut parts: Parts) -> Result<Tokenizer, String> {
        check_alphabet(&parts.vocab)?;
        check_merges(&parts.vocab, &parts.merges)?;
        let mut table = TokenTable::default();
        for (token, id) in &parts.vocab {
            table.set(*id, &byte_level::decode(token), TokenKind::Normal)?;
        }
        for (id, token) in &parts.added {
            // In the vocabulary too, so that the crate gives it this id and not the next free one.
            match parts.vocab.insert(token.content.clone(), *id) {
                Some(other) if other != *id => {
                    return Err(format!("token {:?} has two ids: {other} in the vocabulary, {id} in added_tokens", token.content))
                }
                _ => (),
            }
            let kind = if token.special { TokenKind::Special } else { TokenKind::Added };
            table.set(*id, &byte_level::decode(&token.content), kind)?;
        }
        check_ids(&parts.vocab, &table)?;
        for id in parts.prefix.iter().chain(&parts.suffix) {
            if table.get(*id).1 == TokenKind::None {
                return Err(format!("the token {id} that begins or ends a text is not in the vocabulary"));
            }
        }

        let bpe = BpeBuilder::new().vocab_and_merges(parts.vocab, parts.merges).ignore_merges(parts.ignore_merges);
        let bpe = bpe.build().map_err(|e| format!("model: {e}"))?;
        let nfc = parts.nfc.then_some(NFC);
        let mut added = AddedVocabulary::new();
        added.add_tokens(parts.added.into_iter().map(|(_, token)| token), &bpe, nfc.as_ref()).map_err(|e| format!("added_tokens: {e}"))?;
        let mut added_plain = added.clone();
        added_plain.set_encode_special_tokens(true);
        Ok(Tokenizer { bpe, added, added_plain, nfc, splitter: parts.splitter, prefix: parts.prefix, suffix: parts.suffix, table })
    }

    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, String> {
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        if options.add_special {
            ids.extend(&self.prefix);
        }
        let added = if options.parse_special { &self.added } else { &self.added_plain };
        // NFC leaves ASCII alone.
        let nfc = self.nfc.as_ref().filter(|_| !text.is_ascii());
        let pieces = added.extract_and_normalize(nfc, text);
        for (piece, _, tokens) in pieces.get_splits(OffsetReferential::Original, OffsetType::None) {
            match tokens {
                Some(tokens) => ids.extend(tokens.iter().map(|t| t.id)),
                None => self.encode_words(piece, &mut ids)?,
            }
        }
        if options.add_special {
            ids.extend(&self.suffix);
        }
        Ok(ids)
    }

    fn encode_words(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        let mut characters = String::new();
        let mut failure = None;
        self.splitter.for_each_word(text, |word| {
            byte_level::encode(word, &mut characters);
            match self.bpe.tokenize(&characters) {
                Ok(tokens) => ids.extend(tokens.iter().map(|t| t.id)),
                Err(e) => failure = Some(e.to_string()),
            }
        });
        failure.map_or(Ok(()), Err)
    }

    /// The id of a token by its text as people write it (`<think>`, ` the`), not in the byte-level alphabet.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.added.get_vocab().get(text).copied().or_else(|| {
            let mut characters = String::new();
            byte_level::encode(text, &mut characters);
            self.bpe.token_to_id(&characters)
        })
    }
}

/// Every byte must be a token: then every text can be encoded, and there is no unknown token.
fn check_alphabet(vocab: &Vocab) -> Result<(), String> {
    match (0..=255u8).find(|b| !vocab.contains_key(byte_level::char_of(*b).encode_utf8(&mut [0; 4]) as &str)) {
        Some(byte) => Err(format!("model.vocab has no token for the byte 0x{byte:02X}: expected a byte-level BPE vocabulary with all 256")),
        None => Ok(()),
    }
}

fn check_merges(vocab: &Vocab, merges: &[(String, String)]) -> Result<(), String> {
    let mut joined = String::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if let Some(missing) = [left, right, &joined].into_iter().find(|token| !vocab.contains_key(*token)) {
            return Err(format!("merge {rank} ({left:?} {right:?}): {missing:?} is not in the vocabulary"));
        }
    }
    Ok(())
}

/// Two tokens must not share an id.
fn check_ids(vocab: &Vocab, table: &TokenTable) -> Result<(), String> {
    let num_tokens = (0..table.num_ids() as u32).filter(|id| table.get(*id).1 != TokenKind::None).count();
    if num_tokens != vocab.len() {
        return Err(format!("{} tokens share {num_tokens} ids: every token needs its own, below {MAX_TOKENS}", vocab.len()));
    }
    Ok(())
}
