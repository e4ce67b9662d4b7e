//! Files that a program needs beside its binary, fetched before it starts.
//!
//! Guards: a file is replaced at once, by something whole that matches its hash, or not at all; whatever a
//! server does, the outcome is a value. A file with a hash is there, and is the right one, or the program does not
//! start; one without is fetched as well as can be.

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::thread;

use sha2::{Digest as _, Sha256};

use super::file::{self, Local, Part};
use super::http::{self, Answer, Has, Sink};
use super::{Limits, LoadError, hex, shown};
use crate::config::Download;

/// Fetches that run at the same time.
const AT_ONCE: usize = 8;

/// What became of a file.
#[derive(Debug)]
pub(crate) enum Had {
    /// It has the hash that is asked for; nobody was asked.
    Verified,
    /// The server has nothing newer.
    Current,
    Fetched,
    /// It could not be fetched. `stale`: an older one is there.
    Not {
        why: LoadError,
        stale: bool,
    },
}

/// Fetches all, some at a time: the outcomes in the same order.
pub(crate) fn downloads(list: &[Download]) -> Vec<Had> {
    downloads_within(list, &Limits::DOWNLOAD)
}

pub(super) fn downloads_within(list: &[Download], limits: &Limits) -> Vec<Had> {
    let mut outcomes = Vec::with_capacity(list.len());
    for some in list.chunks(AT_ONCE) {
        thread::scope(|scope| {
            let threads: Vec<_> = some
                .iter()
                .map(|item| {
                    let name = "tinykvm-download".to_owned();
                    let work = move || one(item, limits);
                    thread::Builder::new().name(name).spawn_scoped(scope, work)
                })
                .collect();
            for (item, thread) in some.iter().zip(threads) {
                let failed = |reason: String| Had::Not {
                    why: LoadError::Down {
                        uri: shown(&item.uri),
                        reason,
                    },
                    stale: Path::new(&item.filepath).exists(),
                };
                outcomes.push(match thread {
                    Ok(thread) => thread
                        .join()
                        .unwrap_or_else(|_hook| failed("a failure of the host".into())),
                    Err(error) => failed(format!("no thread to fetch it: {error}")),
                });
            }
        });
    }
    outcomes
}

fn one(item: &Download, limits: &Limits) -> Had {
    let path = Path::new(&item.filepath);
    let local = Local::open(path).ok();
    let modified = local.as_ref().and_then(Local::modified);
    let stale = local.is_some() && item.sha256.is_none();
    if let (Some(local), Some(expected)) = (local, &item.sha256)
        && hash_of(local.into_file()).is_ok_and(|got| got == *expected)
    {
        return Had::Verified;
    }
    let has = Has {
        // A wrong file is no older version of the right one.
        modified: modified.filter(|_| stale),
        etag: None,
    };
    match fetch(item, path, &has, limits) {
        Ok(true) => Had::Fetched,
        Ok(false) => Had::Current,
        Err(why) => Had::Not { why, stale },
    }
}

/// Replaces the file: false where it is the server's already.
fn fetch(item: &Download, path: &Path, has: &Has<'_>, limits: &Limits) -> Result<bool, LoadError> {
    let failed = |source| LoadError::Write {
        uri: shown(&item.uri),
        source,
    };
    let part = Part::beside(path).map_err(failed)?;
    let mut keeping = Keeping {
        part,
        hash: Sha256::new(),
    };
    let modified = if http::is_http(&item.uri) {
        match http::get(&item.uri, has, limits, &mut keeping)? {
            Answer::Whole(about) => about.modified,
            Answer::Unchanged => return Ok(false),
        }
    } else {
        let from = file::path_of(&item.uri).ok_or_else(|| LoadError::Address(shown(&item.uri)))?;
        let local = Local::open(&from)?;
        let modified = local.modified();
        copy(local.into_file(), &mut keeping).map_err(failed)?;
        modified
    };
    let Keeping { part, hash } = keeping;
    let got: [u8; 32] = hash.finalize().into();
    if let Some(expected) = &item.sha256
        && got != *expected
    {
        return Err(LoadError::Hash {
            from: shown(&item.uri),
            expected: hex(expected),
            got: hex(&got),
        });
    }
    part.finish(modified).map_err(failed)?;
    Ok(true)
}

/// A file that is being written, and its hash.
struct Keeping {
    part: Part,
    hash: Sha256,
}

impl Sink for Keeping {
    fn restart(&mut self) -> io::Result<()> {
        self.hash = Sha256::new();
        self.part.restart()
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.part.write_all(bytes)
    }
}

fn copy(mut from: std::fs::File, to: &mut Keeping) -> io::Result<()> {
    pieces(&mut from, |piece| to.take(piece))
}

fn hash_of(mut file: std::fs::File) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    pieces(&mut file, |piece| {
        hash.update(piece);
        Ok(())
    })?;
    Ok(hash.finalize().into())
}

fn pieces(
    file: &mut std::fs::File,
    mut work: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let len = file.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        work(buffer.get(..len).unwrap_or_default())?;
    }
}
