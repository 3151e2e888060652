//! Grammars that constrain generation, through llguidance: a factory per tokenizer, a matcher per request.

use std::sync::Arc;

use llguidance::api::{GrammarInit, TopLevelGrammar};
use llguidance::earley::lexerspec::LexerSpec;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};

use crate::token_table::TokenKind;
use crate::tokenizer::{EncodeOptions, Tokenizer};

/// A grammar's text; the largest real schemas have a few hundred kilobytes.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// Longer tokens are left out of masks: llguidance keeps a fixed stack a byte deep.
const MAX_TOKEN_BYTES: usize = 256;

/// The numbers are those of `QnGrammarKind` in qnext_text.h.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum GrammarKind {
    JsonSchema = 0,
    JsonObject = 1,
    Regex = 2,
    Choice = 3,
    Lark = 4,
}

impl GrammarKind {
    pub fn from_number(number: u32) -> Result<GrammarKind, String> {
        Ok(match number {
            0 => GrammarKind::JsonSchema,
            1 => GrammarKind::JsonObject,
            2 => GrammarKind::Regex,
            3 => GrammarKind::Choice,
            4 => GrammarKind::Lark,
            _ => return Err(format!("grammar kind {number} is unknown")),
        })
    }
}

/// What llguidance wants to know of a tokenizer.
struct Environment {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// How the tokenizer itself would write forced bytes; where that is no text to a grammar, the longest tokens.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            let options = EncodeOptions { add_special: false, parse_special: false };
            let ids = self.tokenizer.encode(text, options).unwrap_or_default();
            // By the tree's words: there an added token is not the text that spells it.
            let same = ids.iter().flat_map(|id| self.trie.token(*id)).eq(text.as_bytes());
            if same {
                ids
            } else {
                self.trie.greedy_tokenize(text.as_bytes())
            }
        })
    }
}

pub struct Factory {
    parsers: ParserFactory,
    num_ids: usize,
}

/// Between two tokens of JSON a model may write blanks for ever, each of them allowed: 64 are enough to indent.
fn bound_whitespace(mut schema: serde_json::Value) -> serde_json::Value {
    if let Some(object) = schema.as_object_mut() {
        let options = serde_json::json!({"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,64}"});
        object.entry("x-guidance").or_insert(options);
    }
    schema
}

impl Factory {
    /// `end_ids` end a text: they are allowed where the grammar may stop. `num_ids` is the model's vocabulary.
    pub fn new(tokenizer: Arc<Tokenizer>, end_ids: &[u32], num_ids: usize) -> Result<Factory, String> {
        let num_tokens = tokenizer.table.num_ids();
        if num_ids < num_tokens || num_ids >= 1 << 24 {
            return Err(format!("a mask over {num_ids} tokens was asked for: expected at least the tokenizer's {num_tokens}"));
        }
        if let Some(id) = end_ids.iter().find(|id| **id as usize >= num_ids) {
            return Err(format!("end-of-text token {id} is outside of the vocabulary of {num_ids}"));
        }
        let first_end = *end_ids.first().ok_or("a grammar needs at least one end-of-text token")?;
        let words: Vec<Vec<u8>> = (0..num_ids as u32).map(|id| trie_word(&tokenizer, id)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(num_ids as u32, first_end), &words).with_eos_tokens(end_ids);
        let environment: TokEnv = Arc::new(Environment { tokenizer, trie });
        let slices = SlicedBiasComputer::general_slices();
        let mut parsers = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices).map_err(|e| e.to_string())?;
        parsers.quiet();
        // Errors go to the user; the parser's state and the grammar's dump do not.
        parsers.limits_mut().verbose_errors = false;
        Ok(Factory { parsers, num_ids })
    }

    pub fn matcher(&self, kind: GrammarKind, text: &str) -> Result<ConstrainedText, String> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(format!("the grammar has {} bytes: expected at most {MAX_TEXT_BYTES}", text.len()));
        }
        let grammar = match kind {
            GrammarKind::JsonSchema => {
                let schema = serde_json::from_str(text).map_err(|e| format!("the schema is not JSON: {e}"))?;
                TopLevelGrammar::from_json_schema(bound_whitespace(schema))
            }
            GrammarKind::JsonObject => TopLevelGrammar::from_json_schema(bound_whitespace(serde_json::json!({"type": "object"}))),
            GrammarKind::Regex => TopLevelGrammar::from_regex(text),
            GrammarKind::Choice => TopLevelGrammar::from_regex(&one_of(text)?),
            GrammarKind::Lark => TopLevelGrammar::from_lark(text.to_string()),
        };
        let environment = Some(self.parsers.tok_env().clone());
        let compiled = GrammarInit::Serialized(grammar).to_internal(environment, self.parsers.limits().clone());
        let (grammar, lexer) = compiled.map_err(|e| clean(&e.to_string()))?;
        self.rehearse_first_byte(&lexer)?;
        let matcher = Matcher::new(self.parsers.create_parser_from_init_default(GrammarInit::Internal(grammar, lexer)));
        match matcher.get_error() {
            Some(error) => Err(clean(&error)),
            None => Ok(ConstrainedText { matcher, num_ids: self.num_ids }),
        }
    }
}

