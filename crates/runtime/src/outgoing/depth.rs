//! How many self-requests have led to a request, as a header field that only this process can write.
//!
//! Guards: a client that could say so itself could make programs fail, and have their failures
//! cached for others. So the field carries a password that is made when the process first
//! needs it; without it a request counts as one from outside. Programs never see the field.

use std::sync::LazyLock;

use crate::config::Secret;
use crate::random::Random;

/// Travels with self-requests.
const FIELD: &str = "X-TinyKVM-Depth";

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

/// What the value of the field says; 0 for a request from outside.
pub fn depth(value: &[u8]) -> u32 {
    let mut parts = value.trim_ascii().splitn(2, |&byte| byte == b' ');
    let (number, password) = (parts.next(), parts.next());
    if !Secret::new(PASSWORD.clone()).matches(password.unwrap_or_default()) {
        return 0;
    }
    number
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

/// The field of a self-request at that depth.
pub(super) fn field(depth: u32) -> String {
    format!("{FIELD}: {depth} {}", *PASSWORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_depth_travels_and_cannot_be_made_up() {
        let field = field(3);
        let value = field.strip_prefix("X-TinyKVM-Depth:").unwrap();
        assert_eq!(depth(value.as_bytes()), 3);
        for made_up in ["", "8", "8 ", " 8 x", &format!("8 {}", "0".repeat(32)), "x"] {
            assert_eq!(depth(made_up.as_bytes()), 0, "{made_up}");
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
