//! What crosses the C ABI: owned bytes, borrowed text, handles, and errors as text.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

/// Bytes that this crate allocated and `qn_bytes_free` frees. As an error: `data` null is success.
#[repr(C)]
pub struct QnBytes {
    data: *mut u8,
    num_bytes: usize,
}

impl QnBytes {
    pub const NONE: QnBytes = QnBytes { data: std::ptr::null_mut(), num_bytes: 0 };

    pub fn new(bytes: Vec<u8>) -> QnBytes {
        let boxed = bytes.into_boxed_slice();
        let num_bytes = boxed.len();
        QnBytes { data: Box::into_raw(boxed) as *mut u8, num_bytes }
    }
}

/// Frees bytes that this crate returned. Null is fine.
///
/// # Safety
/// `bytes` came from this crate and is freed once.
#[no_mangle]
pub unsafe extern "C" fn qn_bytes_free(bytes: QnBytes) {
    if !bytes.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(bytes.data, bytes.num_bytes)));
    }
}

/// Text or an array that the caller keeps for the length of the call.
///
/// # Safety
/// `data` points to `count` values, or `count` is 0.
pub unsafe fn slice<'a, T>(data: *const T, count: usize) -> &'a [T] {
    if count == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, count)
    }
}

/// The same as UTF-8; `what` names it in the error.
///
/// # Safety
/// As for `slice`.
pub unsafe fn text<'a>(data: *const u8, num_bytes: usize, what: &str) -> Result<&'a str, String> {
    std::str::from_utf8(slice(data, num_bytes)).map_err(|e| format!("{what} is not UTF-8: invalid byte at offset {}", e.valid_up_to()))
}

/// Moves a value to the heap for the caller.
///
/// # Safety
/// `out` is writable.
pub unsafe fn give<T>(out: *mut *mut T, value: T) {
    *out = Box::into_raw(Box::new(value));
}

/// Drops what `give` gave. Null is fine.
///
/// # Safety
/// `handle` came from `give` and is dropped once.
pub unsafe fn take_back<T>(handle: *mut T) {
    if !handle.is_null() {
        drop(Box::from_raw(handle));
    }
}

thread_local! {
    static PANIC_PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs one call: an error, or a panic of any crate below, becomes the text that the caller gets.
pub fn guard(call: impl FnOnce() -> Result<(), String>) -> QnBytes {
    // The default hook prints, and only src/apps prints; the place is kept for the error instead.
    static QUIET_HOOK: Once = Once::new();
    QUIET_HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
            PANIC_PLACE.with(|cell| *cell.borrow_mut() = place);
        }))
    });
    let message = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => return QnBytes::NONE,
        Ok(Err(message)) => message,
        Err(panic) => panic_message(&*panic),
    };
    QnBytes::new(if message.is_empty() { b"unknown error".to_vec() } else { message.into_bytes() })
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let what = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text.as_str(),
        _ => "no message",
    };
    let place = PANIC_PLACE.with(|cell| cell.borrow().clone());
    format!("the text library gave up ({what}, at {place}): the input is malformed in a way that it does not name")
}
