//! What the caller of a program gets: always an answer, the program's own or a plain 500.

use std::fmt;
use std::ops::Deref;

/// Content types up to this length need no allocation.
const INLINE: usize = 62;

/// The head of a response. The body is in the reservation, as pieces of guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    /// Empty: no Content-Type.
    pub content_type: ContentType,
    pub content_length: u64,
    /// The program makes the body while it is read.
    pub streams: bool,
    /// Guest calls that ended without an answer, timeouts included: 0, 1, or 2 when the second
    /// chance failed too.
    pub exceptions: u32,
    /// Those of them that ran out of time.
    pub timeouts: u32,
}

impl Response {
    /// The answer when the program gave none.
    pub(crate) fn failed() -> Self {
        Self {
            status: 500,
            content_type: ContentType::default(),
            content_length: 0,
            streams: false,
            exceptions: 0,
            timeouts: 0,
        }
    }
}

/// A content type; a byte string without control characters.
#[derive(Clone, PartialEq, Eq)]
pub struct ContentType(Text);

#[derive(Clone, PartialEq, Eq)]
enum Text {
    Short { len: u8, bytes: [u8; INLINE] },
    Long(Box<[u8]>),
}

impl ContentType {
    pub(crate) fn new(text: &[u8]) -> Self {
        let mut bytes = [0; INLINE];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(text);
                Self(Text::Short { len, bytes })
            }
            _ => Self(Text::Long(text.into())),
        }
    }
}

impl Default for ContentType {
    fn default() -> Self {
        Self::new(b"")
    }
}

impl Deref for ContentType {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Text::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Text::Long(text) => text,
        }
    }
}

impl fmt::Debug for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(self), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_of_any_length_are_kept_whole() {
        for len in [0, 1, 61, 62, 63, 4095] {
            let text = vec![b'x'; len];
            assert_eq!(*ContentType::new(&text), *text);
        }
    }
}
