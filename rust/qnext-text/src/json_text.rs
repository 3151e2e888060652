//! json.dumps, as transformers' `tojson` filter calls it: nothing escaped for HTML, key order kept, Python's separators.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use crate::python::float_repr;

/// A template can nest a list in itself without bound; Python stops near 1,000.
const MAX_DEPTH: usize = 200;

struct Style {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False), the last two by name only.
/// Source: transformers/utils/chat_template_utils.py.
pub fn tojson(state: &State, value: &Value, ensure_ascii: Option<bool>, indent: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let indent = match indent.or(kwargs.get("indent")?) {
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_string),
        Some(width) if !width.is_none() => Some(" ".repeat(usize::try_from(width)?.min(64))),
        _ => None,
    };
    let (item_separator, key_separator) = match kwargs.get::<Option<Value>>("separators")?.filter(|s| !s.is_none()) {
        Some(pair) => (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()),
        None => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
    };
    let style = Style {
        ensure_ascii: ensure_ascii.or(kwargs.get("ensure_ascii")?).unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item_separator,
        key_separator,
    };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    write(&mut out, value, &style, 0)?;
    // Walking a value costs more than copying bytes; minijinja's own tojson charges the same.
    state.consume_fuel(out.len() as u64 / 4)?;
    Ok(Value::from(out))
}

fn failed(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {what}"))
}

fn write(out: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(failed(format!("the value is nested more than {MAX_DEPTH} deep")));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value)?),
        ValueKind::String => write_text(out, value.as_str().unwrap_or_default(), style.ensure_ascii),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.map(|item| (None, item)).collect();
            write_items(out, items, style, depth, ['[', ']'])?;
        }
        ValueKind::Map => {
            let mut items: Vec<(Option<String>, Value)> = vec![];
            for key in value.try_iter()? {
                items.push((Some(key_text(&key)?), value.get_item(&key)?));
            }
            if style.sort_keys {
                items.sort_by(|a, b| a.0.cmp(&b.0));
            }
            write_items(out, items, style, depth, ['{', '}'])?;
        }
        other => return Err(failed(format!("{other} is not JSON serializable"))),
    }
    Ok(())
}

fn number(value: &Value) -> Result<String, Error> {
    Ok(if value.is_integer() { value.to_string() } else { float_repr(f64::try_from(value.clone())?, ["NaN", "Infinity"]) })
}

fn key_text(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.to_string(),
        ValueKind::None => "null".to_string(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_string(),
        ValueKind::Number => number(key)?,
        other => return Err(failed(format!("a key must be text or a number, not {other}"))),
    })
}

fn write_items(
    out: &mut String,
    items: Vec<(Option<String>, Value)>,
    style: &Style,
    depth: usize,
    brackets: [char; 2],
) -> Result<(), Error> {
    let new_line = |out: &mut String, depth: usize| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    };
    out.push(brackets[0]);
    let empty = items.is_empty();
    for (item_idx, (key, item)) in items.into_iter().enumerate() {
        if item_idx > 0 {
            out.push_str(&style.item_separator);
        }
        new_line(out, depth + 1);
        if let Some(key) = key {
            write_text(out, &key, style.ensure_ascii);
            out.push_str(&style.key_separator);
        }
        write(out, &item, style, depth + 1)?;
    }
    if !empty {
        new_line(out, depth);
    }
    out.push(brackets[1]);
    Ok(())
}

/// Escapes as json.encoder's py_encode_basestring(_ascii) does.
fn write_text(out: &mut String, text: &str, ensure_ascii: bool) {
    use std::fmt::Write;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (ensure_ascii && c > '~') => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
