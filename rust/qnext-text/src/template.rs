//! Chat templates: minijinja set up as transformers sets up jinja2 (utils/chat_template_utils.py, `_compile_jinja_template`):
//! trim_blocks, lstrip_blocks, loop controls, a plain `tojson`, raise_exception, strftime_now, and the `generation` tag.
//!
//! What jinja2 has and this has not: `%` between texts, unary plus, `is callable`, lipsum, cycler, and the filters truncate, center,
//! wordcount and others for web pages. Such a template ends with an error that names the line. Texts and numbers compare
//! without an error.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, UndefinedBehavior, Value};
use minijinja_contrib::globals::joiner;

use crate::template_source::{self, BOUNDED_MEMBER, BOUNDED_VALUE};
use crate::{bounds, json_text, python};

const NAME: &str = "chat_template";
/// The largest template that we know has 20 KB.
const MAX_SOURCE_BYTES: usize = 256 << 10;
/// About a second of work, and at most 512 MB of text made on the way; a conversation of 1,000 messages and 840 KB needs 5%.
const FUEL: u64 = 8_000_000;
/// Blocks within blocks; a macro counts as four.
const MAX_RECURSION: usize = 200;

pub struct Template {
    environment: Environment<'static>,
}

/// A variable of the template.
pub struct Variable<'a> {
    pub name: &'a str,
    pub text: &'a str,
    pub kind: VariableKind,
}

/// The numbers are those of `QnVariableKind` in qnext_text.h.
#[derive(Clone, Copy)]
pub enum VariableKind {
    /// The text is the value.
    Text,
    /// The value as JSON.
    Json,
    /// A JSON object whose members become variables.
    Spread,
}

impl VariableKind {
    pub fn from_number(number: u8) -> Result<VariableKind, String> {
        match number {
            0 => Ok(VariableKind::Text),
            1 => Ok(VariableKind::Json),
            2 => Ok(VariableKind::Spread),
            _ => Err(format!("variable kind {number} is unknown")),
        }
    }
}

impl Template {
    pub fn parse(source: &str) -> Result<Template, String> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(format!("the template has {} bytes: expected at most {MAX_SOURCE_BYTES}", source.len()));
        }
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(describe)?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_formatter(python::print);
        environment.set_unknown_method_callback(python::call_method);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(MAX_RECURSION);
        environment.add_filter("tojson", json_text::tojson);
        environment.add_filter("string", python::string);
        environment.add_filter("trim", python::trim);
        environment.add_filter("e", python::escape);
        environment.add_filter("escape", python::escape);
        environment.add_test("iterable", python::is_iterable);
        environment.add_test("sequence", python::is_sequence);
        environment.add_function(BOUNDED_VALUE, bounds::bounded_value);
        environment.add_function(BOUNDED_MEMBER, bounds::bounded_member);
        environment.add_function("joiner", joiner);
        environment.add_function("raise_exception", |message: Value| python::raise_exception(&message));
        environment.add_function("strftime_now", |format: &str| python::strftime_now(format));
        environment.add_template_owned(NAME, template_source::rewrite(source)).map_err(describe)?;
        Ok(Template { environment })
    }

    pub fn render(&self, variables: &[Variable]) -> Result<String, String> {
        let mut values: BTreeMap<String, Value> = BTreeMap::new();
        for variable in variables {
            for (name, value) in members(variable)? {
                if values.contains_key(&name) {
                    return Err(format!("{}: \"{name}\" is already a variable of every template: use another name", variable.name));
                }
                values.insert(name, value);
            }
        }
        let template = self.environment.get_template(NAME).map_err(describe)?;
        template.render(Value::from_pairs(values)).map_err(describe)
    }
}

/// The variables that one input defines.
fn members(variable: &Variable) -> Result<Vec<(String, Value)>, String> {
    let parse = |text| serde_json::from_str::<Value>(text).map_err(|e| format!("{}: not JSON: {e}", variable.name));
    Ok(match variable.kind {
        VariableKind::Text => vec![(variable.name.to_string(), Value::from(variable.text))],
        VariableKind::Json => vec![(variable.name.to_string(), parse(variable.text)?)],
        VariableKind::Spread => {
            let object = parse(variable.text)?;
            if object.kind() != ValueKind::Map {
                return Err(format!("{}: expected a JSON object, found {}", variable.name, object.kind()));
            }
            let mut members = vec![];
            for name in object.try_iter().map_err(describe)? {
                let value = object.get_item(&name).map_err(describe)?;
                members.push((name.to_string(), value));
            }
            members
        }
    })
}

/// The error and what caused it, with the line in the template.
fn describe(error: Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}
