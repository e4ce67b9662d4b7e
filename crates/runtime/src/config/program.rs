//! What defines a program: two VCLs whose programs are equal in this share one.

use std::fmt;
use std::path::PathBuf;

use super::settings::Settings;

/// A program's definition, all layers resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ProgramConfig {
    pub name: String,
    pub group: String,
    /// The program itself, or where a fetched one is kept.
    pub filename: Option<PathBuf>,
    /// http://, https:// or file://.
    pub uri: Option<String>,
    /// What a live update must know.
    pub key: Secret,
    /// Of the program's bytes.
    pub sha256: Option<[u8; 32]>,
    /// Loaded with the VCL instead of at the first request.
    pub start: bool,
    pub settings: Settings,
}

/// A text that stays out of logs. Empty matches nothing.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `attempt` is the secret, in a time that depends on lengths only. There is no
    /// right attempt at an empty secret.
    pub fn matches(&self, attempt: &[u8]) -> bool {
        let secret = self.0.as_bytes();
        if secret.is_empty() || secret.len() != attempt.len() {
            return false;
        }
        let difference = secret
            .iter()
            .zip(attempt)
            .fold(0, |sum, (a, b)| sum | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "(none)"
        } else {
            "(secret)"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_secret_matches_nothing() {
        assert!(!Secret::default().matches(b""));
        assert!(!Secret::default().matches(b"x"));
        let secret = Secret::new("geheim".into());
        assert!(secret.matches(b"geheim"));
        for wrong in [&b"geheiM"[..], b"geheim ", b"gehei", b""] {
            assert!(!secret.matches(wrong));
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let config = ProgramConfig {
            key: Secret::new("geheim".into()),
            ..Default::default()
        };
        assert!(!format!("{config:?}").contains("geheim"));
    }
}
