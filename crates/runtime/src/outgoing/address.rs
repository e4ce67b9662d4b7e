//! Addresses of outgoing requests, in one spelling.
//!
//! Guards: what is compared with a list and what libcurl is given are the same text, made here from
//! the parts. An address that two readers could understand differently is none.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Longer ones nobody needs.
const LONGEST: usize = 8192;
const LONGEST_HOST: usize = 253;

/// An `http://` or `https://` address without user name and fragment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    tls: bool,
    /// In lower case, without a trailing dot; an IPv6 address in brackets.
    host: String,
    port: u16,
    /// Path and query; begins with a slash.
    target: String,
}

/// Why a text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("an address begins with http:// or https://")]
    Scheme,
    #[error("byte {0:#04x} is not allowed in an address")]
    Byte(u8),
    #[error("a user name is not allowed in an address")]
    User,
    #[error("the address has no valid host")]
    Host,
    #[error("the address has no valid port")]
    Port,
    #[error("the address has more than {LONGEST} bytes")]
    Length,
}

impl Address {
    pub fn parse(text: &[u8]) -> Result<Self, Flaw> {
        let text = plain(text)?;
        let (tls, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            _ => return Err(Flaw::Scheme),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at_checked(end).unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err(Flaw::User);
        }
        let (host, port) = split_port(authority)?;
        let port = match port {
            None if tls => 443,
            None => 80,
            Some(port) => decimal(port).filter(|port| *port > 0).ok_or(Flaw::Port)?,
        };
        Ok(Self {
            tls,
            host: one_spelling(host)?,
            port,
            target: target(rest),
        })
    }

    /// A port of this machine.
    pub(super) fn local(port: u16) -> Self {
        Self {
            tls: false,
            host: Ipv4Addr::LOCALHOST.to_string(),
            port,
            target: "/".to_owned(),
        }
    }

    /// The same place with another path and query, which begin with a slash.
    pub(super) fn with_target(&self, target_text: &[u8]) -> Result<Self, Flaw> {
        let text = plain(target_text)?;
        if !text.starts_with('/') {
            return Err(Flaw::Scheme);
        }
        Ok(Self {
            target: target(text),
            ..self.clone()
        })
    }

    pub(super) fn same_origin(&self, other: &Self) -> bool {
        (self.tls, &self.host, self.port) == (other.tls, &other.host, other.port)
    }

    pub(super) fn target(&self) -> &str {
        &self.target
    }

    /// The path alone.
    pub(super) fn path(&self) -> &str {
        self.target
            .split_once('?')
            .map_or(self.target.as_str(), |(path, _)| path)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = if self.tls {
            ("https", 443)
        } else {
            ("http", 80)
        };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port != usual {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(&self.target)
    }
}

/// Visible ASCII without the backslash, which some read as a slash.
fn plain(text: &[u8]) -> Result<&str, Flaw> {
    if text.len() > LONGEST {
        return Err(Flaw::Length);
    }
    let odd = |byte: &&u8| !byte.is_ascii_graphic() || **byte == b'\\';
    match text.iter().find(odd) {
        Some(&byte) => Err(Flaw::Byte(byte)),
        None => std::str::from_utf8(text).map_err(|_| Flaw::Host),
    }
}

/// Without the fragment, which is never sent.
fn target(text: &str) -> String {
    let text = text.split_once('#').map_or(text, |(before, _)| before);
    if text.starts_with('/') {
        text.to_owned()
    } else {
        format!("/{text}")
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), Flaw> {
    let Some(inner) = authority.strip_prefix('[') else {
        return Ok(match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        });
    };
    let (_, after) = inner.split_once(']').ok_or(Flaw::Host)?;
    let len = authority.len().saturating_sub(after.len());
    let host = authority.get(..len).ok_or(Flaw::Host)?;
    match after.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if after.is_empty() => Ok((host, None)),
        None => Err(Flaw::Port),
    }
}

