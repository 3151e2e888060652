//! GPT-2's byte-level alphabet: one printable character for each byte, so that a BPE vocabulary is plain text.
//! Source: openai/gpt-2, src/encoder.py, bytes_to_unicode.

use std::sync::LazyLock;

static CHAR_OF_BYTE: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut chars = ['\0'; 256];
    let mut next = 256;
    for (byte, slot) in chars.iter_mut().enumerate() {
        let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let code = if printable { byte as u32 } else { next };
        next += u32::from(!printable);
        *slot = char::from_u32(code).expect("below 512: never a surrogate");
    }
    chars
});

static BYTE_OF_CHAR: LazyLock<[Option<u8>; 512]> = LazyLock::new(|| {
    let mut bytes = [None; 512];
    for (byte, c) in CHAR_OF_BYTE.iter().enumerate() {
        bytes[*c as usize] = Some(byte as u8);
    }
    bytes
});

pub fn char_of(byte: u8) -> char {
    CHAR_OF_BYTE[byte as usize]
}

/// The word as its alphabet's characters.
pub fn encode(text: &str, out: &mut String) {
    out.clear();
    out.extend(text.bytes().map(char_of));
}

/// The bytes that a token's text stands for; a text with any character outside of the alphabet (an added token, say)
/// stands for itself. This is the rule of the `ByteLevel` decoder.
pub fn decode(token: &str) -> Vec<u8> {
    let decoded: Option<Vec<u8>> = token.chars().map(|c| BYTE_OF_CHAR.get(c as usize).copied().flatten()).collect();
    decoded.unwrap_or_else(|| token.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        for byte in 0..=255u8 {
            assert_eq!(decode(&char_of(byte).to_string()), [byte]);
        }
        assert_eq!(char_of(b' '), 'Ġ');
        assert_eq!(char_of(b'\n'), 'Ċ');
    }

    #[test]
    fn text_outside_of_the_alphabet_stands_for_itself() {
        assert_eq!(decode("<a b>"), b"<a b>");
        assert_eq!(decode("Ġ中"), "Ġ中".as_bytes());
    }
}