impl Factory {
    /// llguidance 1.9.1 builds a parser by trying every first byte before it sets a limit, so that a lexeme such as a number
    /// that is a multipleOf 99999989 takes all of the memory. The same work under the limit comes first.
    fn rehearse_first_byte(&self, lexer: &LexerSpec) -> Result<(), String> {
        let mut limits = self.parsers.limits().clone();
        let mut lexemes = lexer.to_regex_vec(&mut limits).map_err(|e| clean(&e.to_string()))?;
        lexemes.set_fuel(limits.initial_lexer_fuel);
        let start = lexemes.initial_state(&lexer.all_lexemes());
        for byte in 0..=u8::MAX {
            lexemes.transition(start, byte);
            if let Some(error) = lexemes.get_error() {
                return Err(format!("the grammar is too large: {error}"));
            }
        }
        Ok(())
    }
}

/// Added tokens are not text to a grammar: a JSON string may spell `<think>`, but not with the token.
fn trie_word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let (bytes, kind) = tokenizer.table.get(id);
    match kind {
        _ if bytes.len() > MAX_TOKEN_BYTES => vec![],
        TokenKind::None => vec![],
        TokenKind::Normal => bytes.to_vec(),
        TokenKind::Special | TokenKind::Added => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
    }
}

/// A regular expression for a JSON list of texts.
fn one_of(json: &str) -> Result<String, String> {
    let choices: Vec<String> = serde_json::from_str(json).map_err(|e| format!("the choices are not a JSON list of texts: {e}"))?;
    if choices.is_empty() {
        return Err("the list of choices is empty: expected at least one".to_string());
    }
    Ok(choices.iter().map(|c| regex::escape(c)).collect::<Vec<_>>().join("|"))
}

/// llguidance's message without what it adds for its own developers.
fn clean(error: &str) -> String {
    let end = error.find("\n<").unwrap_or(error.len());
    error[..end].trim().to_string()
}

/// One text that is being generated under a grammar.
pub struct ConstrainedText {
    matcher: Matcher,
    num_ids: usize,
}

impl ConstrainedText {
    /// Bit i of `mask` (little end first) is set when token i may come next; at the end of the grammar, only end tokens may.
    pub fn mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        let num_words = self.num_ids.div_ceil(32);
        if mask.len() != num_words {
            return Err(format!("the mask has {} words: expected {num_words}", mask.len()));
        }
        let allowed = self.matcher.compute_mask_or_eos().map_err(|e| clean(&e.to_string()))?;
        mask.copy_from_slice(&allowed.as_slice()[..num_words]);
        Ok(())
    }

    /// How many of `ids` the grammar takes, from the first; those become part of the text.
    pub fn accept(&mut self, ids: &[u32]) -> Result<usize, String> {
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.num_ids) {
            return Err(format!("token {id} is outside of the vocabulary of {}", self.num_ids));
        }
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return Ok(0);
        }
        self.matcher.try_consume_tokens(ids).map_err(|e| clean(&e.to_string()))
    }

    pub fn rollback(&mut self, num_tokens: usize) -> Result<(), String> {
        self.matcher.rollback(num_tokens).map_err(|e| clean(&e.to_string()))
    }

    pub fn is_accepting(&mut self) -> Result<bool, String> {
        self.matcher.is_accepting().map_err(|e| clean(&e.to_string()))
    }

    /// Nothing but an end token can follow.
    pub fn is_stopped(&self) -> bool {
        self.matcher.is_stopped()
    }
}
