//! Tokenizers, chat templates and grammars, behind the C ABI that `src/text/qnext_text.h` documents.
//!
//! The modules named `*_abi` hold every `extern "C"` function and all of the unsafe code; the others are plain Rust.

mod abi;
mod bounds;
mod byte_level;
mod grammar;
mod grammar_abi;
mod json_text;
mod python;
mod python_str;
mod split;
mod template;
mod template_abi;
mod template_source;
mod token_table;
mod tokenizer;
mod tokenizer_abi;
mod tokenizer_json;
mod train_bpe;
mod train_bpe_abi;
mod vocabulary;
