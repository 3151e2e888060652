//! tokenizer.json, as Hugging Face's `tokenizers` writes it, for the tokenizers that the Qwen family has:
//! byte-level BPE, NFC or no normalizer, one of the known word patterns. Anything else is an error that says so.

use std::fmt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokenizers::models::bpe::Vocab;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{AddedToken, Encoding, PostProcessor, Token};

use crate::split::Splitter;
use crate::tokenizer::Parts;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<FileToken>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<Value>,
    model: FileModel,
}

#[derive(Deserialize)]
struct FileToken {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
struct FileModel {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    ignore_merges: bool,
    vocab: Vocab,
    merges: Vec<Merge>,
}

/// "a b" in older files, ["a", "b"] in newer ones.
struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Merge, D::Error> {
        struct MergeVisitor;
        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = Merge;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("a merge: \"left right\" or [\"left\", \"right\"]")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merge, E> {
                split_merge(text).map(|(left, right)| Merge(left, right)).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let missing = || A::Error::custom("a merge needs two tokens");
                let left = seq.next_element()?.ok_or_else(missing)?;
                let right = seq.next_element()?.ok_or_else(missing)?;
                match seq.next_element::<String>()? {
                    None => Ok(Merge(left, right)),
                    Some(_) => Err(A::Error::custom("a merge has more than two tokens")),
                }
            }
        }
        deserializer.deserialize_any(MergeVisitor)
    }
}

/// "left right": the byte-level alphabet has no space, so there is exactly one.
pub fn split_merge(text: &str) -> Result<(String, String), String> {
    match text.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left.to_string(), right.to_string())),
        _ => Err(format!("merge {text:?}: expected two tokens with one space between them")),
    }
}

pub fn parse(json: &str) -> Result<Parts, String> {
    let file: File = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let model = file.model;
    require(model.kind.as_deref().is_none_or(|k| k == "BPE"), "model.type", "\"BPE\"", &model.kind)?;
    require(model.dropout.is_none_or(|d| d == 0.0), "model.dropout", "null", &model.dropout)?;
    for (field, affix) in
        [("model.continuing_subword_prefix", &model.continuing_subword_prefix), ("model.end_of_word_suffix", &model.end_of_word_suffix)]
    {
        require(affix.as_deref().is_none_or(str::is_empty), field, "null", affix)?;
    }
    let normalizer = kind_of(file.normalizer.as_ref());
    require(matches!(normalizer, None | Some("NFC")), "normalizer", "NFC or null", &file.normalizer)?;
    require(kind_of(file.decoder.as_ref()) == Some("ByteLevel"), "decoder", "ByteLevel", &file.decoder)?;
    let (prefix, suffix) = match &file.post_processor {
        Some(processor) => around_text(processor).map_err(|e| format!("post_processor: {e}"))?,
        None => Default::default(),
    };
    Ok(Parts {
        splitter: parse_pre_tokenizer(file.pre_tokenizer.as_ref())?,
        nfc: normalizer.is_some(),
        vocab: model.vocab,
        merges: model.merges.into_iter().map(|Merge(left, right)| (left, right)).collect(),
        added: file.added_tokens.into_iter().filter(|t| !t.token.content.is_empty()).map(|t| (t.id, t.token)).collect(),
        ignore_merges: model.ignore_merges,
        prefix,
        suffix,
    })
}

fn require(fine: bool, field: &str, expected: &str, found: &impl fmt::Debug) -> Result<(), String> {
    if fine {
        return Ok(());
    }
    let mut found = format!("{found:?}");
    if let Some((cut, _)) = found.char_indices().nth(200) {
        found.truncate(cut);
    }
    Err(format!("{field}: expected {expected}, found {found}"))
}

fn kind_of(component: Option<&Value>) -> Option<&str> {
    component?.get("type").and_then(Value::as_str)
}

/// Sequence [Split by the family's pattern, ByteLevel without a pattern of its own].
fn parse_pre_tokenizer(component: Option<&Value>) -> Result<Splitter, String> {
    let steps = component.and_then(|c| c.get("pretokenizers")).and_then(Value::as_array);
    let [split, byte_level] = steps.map(Vec::as_slice).unwrap_or_default() else {
        return Err("pre_tokenizer: expected a Sequence of Split and ByteLevel, as the Qwen family has".to_string());
    };
    let pattern = split.pointer("/pattern/Regex").and_then(Value::as_str);
    let isolated = split.get("behavior").and_then(Value::as_str) == Some("Isolated");
    require(kind_of(Some(split)) == Some("Split") && isolated, "pre_tokenizer.pretokenizers[0]", "Split, Isolated", split)?;
    let flag = |name| byte_level.get(name).and_then(Value::as_bool);
    let plain = flag("add_prefix_space") == Some(false) && flag("use_regex") == Some(false);
    require(
        kind_of(Some(byte_level)) == Some("ByteLevel") && plain,
        "pre_tokenizer.pretokenizers[1]",
        "ByteLevel without a prefix space and a pattern",
        byte_level,
    )?;
    Splitter::from_pattern(pattern.unwrap_or_default()).map_err(|e| format!("pre_tokenizer: {e}"))
}

/// The ids that the post-processor puts before and after a text, learnt from what it does to one token.
fn around_text(processor: &PostProcessorWrapper) -> Result<(Vec<u32>, Vec<u32>), String> {
    let probe = Encoding::from_tokens(vec![Token::new(0, String::new(), (0, 0))], 0);
    let whole = processor.process(probe, None, true).map_err(|e| e.to_string())?;
    let mask = whole.get_special_tokens_mask();
    let text_at = mask.iter().position(|m| *m == 0).ok_or("it drops the text itself")?;
    Ok((whole.get_ids()[..text_at].to_vec(), whole.get_ids()[text_at + 1..].to_vec()))
}
