//! Names: from UTF-16 to bytes, and which names are the same but for capitals.
//!
//! Promise: two names never become the same bytes: half a surrogate pair, which UTF-8 has no place for, becomes what UTF-8
//! would make of its number (as WTF-8 does).
//! Knows nothing of folders.

/// UTF-16, little endian, as bytes.
pub(crate) fn decode(utf16: &[u8]) -> Vec<u8> {
    let units = utf16.chunks_exact(2).map(|unit| match unit {
        [low, high] => u16::from_le_bytes([*low, *high]),
        _ => 0,
    });
    let mut name = Vec::with_capacity(utf16.len());
    for letter in char::decode_utf16(units) {
        match letter {
            Ok(letter) => name.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(half) => {
                let [low, high] = half.unpaired_surrogate().to_le_bytes();
                // 1110xxxx 10xxxxxx 10xxxxxx
                let middle = (high & 0x0f) << 2 | low >> 6;
                name.extend_from_slice(&[0xe0 | high >> 4, 0x80 | middle, 0x80 | (low & 0x3f)]);
            }
        }
    }
    name
}

/// Capitals, letter by letter, as the filesystems of Windows have them: letters whose capital is more than one stay.
pub(crate) fn folded(name: &[u8]) -> Vec<u8> {
    match str::from_utf8(name) {
        Ok(text) => text.chars().map(capital).collect::<String>().into_bytes(),
        Err(_) => name.to_ascii_uppercase(),
    }
}

fn capital(letter: char) -> char {
    let mut capitals = letter.to_uppercase();
    match (capitals.next(), capitals.next()) {
        (Some(capital), None) => capital,
        _ => letter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_pairs_stay_apart() {
        let of =
            |units: &[u16]| decode(&units.iter().flat_map(|unit| unit.to_le_bytes()).collect::<Vec<_>>());
        assert_eq!(of(&[0x41, 0xe9, 0xd83d, 0xde00]), "Aé😀".as_bytes());
        assert_eq!(of(&[0xd83d]), [0xed, 0xa0, 0xbd]);
        assert_eq!(of(&[0xde00, 0x41]), [0xed, 0xb8, 0x80, 0x41]);
    }

    #[test]
    fn capitals_are_single_letters() {
        assert_eq!(folded("straße é ǆ".as_bytes()), "STRAßE É Ǆ".as_bytes());
        assert_eq!(folded(b"a\xffb"), b"A\xffB");
    }
}
