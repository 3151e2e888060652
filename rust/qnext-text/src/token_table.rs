//! The bytes and the kind of every token, in one block of memory.

/// How a token takes part in encoding and decoding. The numbers are those of `QnTokenKind` in qnext_text.h.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum TokenKind {
    /// The id has no token: a hole, or padding up to the model's vocabulary.
    None = 0,
    /// A piece of text from the BPE vocabulary.
    Normal = 1,
    /// An added token that `skip_special` drops, such as `<|im_end|>`.
    Special = 2,
    /// An added token that is part of the text, such as `<think>`.
    Added = 3,
}

struct Entry {
    begin: u32,
    end: u32,
    kind: TokenKind,
}

#[derive(Default)]
pub struct TokenTable {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// Ids from here on are refused: a sparse id must not cost memory without bound. Today's largest family has 248,320.
pub const MAX_TOKENS: u32 = 1 << 20;

impl TokenTable {
    /// Ids may come in any order. Fails on an id or a total size that no real tokenizer has.
    pub fn set(&mut self, id: u32, bytes: &[u8], kind: TokenKind) -> Result<(), String> {
        if id >= MAX_TOKENS {
            return Err(format!("token id {id} is out of range: expected less than {MAX_TOKENS}"));
        }
        while self.entries.len() <= id as usize {
            self.entries.push(Entry { begin: 0, end: 0, kind: TokenKind::None });
        }
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let end = u32::try_from(self.bytes.len()).map_err(|_| "the tokens' text is larger than 4 GiB".to_string())?;
        self.entries[id as usize] = Entry { begin: begin as u32, end, kind };
        Ok(())
    }

    /// 1 + the largest id.
    pub fn num_ids(&self) -> usize {
        self.entries.len()
    }

    /// No bytes and `None` for an id without a token.
    pub fn get(&self, id: u32) -> (&[u8], TokenKind) {
        match self.entries.get(id as usize) {
            Some(entry) => (&self.bytes[entry.begin as usize..entry.end as usize], entry.kind),
            None => (&[], TokenKind::None),
        }
    }
}
