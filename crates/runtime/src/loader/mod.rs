//! The binaries of programs and the text of libraries: from files, and from servers by HTTP.
//!
//! ```text
//! no uri                    -> filename, checked against sha256
//! filename matches sha256   -> filename, nothing is asked
//! uri, 200                  -> the answer, checked against sha256, taken out of its archive, kept in filename
//! uri, 304                  -> filename
//! uri, server down          -> filename, if there is one that sha256 does not exclude
//! ```
//!
//! Everything here may block as long as its limits allow and needs a stack of ordinary size: it is
//! called on threads of ours, never on a worker of Varnish.
//! Guards: no answer is used that was not whole, successful and within its size; a file is
//! replaced at once or not at all.

pub mod archive;
mod copy;
mod date;
mod download;
mod file;
mod http;
mod keep;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::ProgramConfig;
use crate::source::Binaries;
use archive::ArchiveError;
use copy::{Copy, Fetched, hash};
pub(crate) use download::{Had, downloads};
use file::Local;
pub use http::shown;
use http::{About, Answer, Has};
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
    /// Models and databases come this way: what is too slow is told by `stalled`.
    pub(crate) const DOWNLOAD: Self = Self {
        connect: Duration::from_secs(5),
        total: Duration::from_secs(3600),
        stalled: Duration::from_secs(15),
        max_bytes: 64 << 30,
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
    #[error("{from}: {source}")]
    Archive { from: String, source: ArchiveError },
    #[error("{uri}: cannot keep what the server sends: {source}")]
    Write { uri: String, source: io::Error },
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

/// A program's binaries.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) binaries: Binaries,
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
    Fetched { len: usize, kept: Kept },
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
    let mut loaded = with_storage(config, limits)?;
    if !config.settings.storage {
        loaded.binaries.storage = None;
    }
    Ok(loaded)
}

fn with_storage(config: &ProgramConfig, limits: &Limits) -> Result<Loaded, LoadError> {
    let (filename, uri) = (config.filename.as_deref(), config.uri.as_deref());
    let copy = filename.map(|path| Copy::read(path, limits.max_bytes));
    let Some(uri) = uri else {
        let copy = copy.ok_or(LoadError::Nowhere)??;
        check(&copy.binaries, None, config.sha256.as_ref(), || {
            let path = filename.map(|path| path.display().to_string());
            path.unwrap_or_default()
        })?;
        let (binaries, from) = (copy.binaries, Origin::File);
        return Ok(Loaded { binaries, from });
    };
    let mut copy = copy.and_then(Result::ok);
    if let Some(hash) = &config.sha256 {
        copy = copy.filter(|copy| copy.has_hash(hash));
        if let Some(Copy { binaries, .. }) = copy {
            let from = Origin::File;
            return Ok(Loaded { binaries, from });
        }
    }
    let has = copy.as_ref().map(|copy| copy.has(uri)).unwrap_or_default();
    let (bytes, about) = match (fetch(uri, &has, limits), copy) {
        (Err(why), Some(copy)) if why.is_down() => {
            let (binaries, from) = (copy.binaries, Origin::Fallback { why });
            return Ok(Loaded { binaries, from });
        }
        (Err(error), _) => return Err(error),
        (Ok(None), Some(copy)) => {
            let (binaries, from) = (copy.binaries, Origin::Unchanged);
            return Ok(Loaded { binaries, from });
        }
        (Ok(None), None) => {
            // Nothing was asked that this could be the answer to.
            let (uri, status) = (shown(uri), 304);
            return Err(LoadError::Status { uri, status });
        }
        (Ok(Some(whole)), _) => whole,
    };
    let (len, hash) = (bytes.len(), hash(&bytes));
    let binaries = archive::open(bytes).map_err(|source| LoadError::Archive {
        from: shown(uri),
        source,
    })?;
    check(&binaries, Some(&hash), config.sha256.as_ref(), || {
        shown(uri)
    })?;
    let About { modified, etag } = about;
    let kept = match filename.filter(|_| http::is_http(uri)) {
        None => Kept::NotWanted,
        Some(path) => {
            let fetched = Fetched {
                uri,
                hash: &hash,
                etag,
                modified,
            };
            match copy::keep(path, &binaries, fetched) {
                Ok(()) => Kept::Yes,
                Err(error) => Kept::Failed(error),
            }
        }
    };
    let from = Origin::Fetched { len, kept };
    Ok(Loaded { binaries, from })
}

/// A local file as a program or an archive of one.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    Local::open(path)?.read(Limits::PROGRAM.max_bytes)
}

/// Whether no server is asked for it.
pub(crate) fn is_local(uri: &str) -> bool {
    !http::is_http(uri)
}

/// The text of a library.
pub(crate) fn library(uri: &str) -> Result<String, LoadError> {
    library_within(uri, &Limits::LIBRARY)
}

fn library_within(uri: &str, limits: &Limits) -> Result<String, LoadError> {
    match fetch(uri, &Has::default(), limits)? {
        Some((bytes, _)) => String::from_utf8(bytes).map_err(|_| LoadError::NotText(shown(uri))),
        None => {
            let (uri, status) = (shown(uri), 304);
            Err(LoadError::Status { uri, status })
        }
    }
}

/// All that an address has, or nothing where the asker `has` it.
fn fetch(uri: &str, has: &Has<'_>, limits: &Limits) -> Result<Option<(Vec<u8>, About)>, LoadError> {
    if http::is_http(uri) {
        let mut bytes = Vec::new();
        return Ok(match http::get(uri, has, limits, &mut bytes)? {
            Answer::Whole(about) => Some((bytes, about)),
            Answer::Unchanged => None,
        });
    }
    let path = file::path_of(uri).ok_or_else(|| LoadError::Address(shown(uri)))?;
    let bytes = Local::open(&path)?.read(limits.max_bytes)?;
    Ok(Some((bytes, About::default())))
}

/// `expected` may be the hash of the program or of `fetched`, the archive that it came in.
fn check(
    binaries: &Binaries,
    fetched: Option<&str>,
    expected: Option<&[u8; 32]>,
    from: impl FnOnce() -> String,
) -> Result<(), LoadError> {
    let Some(expected) = expected.map(|hash| hex(hash)) else {
        return Ok(());
    };
    let program = hash(&binaries.request);
    if program == expected || fetched == Some(&expected) {
        return Ok(());
    }
    Err(LoadError::Hash {
        from: from(),
        expected,
        got: fetched.map_or(program, str::to_owned),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
