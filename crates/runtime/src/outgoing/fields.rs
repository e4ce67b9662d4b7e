//! Which header fields of a program's request go out, and to whom.
//!
//! Guards: connections are shared by programs, so that no field may change where a message ends; a
//! host that is on the list is not made to answer for one that is not; what was meant for one
//! origin does not reach another one by a redirect.

use super::FetchError;
use super::depth::is_depth_field;
use crate::fields::{check_name, check_value};

/// They say how a connection is used, which is libcurl's business.
const FRAMING: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
const CREDENTIALS: [&str; 2] = ["authorization", "cookie"];

/// The fields of a request, checked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields(Vec<String>);

/// Where a request goes, as far as fields depend on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Towards {
    pub(super) home: bool,
    /// The first origin that was asked.
    pub(super) first: bool,
    pub(super) has_body: bool,
}

impl Fields {
    /// Adds "Name: value"; "Name:" takes away a field that libcurl would send by itself.
    pub(crate) fn add(&mut self, field: &[u8]) -> Result<(), FetchError> {
        let bad = |reason: String| FetchError::Field(reason);
        let colon = field.iter().position(|&byte| byte == b':').unwrap_or(0);
        let (name, _) = field.split_at_checked(colon).unwrap_or_default();
        check_name(name).map_err(|flaw| bad(flaw.to_string()))?;
        check_value(field, colon).map_err(|flaw| bad(flaw.to_string()))?;
        let text = std::str::from_utf8(field)
            .map_err(|_| bad("a header field of a fetch is UTF-8".to_owned()))?;
        if !FRAMING.contains(&name_of(text).as_str()) && !is_depth_field(field) {
            self.0.push(text.to_owned());
        }
        Ok(())
    }

    pub(super) fn towards(&self, there: Towards) -> Vec<String> {
        let goes = |field: &&String| {
            let name = name_of(field);
            match name.as_str() {
                "host" => there.home,
                "content-type" => there.has_body || there.first,
                name => there.first || !CREDENTIALS.contains(&name),
            }
        };
        self.0.iter().filter(goes).cloned().collect()
    }

    /// Whether the server may tie its connection to who sent the request.
    pub(super) fn has_credentials(&self) -> bool {
        let credentials = |field: &String| name_of(field) == "authorization";
        self.0.iter().any(credentials)
    }
}

fn name_of(field: &str) -> String {
    let (name, _) = field.split_once(':').unwrap_or((field, ""));
    name.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(fields: &[&str], there: Towards) -> Vec<String> {
        let mut all = Fields::default();
        for field in fields {
            all.add(field.as_bytes()).unwrap();
        }
        all.towards(there)
    }

    const HOME: Towards = Towards {
        home: true,
        first: true,
        has_body: false,
    };

    #[test]
    fn no_field_says_where_a_message_ends_or_how_deep_it_is() {
        let fields = [
            "Content-Length: 5",
            "transfer-encoding: chunked",
            "Connection: Upgrade",
            "Upgrade: h2c",
            "X-TinyKVM-Depth: 0",
            "x-tinykvm-depth:",
            "X-Mine: 1",
            "Accept:",
        ];
        assert_eq!(sent(&fields, HOME), ["X-Mine: 1", "Accept:"]);
    }

    #[test]
    fn credentials_and_host_stay_where_they_were_meant_for() {
        let fields = ["Host: a", "Cookie: b", "AUTHORIZATION: c", "X: d"];
        assert_eq!(sent(&fields, HOME), fields);
        let outside = Towards {
            home: false,
            ..HOME
        };
        assert_eq!(
            sent(&fields, outside),
            ["Cookie: b", "AUTHORIZATION: c", "X: d"]
        );
        let redirected = Towards {
            first: false,
            ..outside
        };
        assert_eq!(sent(&fields, redirected), ["X: d"]);
    }

    #[test]
    fn a_text_that_could_be_two_fields_is_refused() {
        let mut fields = Fields::default();
        for text in [
            &b""[..],
            b"X",
            b": a",
            b"X : a",
            b"X: a\r\nY: b",
            b"X: a\nb",
            b"X: \0",
            b"X: \xff",
        ] {
            assert!(fields.add(text).is_err(), "{text:?}");
        }
        assert!(fields.0.is_empty());
    }
}
