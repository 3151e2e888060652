//! The pre-tokenizers of the Qwen family: how text is cut into words before BPE.
//!
//! The family's pattern ends in `\s+(?!\S)|\s+`. That look-ahead needs a backtracking engine, which gives up on long runs of
//! white space; without it the rest of the pattern is regular and runs in linear time. So the look-ahead is done by hand:
//! a white-space word that is followed by more text gives its last character back (unless it is the only one).

use regex::Regex;

struct PreTokenizer {
    /// Its name in a GGUF file (`tokenizer.ggml.pre`), and other names that llama.cpp treats alike.
    names: &'static [&'static str],
    /// As in tokenizer.json.
    pattern: &'static str,
    /// The pattern without its look-ahead alternative.
    linear: &'static str,
}

const PRE_TOKENIZERS: [PreTokenizer; 2] = [
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "stablelm2"],
        pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        linear: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    },
    PreTokenizer {
        names: &["qwen35"],
        pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        linear: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    },
];

pub struct Splitter {
    name: &'static str,
    pattern: &'static str,
    words: Regex,
}

impl Splitter {
    /// By the name in a GGUF file.
    pub fn from_name(name: &str) -> Result<Splitter, String> {
        Splitter::find(|p| p.names.contains(&name))
            .ok_or_else(|| format!("pre-tokenizer \"{name}\" is unknown: expected one of {}", Splitter::known_names()))
    }

    /// By the pattern in a tokenizer.json.
    pub fn from_pattern(pattern: &str) -> Result<Splitter, String> {
        Splitter::find(|p| p.pattern == pattern).ok_or_else(|| {
            format!("the pre-tokenizer's pattern is not one of the Qwen family's ({}): found {pattern:?}", Splitter::known_names())
        })
    }

    fn find(matches: impl Fn(&PreTokenizer) -> bool) -> Option<Splitter> {
        let found = PRE_TOKENIZERS.iter().find(|p| matches(p))?;
        Some(Splitter { name: found.names[0], pattern: found.pattern, words: Regex::new(found.linear).expect("our own pattern") })
    }

    fn known_names() -> String {
        PRE_TOKENIZERS.iter().flat_map(|p| p.names).copied().collect::<Vec<_>>().join(", ")
    }

    /// The name to write into a GGUF file.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The pattern to write into a tokenizer.json.
    pub fn pattern(&self) -> &'static str {
        self.pattern
    }

    /// Calls `use_word` with each word; together they are `text`.
    pub fn for_each_word<'t>(&self, text: &'t str, mut use_word: impl FnMut(&'t str)) {
        let mut begin = 0;
        while begin < text.len() {
            // Every character starts a match, so a match always starts at `begin`.
            let Some(found) = self.words.find_at(text, begin) else { break };
            let end = keep_off_next_word(text, begin, found.end());
            use_word(&text[begin..end]);
            begin = end;
        }
        if begin < text.len() {
            use_word(&text[begin..]);
        }
    }
}

/// `\s+(?!\S)|\s+`: where the white-space word text[begin..end] ends.
fn keep_off_next_word(text: &str, begin: usize, end: usize) -> usize {
    let word = &text[begin..end];
    let Some(last) = word.chars().next_back() else { return end };
    // A word that ends in white space other than a line break can only be the last alternative's.
    let from_last_alternative = last.is_whitespace() && !matches!(last, '\r' | '\n');
    let shorter = end - last.len_utf8();
    if from_last_alternative && end < text.len() && shorter > begin {
        shorter
    } else {
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        let mut out = vec![];
        Splitter::from_name("qwen2").unwrap().for_each_word(text, |w| out.push(w));
        out
    }

    #[test]
    fn white_space_gives_its_last_character_to_the_next_word() {
        assert_eq!(words("a   b"), ["a", "  ", " b"]);
        assert_eq!(words("a   "), ["a", "   "]);
        assert_eq!(words("a   1"), ["a", "  ", " ", "1"]);
        assert_eq!(words(" \n \n  x"), [" \n \n", " ", " x"]);
        assert_eq!(words("\t\u{3000}\u{a0}x"), ["\t\u{3000}", "\u{a0}x"]);
        assert_eq!(words("!\n\n  "), ["!\n\n", "  "]);
    }

    #[test]
    fn agrees_with_the_backtracking_pattern() {
        let alphabet: Vec<char> = "a'sRe1 \t\n\r\u{b}\u{85}\u{3000}!é中\u{301}ſ²".chars().collect();
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize
        };
        for pre_tokenizer in &PRE_TOKENIZERS {
            let splitter = Splitter::from_pattern(pre_tokenizer.pattern).unwrap();
            let reference = tokenizers::utils::SysRegex::new(pre_tokenizer.pattern).unwrap();
            for _ in 0..20_000 {
                let text: String = (0..next() % 16).map(|_| alphabet[next() % alphabet.len()]).collect();
                let expected: Vec<&str> = reference.find_iter(&text).map(|(begin, end)| &text[begin..end]).collect();
                let mut found = vec![];
                splitter.for_each_word(&text, |w| found.push(w));
                assert_eq!(found, expected, "{text:?}");
            }
        }
    }

    #[test]
    fn a_megabyte_of_spaces_is_one_word() {
        assert_eq!(words(&" ".repeat(1 << 20)).len(), 1);
    }

    #[test]
    fn unknown_names_are_errors() {
        assert!(Splitter::from_name("gpt-2").err().unwrap().contains("qwen2"));
        assert!(Splitter::from_pattern(r"\w+").is_err());
    }
}
