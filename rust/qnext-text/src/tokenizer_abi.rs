//! The tokenizer's part of qnext_text.h, which documents each function.

use std::sync::Arc;

use crate::abi::{give, guard, slice, take_back, text, QnBytes};
use crate::tokenizer::{EncodeOptions, Tokenizer};
use crate::{tokenizer_json, vocabulary};

/// Shared: a grammar keeps its tokenizer alive.
pub struct QnTokenizer(pub Arc<Tokenizer>);

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_tokenizer_from_json(json: *const u8, num_bytes: usize, out: *mut *mut QnTokenizer) -> QnBytes {
    guard(|| {
        let parts = tokenizer_json::parse(text(json, num_bytes, "tokenizer.json")?)?;
        give(out, QnTokenizer(Arc::new(Tokenizer::new(parts)?)));
        Ok(())
    })
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_tokenizer_from_vocabulary(json: *const u8, num_bytes: usize, out: *mut *mut QnTokenizer) -> QnBytes {
    guard(|| {
        let parts = vocabulary::parse(text(json, num_bytes, "the vocabulary")?)?;
        give(out, QnTokenizer(Arc::new(Tokenizer::new(parts)?)));
        Ok(())
    })
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_tokenizer_free(tokenizer: *mut QnTokenizer) {
    take_back(tokenizer)
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_tokenizer_to_vocabulary(tokenizer: *const QnTokenizer, num_ids: usize, out: *mut QnBytes) -> QnBytes {
    guard(|| {
        *out = QnBytes::new(vocabulary::to_json(&(*tokenizer).0, num_ids)?.into_bytes());
        Ok(())
    })
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_tokenizer_num_ids(tokenizer: *const QnTokenizer) -> usize {
    let tokenizer = &*tokenizer;
    tokenizer.0.table.num_ids()
}

#[repr(C)]
pub struct QnToken {
    data: *const u8,
    num_bytes: usize,
    kind: u8,
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_tokenizer_token(tokenizer: *const QnTokenizer, id: u32) -> QnToken {
    let tokenizer = &*tokenizer;
    let (bytes, kind) = tokenizer.0.table.get(id);
    QnToken { data: bytes.as_ptr(), num_bytes: bytes.len(), kind: kind as u8 }
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_tokenizer_find(tokenizer: *const QnTokenizer, token: *const u8, num_bytes: usize, out: *mut u32) -> bool {
    let Ok(token) = std::str::from_utf8(slice(token, num_bytes)) else { return false };
    let tokenizer = &*tokenizer;
    match tokenizer.0.id_of(token) {
        Some(id) => {
            *out = id;
            true
        }
        None => false,
    }
}

#[repr(C)]
pub struct QnIds {
    data: *mut u32,
    count: usize,
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_ids_free(ids: QnIds) {
    if !ids.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(ids.data, ids.count)));
    }
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_tokenizer_encode(
    tokenizer: *const QnTokenizer,
    input: *const u8,
    num_bytes: usize,
    add_special: bool,
    parse_special: bool,
    out: *mut QnIds,
) -> QnBytes {
    guard(|| {
        let tokenizer = &*tokenizer;
        let ids = tokenizer.0.encode(text(input, num_bytes, "the text")?, EncodeOptions { add_special, parse_special })?;
        let boxed = ids.into_boxed_slice();
        let count = boxed.len();
        *out = QnIds { data: Box::into_raw(boxed) as *mut u32, count };
        Ok(())
    })
}
