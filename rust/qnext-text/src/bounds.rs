//! Bounds on the values that a template builds. Fuel bounds the work of the template itself, but printing, comparing and freeing
//! a value recurse into it, and a small value that holds another one many times prints as a huge text.

use std::fmt::{self, Write};

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

/// JSON nests at most 128 deep (serde_json), and a template adds little to it.
const MAX_DEPTH: usize = 200;
/// What one container may print as.
const MAX_PRINTED_BYTES: usize = 64 << 20;

/// A value that `{% set %}` stores under a name.
pub fn bounded_value(state: &mut State, value: Value) -> Result<Value, Error> {
    if !is_namespace(&value) {
        check(state, &value, 0)?;
    }
    Ok(value)
}

/// A value that `{% set %}` stores in a namespace, which must not come to hold itself.
pub fn bounded_member(state: &mut State, value: Value) -> Result<Value, Error> {
    check(state, &value, 0)?;
    Ok(value)
}

fn check(state: &State, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(too_large(format!("the template nests a value more than {MAX_DEPTH} deep")));
    }
    if is_namespace(value) {
        return Err(too_large("the template stores a namespace in a value".to_string()));
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()? {
                state.consume_fuel(1)?;
                check(state, &item, depth + 1)?;
            }
        }
        ValueKind::Map => {
            for key in value.try_iter()? {
                state.consume_fuel(1)?;
                check(state, &value.get_item(&key)?, depth + 1)?;
            }
        }
        _ => (),
    }
    Ok(())
}

fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

fn too_large(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

/// str(x) of a container, at most MAX_PRINTED_BYTES; the text is paid for in fuel.
pub fn print_container(state: &State, value: &Value) -> Result<String, Error> {
    let mut out = BoundedText::default();
    if write!(out, "{value}").is_err() {
        return Err(too_large(format!("a value prints as more than {MAX_PRINTED_BYTES} bytes")));
    }
    state.consume_fuel(out.text.len() as u64 / 4)?;
    Ok(out.text)
}

#[derive(Default)]
struct BoundedText {
    text: String,
}

impl Write for BoundedText {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        if self.text.len() + piece.len() > MAX_PRINTED_BYTES {
            return Err(fmt::Error);
        }
        self.text.push_str(piece);
        Ok(())
    }
}
