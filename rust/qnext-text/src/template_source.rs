//! What is rewritten in a template's source before minijinja sees it.
//!
//! `{% generation %}` marks the assistant's text for training and prints its body; minijinja does not know it. A `with` block
//! without variables is the same to a reader: the body, in a scope of its own.
//!
//! `{% set x = value %}` becomes `{% set x = bounded_value((value)) %}`, which refuses values that are nested too deep (see
//! bounds.rs): a loop could otherwise nest a list in itself until printing or freeing it uses up the stack.

/// Functions of the environment that the rewritten source calls; no template has a name like these.
pub const BOUNDED_VALUE: &str = "__qn_bounded_value";
pub const BOUNDED_MEMBER: &str = "__qn_bounded_member";

pub fn rewrite(source: &str) -> String {
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
            "set" if end.is_some() => push_bounded_set(&mut out, tag),
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

/// `{% set target = value %}` with its value wrapped; `{% set target %}`, which begins a block, as it is.
fn push_bounded_set(out: &mut String, tag: &str) {
    let Some((equals, _)) = CodeScan::new(tag, 2).find(|(at, depth)| *depth == 0 && tag[*at..].starts_with('=')) else {
        return out.push_str(tag);
    };
    let value_end = tag.len() - "%}".len();
    let value_end = value_end - usize::from(tag[..value_end].ends_with(['-', '+']));
    let function = if tag[..equals].contains('.') { BOUNDED_MEMBER } else { BOUNDED_VALUE };
    if equals + 1 > value_end {
        return out.push_str(tag);
    }
    out.push_str(&tag[..=equals]);
    out.push_str(&format!(" {function}(({}))", &tag[equals + 1..value_end]));
    out.push_str(&tag[value_end..]);
}

/// Where the code that begins `source` ends, after `close`, which does not count inside a string.
fn end_of_code(source: &str, close: &str) -> Option<usize> {
    CodeScan::new(source, 2).map(|(at, _)| at).find(|at| source[*at..].starts_with(close)).map(|at| at + close.len())
}

/// The characters outside of strings, each with how many brackets are open there.
struct CodeScan<'a> {
    source: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> CodeScan<'a> {
    fn new(source: &'a str, begin: usize) -> CodeScan<'a> {
        CodeScan { source, at: begin, depth: 0 }
    }
}

impl Iterator for CodeScan<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        let mut c = self.source[self.at..].chars().next()?;
        while c == '"' || c == '\'' {
            self.at = end_of_string(self.source, self.at, c)?;
            c = self.source[self.at..].chars().next()?;
        }
        let at = self.at;
        self.at += c.len_utf8();
        match c {
            '(' | '[' | '{' => self.depth += 1,
            ')' | ']' | '}' => self.depth = self.depth.saturating_sub(1),
            _ => (),
        }
        Some((at, self.depth))
    }
}

/// Where the string that begins at `begin` ends, after its quote; none when it does not.
fn end_of_string(source: &str, begin: usize, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in source[begin + 1..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(begin + 1 + at + 1),
            _ => (),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(source: &str) {
        assert_eq!(rewrite(source), source);
    }

    #[test]
    fn generation_tags_become_with_blocks() {
        assert_eq!(rewrite("a{%- generation -%}b{% endgeneration%}c"), "a{%- with -%}b{% endwith%}c");
        same("{# {% generation %} #}");
        same("{{ '{% generation %}' }}");
        same("{{ \"\\\"}}{% generation %}\" }}");
        same("{% raw %}{% generation %}{% endraw %}");
        same("{% if generation %}{% endif %} { { {");
        assert_eq!(rewrite("{% raw %}{{ {% endraw %}{% generation %}"), "{% raw %}{{ {% endraw %}{% with %}");
    }

    #[test]
    fn assignments_are_bounded() {
        assert_eq!(rewrite("{%- set a = {'b': 1} -%}"), "{%- set a = __qn_bounded_value(( {'b': 1} ))-%}");
        assert_eq!(rewrite("{% set ns.a = '%}=' %}x"), "{% set ns.a = __qn_bounded_member(( '%}=' ))%}x");
        assert_eq!(rewrite("{% set a, b = 1, 2 %}"), "{% set a, b = __qn_bounded_value(( 1, 2 ))%}");
        assert_eq!(rewrite("{% set a = b == c %}"), "{% set a = __qn_bounded_value(( b == c ))%}");
        same("{% set block %}x = 1{% endset %}");
        same("{% set block | replace(a='=') %}");
        same("{% set");
        same("{% set a = 'open %}");
    }

    #[test]
    fn any_source_is_rewritten_without_a_panic() {
        let pieces = ["{%", "%}", "{{", "}}", "'", "\"", "\\", "set ", "=", "é", "-", "raw", "{#", "#}", " a.b ", "(", ")"];
        let mut state = 7usize;
        for _ in 0..50_000 {
            let mut source = String::new();
            for _ in 0..12 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                source += pieces[(state >> 33) % pieces.len()];
            }
            rewrite(&source);
        }
    }
}
