//! The grammar's part of qnext_text.h, which documents each function.

use std::sync::Arc;

use crate::abi::{give, guard, slice, take_back, text, QnBytes};
use crate::grammar::{ConstrainedText, Factory, GrammarKind};
use crate::tokenizer_abi::QnTokenizer;

pub struct QnGrammarFactory(Factory);
pub struct QnMatcher(ConstrainedText);

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_grammar_factory_new(
    tokenizer: *const QnTokenizer,
    end_ids: *const u32,
    num_end_ids: usize,
    num_ids: usize,
    out: *mut *mut QnGrammarFactory,
) -> QnBytes {
    guard(|| {
        give(out, QnGrammarFactory(Factory::new(Arc::clone(&(*tokenizer).0), slice(end_ids, num_end_ids), num_ids)?));
        Ok(())
    })
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_grammar_factory_free(factory: *mut QnGrammarFactory) {
    take_back(factory)
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_matcher_new(
    factory: *const QnGrammarFactory,
    kind: u32,
    grammar: *const u8,
    num_bytes: usize,
    out: *mut *mut QnMatcher,
) -> QnBytes {
    guard(|| {
        let grammar = text(grammar, num_bytes, "the grammar")?;
        give(out, QnMatcher((*factory).0.matcher(GrammarKind::from_number(kind)?, grammar)?));
        Ok(())
    })
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_matcher_free(matcher: *mut QnMatcher) {
    take_back(matcher)
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_matcher_mask(matcher: *mut QnMatcher, mask: *mut u32, num_words: usize) -> QnBytes {
    guard(|| (*matcher).0.mask(std::slice::from_raw_parts_mut(mask, num_words)))
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_matcher_accept(matcher: *mut QnMatcher, ids: *const u32, num_ids: usize, out: *mut usize) -> QnBytes {
    guard(|| {
        *out = (*matcher).0.accept(slice(ids, num_ids))?;
        Ok(())
    })
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_matcher_rollback(matcher: *mut QnMatcher, num_tokens: usize) -> QnBytes {
    guard(|| (*matcher).0.rollback(num_tokens))
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_matcher_is_accepting(matcher: *mut QnMatcher, out: *mut bool) -> QnBytes {
    guard(|| {
        *out = (*matcher).0.is_accepting()?;
        Ok(())
    })
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_matcher_is_stopped(matcher: *const QnMatcher) -> bool {
    (*matcher).0.is_stopped()
}
