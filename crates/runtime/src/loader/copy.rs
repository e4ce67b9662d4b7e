//! The copy of a fetched program on this machine, and what is remembered of where it came from.
//!
//! ```text
//! filename            the ELF file of the request VMs
//! filename_storage    the one of the storage VM, if the archive had one
//! filename.origin     hashes of these, of what was fetched and of the address; the ETag
//! ```
//!
//! Guards: a record counts only for the very files that it was written for, so that one that is left from
//! before, or files that somebody changed by hand, never make a server's "unchanged" mean something else.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::file::{self, Local};
use super::http::Has;
use super::{LoadError, hex};
use crate::source::Binaries;

/// No record is longer.
const LONGEST_RECORD: u64 = 4096;

/// Where a copy came from. Hashes are SHA-256 in hexadecimal digits; the address may have a password
/// in it and is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    address: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    etag: Option<String>,
    fetched: String,
    request: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    storage: Option<String>,
}

/// A program on this machine.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) binaries: Binaries,
    modified: Option<SystemTime>,
    /// The hash of `binaries.request`.
    request: String,
    record: Option<Record>,
}

impl Copy {
    /// Reads `filename` and what stands beside it.
    pub(super) fn read(filename: &Path, max_bytes: u64) -> Result<Self, LoadError> {
        let local = Local::open(filename)?;
        let modified = local.modified();
        let request = local.read(max_bytes)?;
        // One that cannot be read is as good as none.
        let storage = beside(filename, "_storage");
        let storage = Local::open(&storage)
            .and_then(|local| local.read(max_bytes))
            .ok();
        let mut copy = Self {
            request: hash(&request),
            binaries: Binaries { request, storage },
            modified,
            record: None,
        };
        copy.record = Record::read(filename).filter(|record| copy.is(record));
        Ok(copy)
    }

    fn is(&self, record: &Record) -> bool {
        record.request == self.request && record.storage == self.storage_hash()
    }

    fn storage_hash(&self) -> Option<String> {
        self.binaries.storage.as_deref().map(hash)
    }

    /// Whether `hash` is that of the program, or of the archive that it came in.
    pub(super) fn has_hash(&self, hash: &[u8; 32]) -> bool {
        let hash = hex(hash);
        let fetched = self.record.as_ref().map(|record| &record.fetched);
        self.request == hash || fetched == Some(&hash)
    }

    /// What a server may be told that is asked for the program again.
    pub(super) fn has(&self, uri: &str) -> Has<'_> {
        match &self.record {
            Some(record) if record.address == hash(uri.as_bytes()) => Has {
                modified: self.modified,
                etag: record.etag.as_deref(),
            },
            // The date of something else says nothing.
            Some(_) => Has::default(),
            None => Has {
                modified: self.modified,
                etag: None,
            },
        }
    }
}

/// What was fetched.
pub(super) struct Fetched<'a> {
    pub(super) uri: &'a str,
    /// The hash of what came from there.
    pub(super) hash: &'a str,
    pub(super) etag: Option<String>,
    pub(super) modified: Option<SystemTime>,
}

/// Keeps binaries for the next time. A crash in between leaves a copy without a record.
pub(super) fn keep(filename: &Path, binaries: &Binaries, fetched: Fetched<'_>) -> io::Result<()> {
    let Fetched {
        uri,
        hash: fetched,
        etag,
        modified,
    } = fetched;
    let origin = beside(filename, ".origin");
    remove(&origin)?;
    file::replace(filename, &binaries.request, modified)?;
    let storage = beside(filename, "_storage");
    match &binaries.storage {
        Some(bytes) => file::replace(&storage, bytes, modified)?,
        None => remove(&storage)?,
    }
    let record = Record {
        address: hash(uri.as_bytes()),
        etag,
        fetched: fetched.to_owned(),
        request: hash(&binaries.request),
        storage: binaries.storage.as_deref().map(hash),
    };
    let text = serde_json::to_string_pretty(&record).map_err(io::Error::other)?;
    file::replace(&origin, text.as_bytes(), None)
}

impl Record {
    fn read(filename: &Path) -> Option<Self> {
        let path = beside(filename, ".origin");
        let bytes = Local::open(&path).ok()?.read(LONGEST_RECORD).ok()?;
        let record: Self = serde_json::from_slice(&bytes).ok()?;
        // It goes into a request to the server.
        let etag = record.etag.as_deref().unwrap_or_default();
        etag.bytes()
            .all(|byte| byte.is_ascii_graphic())
            .then_some(record)
    }
}

pub(super) fn beside(filename: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(filename);
    name.push(ending);
    name.into()
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