fn decimal(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn one_spelling(host: &str) -> Result<String, Flaw> {
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or(Flaw::Host)?;
        let address: Ipv6Addr = inner.parse().map_err(|_| Flaw::Host)?;
        return Ok(format!("[{address}]"));
    }
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let valid = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if host.len() > LONGEST_HOST || !host.split('.').all(valid) {
        return Err(Flaw::Host);
    }
    // 127.1, 0x7f000001 and 017700000001 are the same address to some readers.
    let last = host.rsplit('.').next().unwrap_or_default();
    let number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    if number && host.parse::<Ipv4Addr>().is_err() {
        return Err(Flaw::Host);
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelt(text: &str) -> Result<String, Flaw> {
        Address::parse(text.as_bytes()).map(|address| address.to_string())
    }

    #[test]
    fn one_place_has_one_spelling() {
        for (text, expected) in [
            ("http://example.com", "http://example.com/"),
            ("HTTP://EXAMPLE.com.:80/A?b", "http://example.com/A?b"),
            ("https://h:443?q", "https://h/?q"),
            ("https://h:8443/a#b", "https://h:8443/a"),
            ("http://[::0001]:81/x", "http://[::1]:81/x"),
            ("http://10.0.0.1/", "http://10.0.0.1/"),
            ("http://a_b-c.d:080/", "http://a_b-c.d/"),
        ] {
            assert_eq!(spelt(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_two_readers_could_understand_differently_is_no_address() {
        for (text, flaw) in [
            ("", Flaw::Scheme),
            ("file:///etc/passwd", Flaw::Scheme),
            ("ftp://h/", Flaw::Scheme),
            ("//h/", Flaw::Scheme),
            ("http:/h/", Flaw::Scheme),
            ("xhttp://h/", Flaw::Scheme),
            ("http://good@evil/", Flaw::User),
            ("http://good:x@evil/", Flaw::User),
            ("http://h\\@evil/", Flaw::Byte(b'\\')),
            ("http://h /", Flaw::Byte(b' ')),
            ("http://h\r\n/", Flaw::Byte(b'\r')),
            ("http://h\0/", Flaw::Byte(0)),
            ("http://h\u{e9}/", Flaw::Byte(0xc3)),
            ("http:///x", Flaw::Host),
            ("http://./", Flaw::Host),
            ("http://a..b/", Flaw::Host),
            ("http://h../", Flaw::Host),
            ("http://h%2e/", Flaw::Host),
            ("http://2130706433/", Flaw::Host),
            ("http://127.1/", Flaw::Host),
            ("http://0x7f.0.0.1/", Flaw::Host),
            ("http://0x7f000001/", Flaw::Host),
            ("http://0177.0.0.1/", Flaw::Host),
            ("http://[::1/", Flaw::Host),
            ("http://[::1%25lo]/", Flaw::Host),
            ("http://[::1]x/", Flaw::Port),
            ("http://h:/", Flaw::Port),
            ("http://h:0/", Flaw::Port),
            ("http://h:65536/", Flaw::Port),
            ("http://h:+80/", Flaw::Port),
            ("http://h:80:81/", Flaw::Port),
        ] {
            assert_eq!(spelt(text), Err(flaw), "{text}");
        }
        assert_eq!(
            spelt(&format!("http://h/{}", "a".repeat(9000))),
            Err(Flaw::Length)
        );
    }

    #[test]
    fn another_target_never_changes_the_place() {
        let home = Address::parse(b"http://127.0.0.1:6081").unwrap();
        for target in ["/", "//evil/", "/@evil", "/:80", "/?x=http://evil/"] {
            let there = home.with_target(target.as_bytes()).unwrap();
            assert!(there.same_origin(&home));
            assert_eq!(there.to_string(), format!("http://127.0.0.1:6081{target}"));
        }
        for target in [
            "", "x", "@evil/", ".evil/", ":80/", "/a b", "/a\r\nb", "/\\",
        ] {
            assert!(home.with_target(target.as_bytes()).is_err(), "{target:?}");
        }
    }
}
