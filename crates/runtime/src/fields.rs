//! What a header field written by a guest must look like. The one place that decides it: a text
//! that passes here can be put on the wire without splitting the response.

use tinykvm_sys::abi;

/// A checked "Name: value".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    text: &'a [u8],
}

/// What is wrong with a text that should be a header field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("a header field has {0} bytes, allowed are 4 to 65535")]
    Length(usize),
    #[error("a header field needs \"Name: value\" with one colon and a space behind it")]
    Shape,
    #[error("a header field may not begin or end with a space")]
    Space,
    #[error("byte {byte:#04x} at position {at} is not allowed in a header name")]
    Name { byte: u8, at: usize },
    #[error("control character {byte:#04x} at position {at} is not allowed in a header field")]
    Control { byte: u8, at: usize },
}

impl<'a> Field<'a> {
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, Flaw> {
        let allowed = abi::TINYKVM_MIN_HEADER_TEXT as usize..=abi::TINYKVM_MAX_HEADER_TEXT as usize;
        if !allowed.contains(&text.len()) {
            return Err(Flaw::Length(text.len()));
        }
        if text.first() == Some(&b' ') || text.last() == Some(&b' ') {
            return Err(Flaw::Space);
        }
        let colon = text.iter().position(|&b| b == b':').ok_or(Flaw::Shape)?;
        let (name, value) = text.split_at(colon);
        check_name(name)?;
        // `value` begins with the colon.
        if value.get(1) != Some(&b' ') {
            return Err(Flaw::Shape);
        }
        check_value(text, colon)?;
        Ok(Self { text })
    }

    pub(crate) fn text(self) -> &'a [u8] {
        self.text
    }
}

/// A header name alone: at least one byte, RFC 9110's token characters only.
pub(crate) fn check_name(name: &[u8]) -> Result<(), Flaw> {
    if name.is_empty() {
        return Err(Flaw::Shape);
    }
    match name.iter().position(|&b| !is_token(b)) {
        None => Ok(()),
        Some(at) => Err(Flaw::Name {
            byte: name.get(at).copied().unwrap_or_default(),
            at,
        }),
    }
}

/// A header value or a content type: no control characters but the tab.
pub(crate) fn check_value(text: &[u8], from: usize) -> Result<(), Flaw> {
    for (at, &byte) in text.iter().enumerate().skip(from) {
        if (byte < 0x20 && byte != b'\t') || byte == 0x7f {
            return Err(Flaw::Control { byte, at });
        }
    }
    Ok(())
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_field_passes_whole() {
        let field = Field::parse(b"Location: http://x/").unwrap();
        assert_eq!(field.text(), b"Location: http://x/");
        assert!(Field::parse(b"X: a\tb").is_ok());
        assert!(Field::parse("X: \u{e9}".as_bytes()).is_ok());
    }

    #[test]
    fn no_field_can_split_a_response() {
        for text in [
            &b"X: a\r\nSet-Cookie: b"[..],
            b"X: a\nb",
            b"X: a\rb",
            b"X: a\0b",
            b"X: a\x7f",
            b"X\r\n: ab",
        ] {
            assert!(Field::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn texts_that_are_no_field_are_refused() {
        assert_eq!(Field::parse(b"X: "), Err(Flaw::Length(3)));
        assert_eq!(Field::parse(&vec![b'a'; 65536]), Err(Flaw::Length(65536)));
        for text in [&b"no colon"[..], b": value", b"Name:", b"Name:value"] {
            assert_eq!(Field::parse(text), Err(Flaw::Shape), "{text:?}");
        }
        assert_eq!(Field::parse(b" X: a"), Err(Flaw::Space));
        assert_eq!(Field::parse(b"X: a "), Err(Flaw::Space));
        assert_eq!(
            Field::parse(b"A B: c"),
            Err(Flaw::Name { byte: b' ', at: 1 })
        );
    }
}
