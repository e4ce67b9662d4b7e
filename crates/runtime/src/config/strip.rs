//! Takes C and C++ comments out of a JSON text.
//!
//! Each byte of a comment becomes a space, line breaks stay: line and column of what follows are
//! those that the author sees.

/// A `/*` without its `*/`, at this line (from 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unterminated {
    pub(super) line: usize,
}

#[derive(Clone, Copy)]
enum State {
    Json,
    String,
    /// Behind a backslash in a string.
    Escape,
    Line,
    Block,
}

pub(super) fn strip_comments(text: &str) -> Result<String, Unterminated> {
    // A byte order mark is no JSON, but editors put it there.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut out = String::with_capacity(text.len());
    let mut state = State::Json;
    let mut line = 1;
    let mut comment_begin = 1;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\n' {
            line += 1;
        }
        state = match (state, c) {
            (State::Json, '/') if matches!(chars.peek(), Some('/' | '*')) => {
                comment_begin = line;
                out.push_str("  ");
                match chars.next() {
                    Some('/') => State::Line,
                    _ => State::Block,
                }
            }
            (State::Json, _) => {
                out.push(c);
                if c == '"' { State::String } else { State::Json }
            }
            (State::String, _) => {
                out.push(c);
                match c {
                    '"' => State::Json,
                    '\\' => State::Escape,
                    _ => State::String,
                }
            }
            (State::Escape, _) => {
                out.push(c);
                State::String
            }
            (State::Line | State::Block, '\n') => {
                out.push(c);
                if matches!(state, State::Line) {
                    State::Json
                } else {
                    State::Block
                }
            }
            (State::Block, '*') if chars.peek() == Some(&'/') => {
                chars.next();
                out.push_str("  ");
                State::Json
            }
            (State::Line | State::Block, _) => {
                out.push(' ');
                state
            }
        };
    }
    if matches!(state, State::Block) {
        return Err(Unterminated {
            line: comment_begin,
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_become_spaces_and_lines_stay() {
        assert_eq!(strip_comments("1//x\n2").unwrap(), "1   \n2");
        assert_eq!(strip_comments("1/*x\ny*/2").unwrap(), "1   \n   2");
        assert_eq!(strip_comments("/**/1/***/").unwrap(), "    1     ");
        assert_eq!(strip_comments("1 // at the end").unwrap().trim_end(), "1");
        assert_eq!(strip_comments("\u{feff}1").unwrap(), "1");
        assert_eq!(strip_comments("1/*\u{e9}*/").unwrap(), "1     ");
    }

    #[test]
    fn strings_are_left_alone() {
        for text in [
            r#"{"a": "http://b/*c*/"}"#,
            r#""\"//""#,
            r#""\\" "#,
            "\"\u{e9}//\"",
            "/",
            "1/2",
        ] {
            assert_eq!(strip_comments(text).unwrap(), text);
        }
        assert_eq!(strip_comments(r#""\\"//x"#).unwrap(), r#""\\"   "#);
    }

    #[test]
    fn a_comment_without_end_is_named_by_its_line() {
        assert_eq!(strip_comments("1\n/* x\n"), Err(Unterminated { line: 2 }));
        assert_eq!(strip_comments("/*/"), Err(Unterminated { line: 1 }));
    }
}
