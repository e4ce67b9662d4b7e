//! The bytes of programs and the text of libraries: from files, and from servers by HTTP.
//!
//! ```text
//! no uri                    -> filename, checked against sha256
//! filename matches sha256   -> filename, nothing is asked
//! uri, 200                  -> the answer, checked against sha256, kept in filename
//! uri, 304                  -> filename
//! uri, server down          -> filename, if there is one that sha256 does not exclude
//! ```
//!
//! Everything here may block as long as its limits allow and needs a stack of ordinary size: it is
//! called on threads of ours, never on a worker of Varnish.
//! Guards: no answer is used that was not whole, successful and within its size; a file is
//! replaced at once or not at all.

pub mod archive;
mod date;
mod file;
mod http;
mod keep;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use crate::config::ProgramConfig;
use file::Local;
use http::Answer;
pub use http::shown;
pub(crate) use keep::keep;

/// How long a fetch may take and what it may bring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    connect: Duration,
    total: Duration,
    /// Without a byte.
    stalled: Duration,
    max_bytes: u64,
}

impl Limits {
    pub(crate) const PROGRAM: Self = Self {
        connect: Duration::from_secs(5),
        total: Duration::from_secs(120),
        stalled: Duration::from_secs(15),
        max_bytes: 1 << 30,
    };
    pub(crate) const LIBRARY: Self = Self {
        connect: Duration::from_secs(5),
        total: Duration::from_secs(30),
        stalled: Duration::from_secs(15),
        max_bytes: 16 << 20,
    };
}

/// Why nothing was loaded. Addresses are shown without user name and password.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A scheme other than http, https and file.
    #[error("{0}: an address begins with http://, https:// or file:///")]
    Address(String),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no file", .0.display())]
    NotAFile(PathBuf),
    #[error("{from} has more than the {limit} bytes allowed")]
    TooLong { from: String, limit: u64 },
    /// The server could not be asked, or its answer broke off.
    #[error("{uri}: {reason}")]
    Down { uri: String, reason: String },
    #[error("{uri}: the server answered {status}")]
    Status { uri: String, status: u32 },
    #[error("{uri}: more than {limit} redirects")]
    Redirects { uri: String, limit: usize },
    #[error("{uri}: redirected to {to:?}, which is not followed")]
    Redirect { uri: String, to: String },
    #[error("{from} has sha256 {got}, but the configuration says {expected}")]
    Hash {
        from: String,
        expected: String,
        got: String,
    },
    #[error("{0} is no UTF-8 text")]
    NotText(String),
    #[error("neither \"filename\" nor \"uri\" is given")]
    Nowhere,
}

impl LoadError {
    /// Whether the server is to blame and may be well again later, so that an older copy is
    /// better than nothing. An answer like 404 is a decision of someone and stands.
    fn is_down(&self) -> bool {
        match self {
            Self::Down { .. } => true,
            Self::Status { status, .. } => *status >= 500 || *status == 429,
            _ => false,
        }
    }
}

/// A program's bytes.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) bytes: Vec<u8>,
    pub(crate) from: Origin,
}

/// Where they came from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// The local file, nobody was asked.
    File,
    /// The local file, which the server says is current.
    Unchanged,
    /// The server; `kept` says whether they are in the local file now.
    Fetched { kept: Kept },
    /// The local file, because the server failed.
    Fallback { why: LoadError },
}

#[derive(Debug)]
pub(crate) enum Kept {
    /// Nobody wants it.
    NotWanted,
    Yes,
    Failed(io::Error),
}

/// Loads what a configuration names.
pub(crate) fn program(config: &ProgramConfig) -> Result<Loaded, LoadError> {
    program_within(config, &Limits::PROGRAM)
}

