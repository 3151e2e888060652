//! The tokenizer training's part of qnext_text.h, which documents each function.

use crate::abi::{give, guard, take_back, text, QnBytes};
use crate::train_bpe::{Options, WordCounts};

pub struct QnWordCounts(WordCounts);

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_word_counts_new(out: *mut *mut QnWordCounts) {
    give(out, QnWordCounts(WordCounts::new()))
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_word_counts_free(counts: *mut QnWordCounts) {
    take_back(counts)
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_word_counts_add(counts: *mut QnWordCounts, data: *const u8, num_bytes: usize) -> QnBytes {
    guard(|| (*counts).0.add(text(data, num_bytes, "the text")?))
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_word_counts_train(
    counts: *const QnWordCounts,
    options: *const u8,
    num_bytes: usize,
    out: *mut QnBytes,
) -> QnBytes {
    guard(|| {
        let options: Options = serde_json::from_str(text(options, num_bytes, "the options")?).map_err(|e| e.to_string())?;
        *out = QnBytes::new((*counts).0.train(&options)?.into_bytes());
        Ok(())
    })
}
