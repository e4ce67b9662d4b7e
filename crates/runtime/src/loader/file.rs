//! Local files: read whole or not at all, replaced at once.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::LoadError;

/// An open ordinary file.
#[derive(Debug)]
pub(super) struct Local<'a> {
    path: &'a Path,
    file: File,
    modified: Option<SystemTime>,
}

impl<'a> Local<'a> {
    /// Refuses what is no ordinary file, and never waits for the other end of a pipe.
    pub(super) fn open(path: &'a Path) -> Result<Self, LoadError> {
        let failed = |source| LoadError::Read {
            path: path.to_owned(),
            source,
        };
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(failed)?;
        let facts = file.metadata().map_err(failed)?;
        if !facts.is_file() {
            return Err(LoadError::NotAFile(path.to_owned()));
        }
        Ok(Self {
            path,
            file,
            modified: facts.modified().ok(),
        })
    }

    pub(super) fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// The open file, for pieces of it.
    pub(super) fn into_file(self) -> File {
        self.file
    }

    pub(super) fn read(self, max_bytes: u64) -> Result<Vec<u8>, LoadError> {
        let mut bytes = Vec::new();
        // One byte more tells whether there is more.
        let mut file = self.file.take(max_bytes.saturating_add(1));
        file.read_to_end(&mut bytes)
            .map_err(|source| LoadError::Read {
                path: self.path.to_owned(),
                source,
            })?;
        if u64::try_from(bytes.len()).is_ok_and(|len| len <= max_bytes) {
            return Ok(bytes);
        }
        Err(LoadError::TooLong {
            from: self.path.display().to_string(),
            limit: max_bytes,
        })
    }
}

/// The path in a file:// address; `None` for other addresses and for other hosts.
pub(super) fn path_of(uri: &str) -> Option<PathBuf> {
    let (scheme, rest) = uri.split_at_checked("file://".len())?;
    if !scheme.eq_ignore_ascii_case("file://") || !rest.starts_with('/') {
        return None;
    }
    let mut bytes = Vec::with_capacity(rest.len());
    let mut rest = rest.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        bytes.push(match (byte, behind) {
            (b'%', [high, low, behind @ ..]) => {
                rest = behind;
                digit(*high)? << 4 | digit(*low)?
            }
            (b'%', _) => return None,
            _ => byte,
        });
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// Makes `bytes` the content of `path`, and its folders if need be.
pub(super) fn replace(path: &Path, bytes: &[u8], modified: Option<SystemTime>) -> io::Result<()> {
    let mut part = Part::beside(path)?;
    part.write_all(bytes)?;
    part.finish(modified)
}

/// A file on its way to replace another one: a reader of that sees the old content or the new one,
/// also after a crash. The file keeps its mode; where its path is a symbolic link, what it points to is
/// replaced.
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    mode: Option<Permissions>,
    folder: PathBuf,
    part: PathBuf,
    file: File,
    finished: bool,
}

impl Part {
    /// Makes an empty one, and the folders of `path` if need be.
    pub(super) fn beside(path: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = fs::canonicalize(path).unwrap_or_else(|_new| path.to_owned());
        let mode = fs::metadata(&path).map(|facts| facts.permissions()).ok();
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        fs::create_dir_all(&folder)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut part = b".".to_vec();
        part.extend_from_slice(name.as_bytes());
        part.extend_from_slice(format!(".{}.{number}.part", std::process::id()).as_bytes());
        let part = folder.join(std::ffi::OsString::from_vec(part));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&part)?;
        Ok(Self {
            path,
            mode,
            folder,
            part,
            file,
            finished: false,
        })
    }

    /// Forgets what was written.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.rewind()?;
        self.file.set_len(0)
    }

    /// Replaces the file at once.
    pub(super) fn finish(mut self, modified: Option<SystemTime>) -> io::Result<()> {
        if let Some(modified) = modified {
            self.file.set_modified(modified)?;
        }
        if let Some(mode) = self.mode.take() {
            self.file.set_permissions(mode)?;
        }
        self.file.sync_all()?;
        fs::rename(&self.part, &self.path)?;
        self.finished = true;
        // The new name lasts; not every file system can be asked for that.
        let _as_durable_as_it_gets = File::open(&self.folder).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

impl io::Write for Part {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.finished {
            let _an_earlier_error_counts = fs::remove_file(&self.part);
        }
    }
}
