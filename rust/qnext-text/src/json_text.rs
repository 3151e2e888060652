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
    let mut writer = Writer { state, style, out: String::new() };
    writer.write(value, 0)?;
    // Walking a value costs more than copying bytes; minijinja's own tojson charges the same.
    state.consume_fuel(writer.out.len() as u64 / 4)?;
    Ok(Value::from(writer.out))
}

fn failed(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {what}"))
}

struct Writer<'a, 'state, 'env> {
    state: &'a State<'state, 'env>,
    style: Style,
    out: String,
}

impl Writer<'_, '_, '_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        // Now and not at the end: a value that holds another one many times over is larger than what was paid for it.
        self.state.consume_fuel(4)?;
        if depth > MAX_DEPTH {
            return Err(failed(format!("the value is nested more than {MAX_DEPTH} deep")));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)?),
            ValueKind::String => self.write_text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.map(|item| (None, item)).collect();
                self.write_items(items, depth, ['[', ']'])?;
            }
            ValueKind::Map => {
                let mut items: Vec<(Option<String>, Value)> = vec![];
                for key in value.try_iter()? {
                    items.push((Some(key_text(&key)?), value.get_item(&key)?));
                }
                if self.style.sort_keys {
                    items.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.write_items(items, depth, ['{', '}'])?;
            }
            other => return Err(failed(format!("{other} is not JSON serializable"))),
        }
        Ok(())
    }

    fn write_items(&mut self, items: Vec<(Option<String>, Value)>, depth: usize, brackets: [char; 2]) -> Result<(), Error> {
        self.out.push(brackets[0]);
        let empty = items.is_empty();
        for (item_idx, (key, item)) in items.into_iter().enumerate() {
            if item_idx > 0 {
                self.out.push_str(&self.style.item_separator);
            }
            self.new_line(depth + 1);
            if let Some(key) = key {
                self.write_text(&key);
                self.out.push_str(&self.style.key_separator);
            }
            self.write(&item, depth + 1)?;
        }
        if !empty {
            self.new_line(depth);
        }
        self.out.push(brackets[1]);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.style.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    /// Escapes as json.encoder's py_encode_basestring(_ascii) does.
    fn write_text(&mut self, text: &str) {
        use std::fmt::Write;
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.style.ensure_ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
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
