//! `$HOME` and `$PWD` in the strings that allow it.

/// What the two names stand for: those of the Varnish child.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expansion {
    /// The environment variable, absent when it is not set or no UTF-8.
    pub home: Option<String>,
    /// The working directory.
    pub pwd: Option<String>,
}

impl Expansion {
    /// Those of this process.
    pub fn of_process() -> Self {
        Self {
            home: std::env::var("HOME").ok(),
            pwd: std::env::current_dir()
                .ok()
                .and_then(|path| path.into_os_string().into_string().ok()),
        }
    }

    /// `text` with each name replaced; an error names the one that stands for nothing.
    pub(super) fn expand(&self, text: &str) -> Result<String, &'static str> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            let (before, name) = rest.split_at(at);
            out.push_str(before);
            rest = if let Some(behind) = name.strip_prefix("$HOME") {
                out.push_str(self.home.as_deref().ok_or("$HOME")?);
                behind
            } else if let Some(behind) = name.strip_prefix("$PWD") {
                out.push_str(self.pwd.as_deref().ok_or("$PWD")?);
                behind
            } else {
                out.push('$');
                name.strip_prefix('$').unwrap_or_default()
            };
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// The first name behind a `$` that stands for nothing here.
pub(super) fn unknown_name(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some((_, behind)) = rest.split_once('$') {
        let end = behind
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .unwrap_or(behind.len());
        let (name, after) = behind.split_at(end);
        let known = name.starts_with("HOME") || name.starts_with("PWD");
        if !known && !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) {
            return Some(name);
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced_wherever_they_stand_and_only_once() {
        let expansion = Expansion {
            home: Some("/h$PWD".into()),
            pwd: Some("/p".into()),
        };
        for (text, expected) in [
            ("$HOME/x", "/h$PWD/x"),
            ("PATH=$PWD/a:$PWD/b", "PATH=/p/a:/p/b"),
            ("$PWD$HOME", "/p/h$PWD"),
            ("$", "$"),
            ("$$PWD", "$/p"),
            ("$OTHER", "$OTHER"),
            ("", ""),
        ] {
            assert_eq!(expansion.expand(text).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn names_that_are_not_replaced_are_found() {
        for (text, expected) in [
            ("$FOO/x", Some("FOO")),
            ("$HOME/$bin_dir-x", Some("bin_dir")),
            ("$HOME$PWD", None),
            ("costs 5$ or $5, $$", None),
            ("", None),
        ] {
            assert_eq!(unknown_name(text), expected, "{text}");
        }
    }

    #[test]
    fn a_name_that_stands_for_nothing_is_an_error() {
        let expansion = Expansion::default();
        assert_eq!(expansion.expand("a$HOME"), Err("$HOME"));
        assert_eq!(expansion.expand("$PWD/b"), Err("$PWD"));
        assert_eq!(expansion.expand("plain").as_deref(), Ok("plain"));
    }
}