fn program_within(config: &ProgramConfig, limits: &Limits) -> Result<Loaded, LoadError> {
    let (filename, uri) = (config.filename.as_deref(), config.uri.as_deref());
    let Some(uri) = uri else {
        let path = filename.ok_or(LoadError::Nowhere)?;
        let bytes = Local::open(path)?.read(limits.max_bytes)?;
        check(&bytes, config.sha256.as_ref(), || {
            path.display().to_string()
        })?;
        return Ok(Loaded {
            bytes,
            from: Origin::File,
        });
    };
    let copy = local_copy(filename, config.sha256.as_ref(), limits);
    if let Copy::Verified(bytes) = copy {
        return Ok(Loaded {
            bytes,
            from: Origin::File,
        });
    }
    let since = match copy {
        Copy::Unverified(modified) => modified,
        _ => None,
    };
    let fallback = |why| match (&copy, filename) {
        (Copy::Unverified(_), Some(path)) => {
            let bytes = Local::open(path)?.read(limits.max_bytes)?;
            Ok(Loaded {
                bytes,
                from: Origin::Fallback { why },
            })
        }
        _ => Err(why),
    };
    match (fetch(uri, since, limits), filename) {
        (Err(error), _) if error.is_down() => fallback(error),
        (Err(error), _) => Err(error),
        (Ok(Answer::Unchanged), Some(path)) => {
            let bytes = Local::open(path)?.read(limits.max_bytes)?;
            Ok(Loaded {
                bytes,
                from: Origin::Unchanged,
            })
        }
        (Ok(Answer::Unchanged), None) => {
            // Nothing was asked that this could be the answer to.
            Err(LoadError::Status {
                uri: shown(uri),
                status: 304,
            })
        }
        (Ok(Answer::Whole { bytes, modified }), _) => {
            check(&bytes, config.sha256.as_ref(), || shown(uri))?;
            let kept = match filename.filter(|_| http::is_http(uri)) {
                None => Kept::NotWanted,
                Some(path) => match file::replace(path, &bytes, modified) {
                    Ok(()) => Kept::Yes,
                    Err(error) => Kept::Failed(error),
                },
            };
            Ok(Loaded {
                bytes,
                from: Origin::Fetched { kept },
            })
        }
    }
}

/// A local file as a program or an archive of one.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    Local::open(path)?.read(Limits::PROGRAM.max_bytes)
}

/// The text of a library.
pub(crate) fn library(uri: &str) -> Result<String, LoadError> {
    library_within(uri, &Limits::LIBRARY)
}

fn library_within(uri: &str, limits: &Limits) -> Result<String, LoadError> {
    let status = |status| LoadError::Status {
        uri: shown(uri),
        status,
    };
    match fetch(uri, None, limits)? {
        Answer::Whole { bytes, .. } => {
            String::from_utf8(bytes).map_err(|_| LoadError::NotText(shown(uri)))
        }
        Answer::Unchanged => Err(status(304)),
    }
}

fn fetch(uri: &str, since: Option<SystemTime>, limits: &Limits) -> Result<Answer, LoadError> {
    if http::is_http(uri) {
        return http::get(uri, since, limits);
    }
    let path = file::path_of(uri).ok_or_else(|| LoadError::Address(shown(uri)))?;
    let bytes = Local::open(&path)?.read(limits.max_bytes)?;
    Ok(Answer::Whole {
        bytes,
        modified: None,
    })
}

/// What is known of the file that a fetched program is kept in.
enum Copy {
    /// There is none, or none that may be used.
    None,
    /// It is what the configuration asks for.
    Verified(Vec<u8>),
    /// There is no hash to tell; the time is the file's.
    Unverified(Option<SystemTime>),
}

fn local_copy(filename: Option<&Path>, hash: Option<&[u8; 32]>, limits: &Limits) -> Copy {
    let Some(local) = filename.and_then(|path| Local::open(path).ok()) else {
        return Copy::None;
    };
    match hash {
        None => Copy::Unverified(local.modified()),
        Some(hash) => match local.read(limits.max_bytes) {
            Ok(bytes) if Sha256::digest(&bytes)[..] == hash[..] => Copy::Verified(bytes),
            _ => Copy::None,
        },
    }
}

fn check(
    bytes: &[u8],
    hash: Option<&[u8; 32]>,
    from: impl FnOnce() -> String,
) -> Result<(), LoadError> {
    let Some(expected) = hash else {
        return Ok(());
    };
    let got = Sha256::digest(bytes);
    if got[..] == expected[..] {
        return Ok(());
    }
    Err(LoadError::Hash {
        from: from(),
        expected: hex(expected),
        got: hex(&got),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
