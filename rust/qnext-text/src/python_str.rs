//! Methods of Python's str that templates use and minijinja-contrib lacks or does otherwise: white space as Python has it
//! (the control characters 0x1C to 0x1F too), keyword arguments, and the rarer members of the family.

use minijinja::value::{from_args, Kwargs};
use minijinja::{Error, ErrorKind, Value};

/// None when the method is not one of these.
pub fn call(s: &str, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    Some(match method {
        "strip" => strip(s, args, true, true),
        "lstrip" => strip(s, args, true, false),
        "rstrip" => strip(s, args, false, true),
        "split" => split(s, args, false),
        "rsplit" => split(s, args, true),
        "splitlines" => splitlines(s, args),
        "partition" => partition(s, args, false),
        "rpartition" => partition(s, args, true),
        "removeprefix" => one_text(args).map(|p| Value::from(s.strip_prefix(p).unwrap_or(s))),
        "removesuffix" => one_text(args).map(|p| Value::from(s.strip_suffix(p).unwrap_or(s))),
        _ => return None,
    })
}

/// str.isspace of one character: Unicode's White_Space, and the separators 0x1C to 0x1F by their bidirectional class.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1C'..='\x1F').contains(&c)
}

fn one_text(args: &[Value]) -> Result<&str, Error> {
    from_args::<(&str,)>(args).map(|(text,)| text)
}

fn strip(s: &str, args: &[Value], left: bool, right: bool) -> Result<Value, Error> {
    let (chars,): (Option<&str>,) = from_args(args)?;
    let dropped = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let s = if left { s.trim_start_matches(dropped) } else { s };
    Ok(Value::from(if right { s.trim_end_matches(dropped) } else { s }))
}

fn split(s: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator, most, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.or(kwargs.get("sep")?).filter(|v| !v.is_none());
    let most = most.or(kwargs.get("maxsplit")?).unwrap_or(-1);
    kwargs.assert_all_used()?;
    let most = usize::try_from(most).unwrap_or(usize::MAX - 1);
    let parts: Vec<&str> = match separator.as_ref().map(|v| (v, v.as_str())) {
        None => split_at_spaces(s, most, from_right),
        Some((_, Some(""))) => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some((_, Some(separator))) if from_right => {
            let mut parts: Vec<&str> = s.rsplitn(most + 1, separator).collect();
            parts.reverse();
            parts
        }
        Some((_, Some(separator))) => s.splitn(most + 1, separator).collect(),
        Some((other, None)) => {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("split: the separator must be text, not {}", other.kind())))
        }
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Runs of white space separate, and none is left at either end; after `most` cuts, only the end where cutting goes on is bare.
fn split_at_spaces(s: &str, most: usize, from_right: bool) -> Vec<&str> {
    let bare = |s| if from_right { str::trim_end_matches(s, is_space) } else { str::trim_start_matches(s, is_space) };
    let mut parts = vec![];
    let mut rest = bare(s);
    while !rest.is_empty() {
        let cut = match parts.len() < most {
            false => None,
            true if from_right => rest.rfind(is_space).map(|at| (rest[at..].trim_start_matches(is_space), &rest[..at])),
            true => rest.find(is_space).map(|at| (&rest[..at], &rest[at..])),
        };
        let (part, others) = cut.unwrap_or((rest, ""));
        parts.push(part);
        rest = bare(others);
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// Line boundaries as Python's documentation of str.splitlines lists them; \r\n is one.
fn splitlines(s: &str, args: &[Value]) -> Result<Value, Error> {
    let (keepends, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
    let keepends = keepends.or(kwargs.get("keepends")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let is_break = |c: char| matches!(c, '\n'..='\r' | '\x1C'..='\x1E' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = vec![];
    let mut rest = s;
    while let Some(at) = rest.find(is_break) {
        let broken = if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(0, char::len_utf8) };
        lines.push(Value::from(&rest[..if keepends { at + broken } else { at }]));
        rest = &rest[at + broken..];
    }
    if !rest.is_empty() {
        lines.push(Value::from(rest));
    }
    Ok(Value::from(lines))
}

fn partition(s: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let separator = one_text(args)?;
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    let cut = if from_right { s.rsplit_once(separator) } else { s.split_once(separator) };
    let (head, middle, tail) = match cut {
        Some((head, tail)) => (head, separator, tail),
        None if from_right => ("", "", s),
        None => (s, "", ""),
    };
    Ok(Value::from(minijinja::value::Tuple::from([Value::from(head), Value::from(middle), Value::from(tail)])))
}
