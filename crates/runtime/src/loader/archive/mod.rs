//! What is fetched or posted as a program: an ELF file, or an archive of one or two. The archive is a tar
//! file, as it is or packed by gzip, xz or zstd; so may be a single ELF file.
//!
//! ```text
//! an entry whose name ends in "storage"   -> the binary of the storage VM
//! any other entry that is not empty       -> the binary of the request VMs, of which there is one
//! folders, links, empty files             -> passed over
//! ```
//!
//! Guards: the bytes are hostile. However small they are, no more than a limit comes out of them, and
//! what is not wholly there is an error. All decoders are Rust without `unsafe` of ours; one that
//! panics costs this archive only.

mod unpack;

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tar::EntryType;

use crate::source::Binaries;
use unpack::{Bounded, Packing};

const ELF: &[u8] = b"\x7fELF";
/// What may come out of an archive, all entries and their headers together.
const MOST: u64 = 1 << 30;
/// What names of entries may have.
const LONGEST_NAME: usize = 4096;
/// A header of a tar file.
const BLOCK: usize = 512;

/// Why nothing can be started from some bytes.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error(
        "expected an ELF file, or a tar archive as it is or packed by gzip, xz or zstd; got {0}"
    )]
    Unknown(&'static str),
    #[error("the {packing} archive is broken: {reason}")]
    Broken {
        packing: &'static str,
        reason: String,
    },
    #[error("the archive unpacks to more than {limit} bytes")]
    TooBig { limit: u64 },
    #[error("the archive ends in the middle of {name:?}")]
    Truncated { name: String },
    #[error("the archive has an entry whose name has more than {LONGEST_NAME} bytes")]
    LongName,
    #[error("{name:?} is stored as a sparse file, which is not supported")]
    Sparse { name: String },
    #[error("{name:?} in the archive is no ELF file")]
    NotElf { name: String },
    #[error(
        "the archive has two programs, {first:?} and {second:?}; a second one is for storage, and its name ends in \"storage\""
    )]
    Two { first: String, second: String },
    #[error("the archive has two programs for storage, {first:?} and {second:?}")]
    TwoForStorage { first: String, second: String },
    #[error("the archive has no program{}", .storage.as_ref().map(|name| format!(", only {name:?} for storage")).unwrap_or_default())]
    NoProgram { storage: Option<String> },
}

/// Takes the binaries out of `bytes`. Needs an ordinary stack and, for a big archive, seconds.
pub fn open(bytes: Vec<u8>) -> Result<Binaries, ArchiveError> {
    open_within(bytes, MOST)
}

fn open_within(bytes: Vec<u8>, limit: u64) -> Result<Binaries, ArchiveError> {
    if bytes.starts_with(ELF) {
        return Ok(Binaries::from(bytes));
    }
    let packing = Packing::of(&bytes);
    if packing == Packing::None && !is_tar(&bytes) {
        return Err(ArchiveError::Unknown(guess(&bytes)));
    }
    catch_unwind(AssertUnwindSafe(|| unpack(&bytes, packing, limit))).unwrap_or_else(|_hook| {
        Err(ArchiveError::Broken {
            packing: packing.name(),
            reason: "the decoder gave up".into(),
        })
    })
}

fn unpack(bytes: &[u8], packing: Packing, limit: u64) -> Result<Binaries, ArchiveError> {
    let mut unpacked = Bounded::new(packing.open(bytes), limit);
    let result = inside(&mut unpacked);
    if unpacked.exceeded() {
        return Err(ArchiveError::TooBig { limit });
    }
    result.map_err(|failure| match failure {
        Failure::Io(error) => ArchiveError::Broken {
            packing: packing.name(),
            reason: error.to_string(),
        },
        Failure::Says(error) => error,
    })
}

enum Failure {
    Io(std::io::Error),
    Says(ArchiveError),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        Self::Says(error)
    }
}

/// Reads what was packed: an ELF file or a tar file, to its end.
fn inside(unpacked: &mut impl Read) -> Result<Binaries, Failure> {
    let mut begin = Vec::with_capacity(BLOCK);
    unpacked
        .by_ref()
        .take(u64::try_from(BLOCK).unwrap_or_default())
        .read_to_end(&mut begin)?;
    if begin.starts_with(ELF) {
        unpacked.read_to_end(&mut begin)?;
        return Ok(Binaries::from(begin));
    }
    if !is_tar(&begin) {
        return Err(ArchiveError::Unknown("something else that is packed").into());
    }
    entries(begin.chain(unpacked))
}

fn entries(tar: impl Read) -> Result<Binaries, Failure> {
    let mut request: Option<(String, Vec<u8>)> = None;
    let mut storage: Option<(String, Vec<u8>)> = None;
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path_bytes();
        if path.len() > LONGEST_NAME {
            return Err(ArchiveError::LongName.into());
        }
        let name = String::from_utf8_lossy(&path).into_owned();
        let for_storage = path.ends_with(b"storage");
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::GNUSparse => return Err(ArchiveError::Sparse { name }.into()),
            // Folders, links, devices and what describes the archive have nothing in them to run.
            _ => continue,
        }
        if is_sparse(&mut entry)? {
            return Err(ArchiveError::Sparse { name }.into());
        }
        let size = entry.size();
        if size == 0 {
            continue;
        }
        let place = if for_storage {
            &mut storage
        } else {
            &mut request
        };
        if let Some((first, _)) = place.take() {
            let second = name;
            return Err(Failure::Says(if for_storage {
                ArchiveError::TwoForStorage { first, second }
            } else {
                ArchiveError::Two { first, second }
            }));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()) != Ok(size) {
            return Err(ArchiveError::Truncated { name }.into());
        }
        if !bytes.starts_with(ELF) {
            return Err(ArchiveError::NotElf { name }.into());
        }
        *place = Some((name, bytes));
    }
    // What is behind the last entry belongs to the archive: its checksums above all.
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink())?;
    let (storage_name, storage) = storage.unzip();
    let Some((_, request)) = request else {
        return Err(ArchiveError::NoProgram {
            storage: storage_name,
        }
        .into());
    };
    Ok(Binaries { request, storage })
}

/// Newer archives mark sparse files in extended headers of ordinary entries.
fn is_sparse(entry: &mut tar::Entry<'_, impl Read>) -> std::io::Result<bool> {
    let Some(extensions) = entry.pax_extensions()? else {
        return Ok(false);
    };
    for extension in extensions {
        if extension?.key_bytes().starts_with(b"GNU.sparse.") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the first block is a header of a tar file, by its checksum: old ones have no mark.
fn is_tar(bytes: &[u8]) -> bool {
    let Some(block) = bytes.get(..BLOCK) else {
        return false;
    };
    let header = tar::Header::from_byte_slice(block);
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, &byte)| u32::from(if (148..156).contains(&at) { b' ' } else { byte }))
        .sum();
    header.cksum().is_ok_and(|told| told == sum)
}

/// What some bytes are that are no program, for the message.
fn guess(bytes: &[u8]) -> &'static str {
    let begins = [
        (&b"PK\x03\x04"[..], "a zip archive"),
        (b"BZh", "something packed by bzip2"),
        (b"!<arch>\n", "an ar archive"),
        (b"#!", "a script"),
        (b"<", "a text like HTML or XML"),
        (b"{", "a text like JSON"),
        (b"\0asm", "a WebAssembly module"),
    ];
    if bytes.is_empty() {
        return "nothing";
    }
    begins
        .iter()
        .find(|(begin, _)| bytes.starts_with(begin))
        .map_or("something else", |(_, what)| what)
}

#[cfg(test)]
mod tests;
