//! What a self-request tells about its cause: how many self-requests have led to it, and until when
//! somebody waits for it. It is a header field that only this process can write.
//!
//! Guards: a client that could say so itself could make programs fail, and have their failures
//! cached for others. So the field carries a password that is made when the process first
//! needs it; without it a request counts as one from outside. Programs never see the field.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::config::Secret;
use crate::random::Random;

/// Travels with self-requests.
const FIELD: &str = "X-TinyKVM-Depth";

/// What the times in fields count from.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

static PASSWORD: LazyLock<String> = LazyLock::new(|| match Random::new().pair() {
    Ok([a, b]) => format!("{a:016x}{b:016x}"),
    // Empty matches nothing: self-requests then count as requests from outside.
    Err(_no_random_numbers) => String::new(),
});

/// Whether a field, or the name of one, is the one that programs must not see or set.
pub fn is_depth_field(field: &[u8]) -> bool {
    let name = field.split_at_checked(FIELD.len());
    name.is_some_and(|(name, rest)| {
        name.eq_ignore_ascii_case(FIELD.as_bytes()) && matches!(rest.first(), None | Some(b':'))
    })
}

/// The name of the field that tells the depth of a request.
pub const fn depth_field() -> &'static [u8] {
    FIELD.as_bytes()
}

/// What led to a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cause {
    /// Self-requests that caused one another; 0 for a request from outside.
    pub depth: u32,
    /// When the one who made the last of them stops waiting.
    pub deadline: Option<Instant>,
}

impl Cause {
    /// What the value of the field says.
    pub fn parse(value: &[u8]) -> Self {
        Self::parse_own(value).unwrap_or_default()
    }

    fn parse_own(value: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(value).ok()?.trim().split(' ');
        let (depth, until, password) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || !Secret::new(PASSWORD.clone()).matches(password.as_bytes()) {
            return None;
        }
        let until = Duration::from_nanos(until.parse().ok()?);
        Some(Self {
            depth: depth.parse().ok()?,
            deadline: BEGINNING.checked_add(until),
        })
    }

    /// The field of a self-request.
    pub(super) fn field(depth: u32, deadline: Instant) -> String {
        let until = deadline.saturating_duration_since(*BEGINNING).as_nanos();
        format!("{FIELD}: {depth} {until} {}", *PASSWORD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_travels_and_cannot_be_made_up() {
        let deadline = *BEGINNING + Duration::from_secs(100);
        let field = Cause::field(3, deadline);
        let value = field.strip_prefix("X-TinyKVM-Depth:").unwrap();
        let cause = Cause {
            depth: 3,
            deadline: Some(deadline),
        };
        assert_eq!(Cause::parse(value.as_bytes()), cause);
        let zeros = "0".repeat(32);
        for made_up in [
            "",
            "8",
            "8 1 ",
            "8 1 x",
            "x",
            &zeros,
            &format!("8 1 {zeros}"),
        ] {
            assert_eq!(
                Cause::parse(made_up.as_bytes()),
                Cause::default(),
                "{made_up}"
            );
        }
        for changed in [format!("{value} 1"), value.replace("3 ", "-3 ")] {
            assert_eq!(
                Cause::parse(changed.as_bytes()),
                Cause::default(),
                "{changed}"
            );
        }
    }

    #[test]
    fn the_field_is_recognized_by_its_name_alone() {
        for yes in ["X-TinyKVM-Depth: 1", "x-tinykvm-depth:", "X-TINYKVM-DEPTH"] {
            assert!(is_depth_field(yes.as_bytes()), "{yes}");
        }
        for no in [
            "",
            "X-TinyKVM-Dept",
            "X-TinyKVM-Depths: 1",
            "Host: X-TinyKVM-Depth:",
        ] {
            assert!(!is_depth_field(no.as_bytes()), "{no}");
        }
    }
}
