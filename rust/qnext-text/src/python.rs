//! What chat templates expect of Python: how numbers print, and the functions that transformers adds to its environment.

use std::ffi::CString;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Output, State, Value};

use crate::{bounds, python_str};

/// float.__repr__: the shortest digits that read back the same, with an exponent from 1e16 on and below 1e-4.
/// `special` spells not-a-number and infinity, which json.dumps and repr spell differently.
pub fn float_repr(value: f64, special: [&str; 2]) -> String {
    if value.is_nan() {
        return special[0].to_string();
    }
    if value.is_infinite() {
        return format!("{}{}", if value < 0.0 { "-" } else { "" }, special[1]);
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        return format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    let plain = value.to_string();
    if plain.contains('.') {
        plain
    } else {
        plain + ".0"
    }
}

/// str(x) where minijinja's text is not Python's (floats far from 1) or not bounded (containers).
fn text_of(state: &State, value: &Value) -> Result<Option<String>, Error> {
    match value.kind() {
        ValueKind::Number if !value.is_integer() => Ok(Some(float_repr(f64::try_from(value.clone())?, ["nan", "inf"]))),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => bounds::print_container(state, value).map(Some),
        _ => Ok(None),
    }
}

/// What `{{ x }}` prints.
pub fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match text_of(state, value)? {
        Some(text) => out.write_str(&text).map_err(Error::from),
        None => minijinja::escape_formatter(out, state, value),
    }
}

/// Methods of Python values; minijinja-contrib has the common ones.
pub fn call_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match value.as_str().and_then(|s| python_str::call(s, method, args)) {
        Some(result) => result,
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// The filter `string`: str(x).
pub fn string(state: &mut State, value: &Value) -> Result<Value, Error> {
    match text_of(state, value)? {
        Some(text) => Ok(Value::from(text)),
        None => minijinja::filters::string(state, value),
    }
}

/// The filter `trim`: str(x).strip(chars).
pub fn trim(state: &mut State, value: &Value, chars: Option<String>) -> Result<String, Error> {
    let text = text_of(state, value)?.unwrap_or_else(|| value.to_string());
    Ok(match chars {
        Some(chars) => text.trim_matches(|c| chars.contains(c)).to_string(),
        None => text.trim_matches(python_str::is_space).to_string(),
    })
}

/// The filter `escape`, spelt as markupsafe spells it.
pub fn escape(state: &mut State, value: &Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value.clone());
    }
    let text = text_of(state, value)?.unwrap_or_else(|| value.to_string());
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    Ok(Value::from_safe_string(out))
}

/// The test `iterable`: iter(x) works.
pub fn is_iterable(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}

/// The test `sequence`: len(x) works and it has items.
pub fn is_sequence(value: &Value) -> bool {
    is_iterable(value) && (value.kind() != ValueKind::Iterable || value.len().is_some())
}

pub fn raise_exception(message: &Value) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_string()))
}

/// datetime.now().strftime(format): local time.
pub fn strftime_now(format: &str) -> Result<String, Error> {
    let failed = |what| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {what}"));
    // An empty result is not told from a full buffer; the mark at the end makes every result non-empty.
    let c_format = CString::new(format!("{format}|")).map_err(|_| failed("the format has a zero byte"))?;
    let mut buffer = [0u8; 1024];
    // SAFETY: every pointer is to a local that outlives the calls, and strftime writes at most buffer.len() bytes.
    let num_bytes = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut fields: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&now, &mut fields).is_null() {
            return Err(failed("the clock has no local time"));
        }
        libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), c_format.as_ptr(), &fields)
    };
    match num_bytes {
        0 => Err(failed("the result is longer than 1,023 bytes")),
        _ => Ok(String::from_utf8_lossy(&buffer[..num_bytes - 1]).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_in_python() {
        // repr() of each in CPython 3.11.
        for (value, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (123456789.125, "123456789.125"),
            (5e-324, "5e-324"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(float_repr(value, ["nan", "inf"]), expected);
        }
    }

    #[test]
    fn strftime_refuses_what_it_cannot_do() {
        assert_eq!(strftime_now("").unwrap(), "");
        assert_eq!(strftime_now("%Y").unwrap().len(), 4);
        assert!(strftime_now("a\0b").is_err());
        assert!(strftime_now(&"%Y".repeat(1000)).is_err());
    }
}
