//! What a program may fetch besides its own Varnish: the list `allowed_fetch`.
//!
//! Guards: a prefix of a path holds for what servers make of the path, too: an address that climbs
//! out of it, plainly or in an encoding, is not under it.

use super::address::{Address, Flaw};

/// One entry of `allowed_fetch`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FetchRule {
    /// Every `http://` and `https://` address.
    Everything,
    /// That origin, and that path and all below it.
    Under(Address),
}

impl FetchRule {
    pub fn parse(text: &str) -> Result<Self, Flaw> {
        if text == "*" {
            return Ok(Self::Everything);
        }
        Address::parse(text.as_bytes()).map(Self::Under)
    }

    fn allows(&self, address: &Address) -> bool {
        let Self::Under(place) = self else {
            return true;
        };
        let prefix = place.target();
        if !place.same_origin(address) {
            return false;
        }
        if prefix == "/" {
            return true;
        }
        let Some(rest) = address.target().strip_prefix(prefix) else {
            return false;
        };
        let at_a_border = prefix.ends_with('/') || rest.is_empty() || rest.starts_with(['/', '?']);
        at_a_border && !climbs(address.path())
    }
}

pub(crate) fn allows(rules: &[FetchRule], address: &Address) -> bool {
    rules.iter().any(|rule| rule.allows(address))
}

/// Whether a segment of the path is, or could be taken for, `.` or `..`.
fn climbs(path: &str) -> bool {
    let path = decoded(path);
    path.split(|byte| matches!(byte, b'/' | b'\\'))
        .any(|segment| matches!(name(segment), b"." | b".."))
}

/// Without parameters, and without what a server further on takes for the end of the path.
fn name(segment: &[u8]) -> &[u8] {
    let end = |byte: &u8| matches!(byte, 0..=b' ' | b';' | b'?' | b'#');
    segment.split(end).next().unwrap_or_default()
}

/// Without any `%XX`, also of those that decoding brings about. Which one is decoded first makes no
/// difference, and none is a part of a `.` or `/` that is there already: a path that climbs after any
/// number of rounds, of all or of some bytes, climbs in what is left here.
fn decoded(path: &str) -> Vec<u8> {
    let mut done = Vec::with_capacity(path.len());
    for byte in path.bytes() {
        done.push(byte);
        while let Some((before, byte)) = last_encoded(&done) {
            done.truncate(before);
            done.push(byte);
        }
    }
    done
}

/// The byte that a `%XX` at the end stands for, and where that begins.
fn last_encoded(text: &[u8]) -> Option<(usize, u8)> {
    let [before @ .., b'%', high, low] = text else {
        return None;
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let value = digit(*high)? << 4 | digit(*low)?;
    Some((before.len(), u8::try_from(value).ok()?))
}

#[cfg(test)]
mod tests {
    use guests::Dice;

    use super::*;

    fn allowed(rules: &[&str], address: &str) -> bool {
        let rules: Vec<_> = rules
            .iter()
            .map(|rule| FetchRule::parse(rule).unwrap())
            .collect();
        allows(&rules, &Address::parse(address.as_bytes()).unwrap())
    }

    #[test]
    fn nothing_is_allowed_that_is_not_listed() {
        assert!(!allowed(&[], "http://h/"));
        assert!(allowed(&["*"], "http://h/"));
        assert!(FetchRule::parse("file:///").is_err());
        assert!(FetchRule::parse("*.example.com").is_err());
        assert!(FetchRule::parse("").is_err());
    }

    #[test]
    fn an_origin_is_scheme_host_and_port_together() {
        let rules = ["https://api.example.com"];
        for yes in [
            "https://api.example.com/",
            "https://API.Example.com.:443/any?thing",
            "https://api.example.com/..",
        ] {
            assert!(allowed(&rules, yes), "{yes}");
        }
        for no in [
            "http://api.example.com/",
            "https://api.example.com:8443/",
            "https://api.example.com.evil.example/",
            "https://evil.example/https://api.example.com/",
            "https://evil.example/?https://api.example.com/",
            "https://example.com/",
            "https://[::1]/",
        ] {
            assert!(!allowed(&rules, no), "{no}");
        }
        assert!(allowed(&["http://[0::1]:81"], "http://[::1]:81/"));
        assert!(!allowed(&["http://[0::1]:81"], "http://[::1]/"));
    }

    #[test]
    fn a_path_is_left_by_no_trick() {
        let rules = ["http://h/v1"];
        for yes in [
            "http://h/v1",
            "http://h/v1/a..b/...",
            "http://h/v1?../..",
            "http://h/v1/%41",
        ] {
            assert!(allowed(&rules, yes), "{yes}");
        }
        for no in [
            "http://h/",
            "http://h/v10",
            "http://h/V1/x",
            "http://h/v1/../admin",
            "http://h/v1/..",
            "http://h/v1/./x",
            "http://h/v1/%2e%2E/admin",
            "http://h/v1/.%2e/admin",
            "http://h/v1/..%2fadmin",
            "http://h/v1/..%5cadmin",
            "http://h/v1/%252e%252e/admin",
            "http://h/v1/..;/admin",
            "http://h/v1/..;%2f../admin",
            "http://h/v1/..%00/admin",
            "http://h/v1/..%253f/admin",
            "http://h/v1/%25%32%65%25%32%65/admin",
            "http://h/v1/%2%65%2%65/admin",
            "http://h/v1/%%32%65%%32%65/admin",
            "http://h/v1/%25%32%66..%25%32%66admin",
            "http://h/v1/..%2%66admin",
            "http://h/v1/..%25%35%63admin",
        ] {
            assert!(!allowed(&rules, no), "{no}");
        }
        assert!(allowed(&["http://h/v1/"], "http://h/v1/x"));
        assert!(!allowed(&["http://h/v1/"], "http://h/v1"));
        assert!(allowed(&["http://h/a?key=1"], "http://h/a?key=1"));
        assert!(!allowed(&["http://h/a?key=1"], "http://h/a?key=12"));
    }

    /// Each byte as it is or as `%XX`, all of it so many times over.
    fn encoded(text: &str, times: u64, dice: &mut Dice) -> String {
        let mut text = text.to_owned();
        for _ in 0..times {
            text = text
                .bytes()
                .map(|byte| match dice.below(3) {
                    0 => format!("%{byte:02x}"),
                    1 => format!("%{byte:02X}"),
                    _ => char::from(byte).to_string(),
                })
                .collect();
        }
        text
    }

    #[test]
    fn no_encoding_of_an_encoding_leaves_a_path_and_none_keeps_plain_paths_out() {
        let mut dice = Dice::new(0x616c_6c6f_7765_6421);
        for _ in 0..20_000 {
            let times = dice.below(4);
            let climbing = encoded("/../x", times, &mut dice);
            // The border after the prefix is not what is looked for here.
            let climbing = format!("http://h/v1/a{climbing}");
            assert!(!allowed(&["http://h/v1"], &climbing), "{climbing}");
            let plain: String = (0..dice.below(20))
                .map(|_| {
                    let at = usize::try_from(dice.below(8)).unwrap();
                    ["a", "25", "2e", "..b", "...", "/x", "/25", "~"][at]
                })
                .collect();
            let plain = format!("http://h/v1/a{}", encoded(&plain, times, &mut dice));
            assert!(allowed(&["http://h/v1"], &plain), "{plain}");
        }
    }
}
