//! The object that a chain's built-in `fetch` gets: `{ "headers": [ "Name: value", ... ] }`.

use serde_json::Value;

use super::strip::strip_comments;
use super::table::describe;
use crate::fields::Field;

/// Why a text is no such object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadersError {
    #[error("a comment that begins in line {line} has no end")]
    Comment { line: usize },
    #[error("{0}")]
    Syntax(String),
    #[error("expected {{ \"headers\": [ \"Name: value\", ... ] }}")]
    Shape,
    #[error("key {0:?} is not known; there is \"headers\"")]
    Key(String),
    #[error("headers[{index}]: {got}: {reason}")]
    Header {
        index: usize,
        got: String,
        reason: String,
    },
}

/// The header fields, checked. Needs a stack of ordinary size.
pub fn fetch_headers(text: &str) -> Result<Box<[Box<[u8]>]>, HeadersError> {
    let text = strip_comments(text).map_err(|begin| HeadersError::Comment { line: begin.line })?;
    let value: Value =
        serde_json::from_str(&text).map_err(|error| HeadersError::Syntax(error.to_string()))?;
    let object = value.as_object().ok_or(HeadersError::Shape)?;
    if let Some(other) = object.keys().find(|key| *key != "headers") {
        return Err(HeadersError::Key(other.clone()));
    }
    let Some(list) = object.get("headers") else {
        return Ok(Box::default());
    };
    let list = list.as_array().ok_or(HeadersError::Shape)?;
    list.iter()
        .enumerate()
        .map(|(index, entry)| {
            let field = match entry.as_str() {
                Some(text) => Field::parse(text.as_bytes()).map_err(|flaw| flaw.to_string()),
                None => Err("expected a string \"Name: value\"".to_owned()),
            };
            let field = field.map_err(|reason| HeadersError::Header {
                index,
                got: describe(entry),
                reason,
            })?;
            Ok(field.text().into())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_come_in_their_order_and_comments_are_allowed() {
        let text = r#"{ /* two */ "headers": ["A: 1", "B: 2"] } // end"#;
        let fields = fetch_headers(text).unwrap();
        let texts: Vec<&[u8]> = fields.iter().map(|field| &**field).collect();
        assert_eq!(texts, [b"A: 1", b"B: 2"]);
        assert!(fetch_headers("{}").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_list_of_fields_is_an_error_that_says_so() {
        for (text, told) in [
            ("{", "EOF"),
            ("[]", "expected {"),
            ("/*", "a comment that begins in line 1"),
            (r#"{ "header": [] }"#, r#"key "header""#),
            (r#"{ "headers": "A: 1" }"#, "expected {"),
            (r#"{ "headers": ["A: 1", 1] }"#, "headers[1]: 1: expected"),
            (r#"{ "headers": ["A"] }"#, r#"headers[0]: "A": "#),
            (r#"{ "headers": ["A: 1\r\nB: 2"] }"#, "control character"),
        ] {
            let error = fetch_headers(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
