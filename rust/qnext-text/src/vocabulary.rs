//! The vocabulary as a GGUF file has it (`tokenizer.ggml.*`), both ways, as JSON: {"pre", "tokens", "types", "merges", ...}.
//! What is written is what llama.cpp's converter writes from the same tokenizer.json
//! (conversion/base.py, get_vocab_base and does_token_look_special; gguf-py/gguf/vocab.py, merges).

use serde::{Deserialize, Serialize};
use tokenizers::models::bpe::Vocab;
use tokenizers::{AddedToken, Model};

use crate::split::Splitter;
use crate::token_table::{TokenKind, MAX_TOKENS};
use crate::tokenizer::{EncodeOptions, Parts, Tokenizer};
use crate::tokenizer_json::split_merge;

// tokenizer.ggml.token_type
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

#[derive(Deserialize)]
struct Input {
    pre: String,
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<String>,
    /// The id to begin a text with, when the file says add_bos_token.
    begin_id: Option<u32>,
}

#[derive(Serialize)]
struct Output {
    pre: &'static str,
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<String>,
}

pub fn parse(json: &str) -> Result<Parts, String> {
    let input: Input = serde_json::from_str(json).map_err(|e| e.to_string())?;
    if input.types.len() != input.tokens.len() {
        return Err(format!("token_type: expected one entry a token ({}), found {}", input.tokens.len(), input.types.len()));
    }
    let mut vocab = Vocab::default();
    let mut added = vec![];
    for (id, (token, kind)) in input.tokens.into_iter().zip(input.types).enumerate() {
        let id = u32::try_from(id).unwrap_or(u32::MAX);
        match kind {
            NORMAL => {
                if let Some(other) = vocab.insert(token, id) {
                    return Err(format!("tokens[{id}]: the same text as tokens[{other}]"));
                }
            }
            // Not normalized: matched in the text as it was written, as llama.cpp does.
            CONTROL | USER_DEFINED if !token.is_empty() => added.push((id, AddedToken::from(token, kind == CONTROL).normalized(false))),
            UNUSED | CONTROL | USER_DEFINED => (),
            _ => return Err(format!("token_type[{id}]: expected 1, 3, 4 or 5 in a byte-level BPE vocabulary, found {kind}")),
        }
    }
    Ok(Parts {
        splitter: Splitter::from_name(&input.pre)?,
        nfc: true,
        vocab,
        merges: input.merges.iter().map(|m| split_merge(m)).collect::<Result<_, _>>()?,
        added,
        ignore_merges: false,
        prefix: input.begin_id.into_iter().collect(),
        suffix: vec![],
    })
}

/// `num_ids` is the model's vocabulary, which may be larger than the tokenizer's: the rest is padding.
pub fn to_json(tokenizer: &Tokenizer, num_ids: usize) -> Result<String, String> {
    let num_tokens = tokenizer.table.num_ids();
    if num_ids < num_tokens || num_ids > MAX_TOKENS as usize {
        return Err(format!("a vocabulary of {num_ids} tokens was asked for: expected {num_tokens} (the tokenizer's) to {MAX_TOKENS}"));
    }
    let (mut tokens, mut types) = (Vec::with_capacity(num_ids), Vec::with_capacity(num_ids));
    for id in 0..num_ids as u32 {
        let (token, kind) = ggml_token(tokenizer, id)?;
        tokens.push(token);
        types.push(kind);
    }
    let output = Output { pre: tokenizer.splitter.name(), tokens, types, merges: merges_of(tokenizer)? };
    serde_json::to_string(&output).map_err(|e| e.to_string())
}

fn ggml_token(tokenizer: &Tokenizer, id: u32) -> Result<(String, i32), String> {
    match tokenizer.table.get(id).1 {
        TokenKind::None => Ok((format!("[PAD{id}]"), UNUSED)),
        TokenKind::Normal => Ok((tokenizer.bpe.id_to_token(id).unwrap_or_default(), NORMAL)),
        TokenKind::Special | TokenKind::Added => {
            let token = &tokenizer.added.get_added_tokens_decoder()[&id];
            let text = if token.normalized { token.content.clone() } else { round_trip(tokenizer, &token.content)? };
            if token.special || looks_special(&text) {
                Ok((text, CONTROL))
            } else {
                Ok((text.replace('\u{2581}', " "), USER_DEFINED))
            }
        }
    }
}

/// What the token's text comes back as.
fn round_trip(tokenizer: &Tokenizer, text: &str) -> Result<String, String> {
    let ids = tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: true })?;
    let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.table.get(*id).0).copied().collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn looks_special(text: &str) -> bool {
    let between = |open: &str, close: &str| text.starts_with(open) && text.ends_with(close);
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]") || between("<|", "|>") || between("<｜", "｜>") || between("<unused", ">")
}

/// "left right" in order of rank; the crate gives its merges out only by serialising the model.
fn merges_of(tokenizer: &Tokenizer) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Model {
        merges: Vec<[String; 2]>,
    }
    let json = serde_json::to_string(&tokenizer.bpe).map_err(|e| e.to_string())?;
    let model: Model = serde_json::from_str(&json).map_err(|e| e.to_string())?;
    // A space cannot be in a GGUF's merge: it is written as its byte-level character.
    Ok(model.merges.into_iter().map(|pair| pair.map(|part| part.replace(' ', "Ġ")).join(" ")).collect())
}
