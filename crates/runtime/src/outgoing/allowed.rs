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
    let mut path = path.to_ascii_lowercase();
    // Twice: some servers decode twice.
    for _ in 0..2 {
        path = path
            .replace("%25", "%")
            .replace("%2e", ".")
            .replace("%2f", "/")
            .replace("%5c", "/");
    }
    path.split('/').any(|segment| {
        let name = segment.split_once(';').map_or(segment, |(name, _)| name);
        name == "." || name == ".."
    })
}

#[cfg(test)]
mod tests {
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
        ] {
            assert!(!allowed(&rules, no), "{no}");
        }
        assert!(allowed(&["http://h/v1/"], "http://h/v1/x"));
        assert!(!allowed(&["http://h/v1/"], "http://h/v1"));
        assert!(allowed(&["http://h/a?key=1"], "http://h/a?key=1"));
        assert!(!allowed(&["http://h/a?key=1"], "http://h/a?key=12"));
    }
}
