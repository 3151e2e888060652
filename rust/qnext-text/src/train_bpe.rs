//! Trains a tokenizer of the Qwen family's form (byte-level BPE, NFC, its word pattern) on texts that come one by one.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use tokenizers::models::bpe::{BpeTrainer, BPE};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::{NormalizedString, Normalizer, Trainer};

use crate::byte_level;
use crate::split::Splitter;

const NUM_BYTES: usize = 256;
const MAX_VOCAB: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// With the 256 bytes and the added tokens.
    vocab_size: usize,
    /// Their ids follow the words', in this order.
    added: Vec<Added>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Added {
    content: String,
    special: bool,
}

/// The words of all texts so far, in the byte-level alphabet.
pub struct WordCounts {
    splitter: Splitter,
    counts: BTreeMap<String, usize>,
}

impl WordCounts {
    pub fn new() -> WordCounts {
        WordCounts { splitter: Splitter::from_name("qwen2").expect("our own name"), counts: BTreeMap::new() }
    }

    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let mut normalized = NormalizedString::from(text);
        NFC.normalize(&mut normalized).map_err(|e| e.to_string())?;
        let mut word = String::new();
        self.splitter.for_each_word(normalized.get(), |w| {
            byte_level::encode(w, &mut word);
            match self.counts.get_mut(&word) {
                Some(count) => *count += 1,
                None => drop(self.counts.insert(word.clone(), 1)),
            }
        });
        Ok(())
    }

    /// The text of a tokenizer.json. It has fewer tokens than were asked for where the texts have no more pairs.
    pub fn train(&self, options: &Options) -> Result<String, String> {
        let least = NUM_BYTES + options.added.len();
        if options.vocab_size < least || options.vocab_size > MAX_VOCAB {
            return Err(format!(
                "vocab_size: expected {least} (256 bytes, {} added) to {MAX_VOCAB}, found {}",
                options.added.len(),
                options.vocab_size
            ));
        }
        let mut trainer = BpeTrainer::builder()
            .vocab_size(options.vocab_size - options.added.len())
            .min_frequency(2)
            .show_progress(false)
            .initial_alphabet((0..=255u8).map(byte_level::char_of).collect())
            .build();
        // feed() counts by itself: each word as often as it came.
        let repeated = |word: &str| Ok(vec![word.to_string(); self.counts[word]]);
        trainer.feed(self.counts.keys(), repeated).map_err(|e| e.to_string())?;
        let mut bpe = BPE::default();
        trainer.train(&mut bpe).map_err(|e| e.to_string())?;
        let first_added = bpe.get_vocab().len();
        let added: Vec<_> = options.added.iter().enumerate().map(|(i, token)| added_json(first_added + i, token)).collect();
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let split = json!({"type": "Split", "pattern": {"Regex": self.splitter.pattern()}, "behavior": "Isolated", "invert": false});
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "post_processor": byte_level, "decoder": byte_level, "model": bpe,
        });
        serde_json::to_string_pretty(&file).map_err(|e| e.to_string())
    }
}

fn added_json(id: usize, token: &Added) -> serde_json::Value {
    json!({"id": id, "content": token.content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
           "special": token.special})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{tokenizer::EncodeOptions, tokenizer::Tokenizer, tokenizer_json};

    fn train(texts: &[&str], vocab_size: usize) -> Result<String, String> {
        let mut counts = WordCounts::new();
        for text in texts {
            counts.add(text).unwrap();
        }
        let added = vec![Added { content: "<|end|>".into(), special: true }, Added { content: "<think>".into(), special: false }];
        counts.train(&Options { vocab_size, added })
    }

    #[test]
    fn common_words_become_tokens_and_any_text_comes_back() {
        let texts = ["the river ran to the river's mouth, and the river 42 42", "the river was wide; the river was deep"];
        let json = train(&texts, 270).unwrap();
        assert_eq!(json, train(&texts, 270).unwrap());
        let tokenizer = Tokenizer::new(tokenizer_json::parse(&json).unwrap()).unwrap();
        assert_eq!(tokenizer.table.num_ids(), 270);
        let options = || EncodeOptions { add_special: false, parse_special: true };
        assert_eq!(tokenizer.encode(" river", options()).unwrap().len(), 1);
        assert_eq!(tokenizer.encode("42", options()).unwrap().len(), 2); // digits stay alone
        assert_eq!(tokenizer.encode("<|end|><think>", options()).unwrap(), [268, 269]);
        for text in ["never seen: Ünïcode 中文 🦀\n\n\t x", "the river"] {
            let ids = tokenizer.encode(text, options()).unwrap();
            assert_eq!(ids.iter().flat_map(|id| tokenizer.table.get(*id).0.to_vec()).collect::<Vec<_>>(), text.as_bytes());
        }
    }

    #[test]
    fn few_texts_make_few_tokens_and_a_size_that_cannot_be_is_named() {
        let json = train(&["ab ab"], 5000).unwrap();
        assert!(tokenizer_json::parse(&json).is_ok());
        assert!(train(&["ab"], 257).unwrap_err().contains("vocab_size: expected 258"));
    }
}
