//! Chat templates: minijinja set up as transformers sets up jinja2 (utils/chat_template_utils.py, `_compile_jinja_template`):
//! trim_blocks, lstrip_blocks, loop controls, a plain `tojson`, raise_exception, strftime_now, and the `generation` tag.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, UndefinedBehavior, Value};

use crate::{json_text, python};

const NAME: &str = "chat_template";
/// A template is some kilobytes; the largest that we know has 20.
const MAX_SOURCE_BYTES: usize = 1 << 20;
/// About a second of work, and at most 512 MB of text made on the way; a conversation of a thousand messages needs 1% of it.
const FUEL: u64 = 8_000_000;

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
        environment.add_filter("tojson", json_text::tojson);
        environment.add_filter("string", python::string);
        environment.add_filter("trim", python::trim);
        environment.add_function("raise_exception", |message: Value| python::raise_exception(&message));
        environment.add_function("strftime_now", |format: &str| python::strftime_now(format));
        environment.add_template_owned(NAME, without_generation_tags(source)).map_err(describe)?;
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

/// `{% generation %}` marks the assistant's text for training and prints its body; minijinja does not know it.
/// A `with` block without variables is the same to a reader: the body, in a scope of its own.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = match rest.as_bytes().get(1) {
            Some(b'#') => rest.find("#}").map(|end| end + 2),
            Some(b'{') => end_of_code(rest, "}}"),
            Some(b'%') => end_of_code(rest, "%}"),
            _ => Some(1),
        };
        let tag = &rest[..end.unwrap_or(rest.len())];
        rest = &rest[tag.len()..];
        match tag_name(tag) {
            "generation" => out.push_str(&tag.replacen("generation", "with", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            "raw" => {
                // Nothing inside is code.
                let end = rest.match_indices("{%").map(|(at, _)| at).find(|at| tag_name(&rest[*at..]) == "endraw").unwrap_or(rest.len());
                out.push_str(tag);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            _ => out.push_str(tag),
        }
    }
    out + rest
}

/// The first word of `{%- word ...`, or nothing.
fn tag_name(tag: &str) -> &str {
    let Some(inner) = tag.strip_prefix("{%") else { return "" };
    let inner = inner.trim_start_matches(['-', '+']).trim_start();
    let end = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
    &inner[..end]
}

/// Where the code that begins `source` ends, after `close`, which does not count inside a string.
fn end_of_code(source: &str, close: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in source.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => (),
            None if c == '"' || c == '\'' => quote = Some(c),
            None if source[at..].starts_with(close) => return Some(at + close.len()),
            None => (),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_become_with_blocks() {
        let same = |text: &str| assert_eq!(without_generation_tags(text), text);
        assert_eq!(without_generation_tags("a{%- generation -%}b{% endgeneration%}c"), "a{%- with -%}b{% endwith%}c");
        same("{# {% generation %} #}");
        same("{{ '{% generation %}' }}");
        same("{{ \"\\\"}}{% generation %}\" }}");
        same("{% raw %}{% generation %}{% endraw %}");
        same("{% if generation %}{% endif %} { { {");
        assert_eq!(without_generation_tags("{% raw %}{{ {% endraw %}{% generation %}"), "{% raw %}{{ {% endraw %}{% with %}");
    }
}
