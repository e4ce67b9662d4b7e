//! What can be wrong with a configuration, and what is only worth telling.
//!
//! Texts from the document are shown with `{:?}`: escaped, on one line, and cut.

use std::fmt;

use crate::budget::OutOfTime;
use crate::loader::LoadError;

/// Whose entry a key stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    Program(String),
    Group(String),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(name) => write!(f, "program {:?}", cut(name)),
            Self::Group(name) => write!(f, "group {:?}", cut(name)),
        }
    }
}

/// Why a configuration is refused. Nothing of a refused text stays in effect.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The text is no JSON.
    #[error("{origin}: line {line}, column {column}: {reason}")]
    Syntax {
        origin: String,
        line: usize,
        column: usize,
        reason: String,
    },
    /// The document is JSON, but not an object of entries.
    #[error("{origin}: expected an object of programs and groups, got {got}")]
    NoEntries { origin: String, got: String },
    /// An entry is not an object.
    #[error("{owner}: expected an object of settings, got {got}")]
    NoSettings { owner: Owner, got: String },
    /// A name that is empty, too long or has control characters in it.
    #[error("{owner}: a name has 1 to 255 bytes and no control characters")]
    Name { owner: Owner },
    /// A value of the wrong type or out of its limits.
    #[error("{owner}: setting {key:?}: expected {expected}, got {got}")]
    Setting {
        owner: Owner,
        key: String,
        expected: String,
        got: String,
    },
    /// A key that nobody knows, in strict mode.
    #[error("{0}, and the configuration is strict")]
    UnknownKey(Warning),
    /// A group that neither this document nor an earlier one defines.
    #[error("program {program:?}: group {group:?} is not defined; known are {known}")]
    UnknownGroup {
        program: String,
        group: String,
        known: String,
    },
    /// A program that nothing can be loaded from.
    #[error("program {program:?}: needs \"filename\" or \"uri\"")]
    Unreachable { program: String },
    /// `configure()` of a name that no document defines, with JSON that defines no program.
    #[error(
        "program {program:?} is not known: define it in a library, or give \"filename\" or \"uri\" here{}",
        .misspelt.as_ref().map(|(key, nearest)| format!("; there is {key:?}, did you mean {nearest:?}?")).unwrap_or_default()
    )]
    NotDefined {
        program: String,
        /// A key that is none, and the one that it resembles.
        misspelt: Option<(String, &'static str)>,
    },
    /// The VCL has a program of that name already.
    #[error("program {program:?} is defined twice: change it with configure() instead")]
    Duplicate { program: String },
    /// The document could not be fetched.
    #[error("{0}")]
    Library(LoadError),
    /// It did not come in time.
    #[error(transparent)]
    OutOfTime(#[from] OutOfTime),
    /// A name that no program has.
    #[error("program {program:?} is not known")]
    UnknownProgram { program: String },
}

impl ConfigError {
    /// Whether the document could not be had at all.
    pub fn is_fetch(&self) -> bool {
        matches!(self, Self::Library(_) | Self::OutOfTime(_))
    }
}

/// What is accepted, but probably not what its author meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// A key that nobody knows.
    UnknownKey {
        owner: Owner,
        key: String,
        nearest: Option<&'static str>,
    },
    /// A setting that is read, but will never change anything.
    NoEffect {
        owner: Owner,
        key: String,
        why: &'static str,
    },
    /// A value that was brought within its limits.
    Clamped {
        owner: Owner,
        key: String,
        got: u64,
        limit: u64,
    },
    /// A `$NAME` in a text whose names are replaced, but not this one.
    NotReplaced {
        owner: Owner,
        key: String,
        name: String,
    },
    /// A path of the host that depends on where varnishd works.
    Relative {
        owner: Owner,
        key: String,
        path: String,
        /// That directory, where it has a name.
        from: Option<String>,
    },
    /// A key that counts only where the program is defined.
    Fixed { owner: Owner, key: String },
    /// Warnings that are not listed, because there are so many.
    More(usize),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey {
                owner,
                key,
                nearest,
            } => {
                write!(f, "{owner}: setting {:?} is not known", cut(key))?;
                match nearest {
                    Some(nearest) => write!(f, "; did you mean {nearest:?}?"),
                    None => Ok(()),
                }
            }
            Self::NoEffect { owner, key, why } => {
                write!(f, "{owner}: setting {key:?} has no effect: {why}")
            }
            Self::Clamped {
                owner,
                key,
                got,
                limit,
            } => {
                write!(
                    f,
                    "{owner}: setting {key:?}: {got} is more than possible, taken as {limit}"
                )
            }
            Self::NotReplaced { owner, key, name } => write!(
                f,
                "{owner}: setting {key:?}: \"${name}\" is taken as it stands; only $HOME and $PWD are replaced"
            ),
            Self::Relative {
                owner,
                key,
                path,
                from,
            } => {
                write!(f, "{owner}: setting {key:?}: {:?} is relative", cut(path))?;
                match from {
                    Some(from) => write!(f, " to varnishd's working directory, {:?}", cut(from))?,
                    None => write!(f, " to varnishd's working directory")?,
                }
                write!(f, "; an absolute path is the same everywhere")
            }
            Self::Fixed { owner, key } => write!(
                f,
                "{owner}: setting {key:?} counts only where the program is defined, ignored here"
            ),
            Self::More(number) => write!(f, "and {number} more warnings"),
        }
    }
}

/// The beginning of a text, short enough for a log line.
pub(super) fn cut(text: &str) -> &str {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => text.get(..end).unwrap_or(text),
        None => text,
    }
}
