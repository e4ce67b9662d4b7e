//! Moving bytes between host files and guest memory, without a copy in between and without a step
//! so long that the deadline could not be looked at.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use super::fds::HostFile;
use super::{Answer, Call, Errno, Stop, limits, status};
use crate::address::{GuestVirt, PAGE_SIZE};
use crate::arith::to_u64;
use crate::memory::{AccessError, Memory};

/// Bytes moved between two looks at the clock: at most 256 pages, so at most 256 pieces.
const STEP: u64 = 1 << 20;
const MAX_PIECES: usize = 256;
/// Reads up to this size go ahead without asking how long the file is.
const SMALL: u64 = 1 << 16;

/// Whether the host reads from the guest's memory or into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    IntoGuest,
    /// With `append`, to the file's end, whatever the offset.
    OutOfGuest {
        append: bool,
    },
}

/// Reads `len` bytes at `offset` of `file` into guest memory; fewer at its end, at memory that the
/// guest cannot write to, and at the deadline.
pub(super) fn read_at(
    call: &mut Call<'_>,
    file: &OwnedFd,
    offset: u64,
    at: u64,
    len: u64,
) -> Answer {
    let len = if len > SMALL {
        len.min(worth_reading(file, offset)?)
    } else {
        len
    };
    transfer(call, file, offset, at, len, Direction::IntoGuest)
}

/// Writes `len` bytes of guest memory to `file` at `offset`; fewer as with [`read_at`], and at the
/// size that a file may have.
pub(super) fn write_at(
    call: &mut Call<'_>,
    file: &HostFile,
    offset: u64,
    at: u64,
    len: u64,
) -> Answer {
    let append = file.append;
    let direction = Direction::OutOfGuest { append };
    transfer(call, &file.file, offset, at, len, direction)
}

/// Pages of a large buffer count as written before the host fills them; this keeps those that it
/// will not fill out of it.
fn worth_reading(file: &OwnedFd, offset: u64) -> Result<u64, Errno> {
    let size = status::of_host(file)?.size;
    Ok(if size > offset { size - offset } else { SMALL })
}

/// How much of `len` bytes may be written from `start` on. Asked for each step, as others may append to
/// the same file: what they add in between, a step at most, is all that it can have too much.
fn room(call: &Call<'_>, start: u64, len: u64) -> Result<u64, Errno> {
    match limits::max_file_size(call).checked_sub(start) {
        None | Some(0) => Err(Errno(libc::EFBIG)),
        Some(room) => Ok(len.min(room)),
    }
}

fn transfer(
    call: &mut Call<'_>,
    file: &OwnedFd,
    offset: u64,
    at: u64,
    len: u64,
    direction: Direction,
) -> Answer {
    let mut done: u64 = 0;
    let mut by_page = false;
    let mut vectors = Vec::new();
    while done < len && (done == 0 || Instant::now() < call.deadline) {
        let start = at
            .checked_add(done)
            .map(GuestVirt::new)
            .ok_or(Errno(libc::EFAULT))?;
        let longest = if by_page {
            PAGE_SIZE - start.page_offset()
        } else {
            STEP
        };
        let place = offset.checked_add(done).ok_or(Errno(libc::EINVAL))?;
        let step = longest.min(len - done);
        let step = match direction {
            Direction::IntoGuest => step,
            Direction::OutOfGuest { append } => {
                let start = if append {
                    status::of_host(file)?.size
                } else {
                    place
                };
                match room(call, start, step) {
                    Ok(step) => step,
                    Err(_) if done > 0 => break,
                    Err(errno) => return Err(errno.into()),
                }
            }
        };
        vectors.clear();
        match view(call.memory, start, step, direction, &mut vectors) {
            Ok(()) => {}
            // Somewhere in this step: the pages before it still count.
            Err(_) if !by_page => {
                by_page = true;
                continue;
            }
            Err(_) if done > 0 => break,
            Err(error) => return Err(error.into()),
        }
        let place = i64::try_from(place).map_err(|_| Errno(libc::EINVAL))?;
        let count = i32::try_from(vectors.len()).map_err(|_| Errno(libc::EINVAL))?;
        let (fd, list) = (file.as_raw_fd(), vectors.as_ptr());
        let moved = match direction {
            // SAFETY: the vectors describe guest memory mapped in this process, writable to the
            // guest; the guest is not running.
            Direction::IntoGuest => unsafe { libc::preadv(fd, list, count, place) },
            // SAFETY: as above, readable.
            Direction::OutOfGuest { .. } => unsafe { libc::pwritev(fd, list, count, place) },
        };
        let Ok(moved) = u64::try_from(moved) else {
            match Errno::last() {
                Errno(libc::EINTR) if Instant::now() < call.deadline => continue,
                _ if done > 0 => break,
                errno => return Err(Stop::Errno(errno)),
            }
        };
        done += moved;
        if moved < step {
            break;
        }
    }
    Ok(done)
}

fn view(
    memory: &mut Memory,
    at: GuestVirt,
    len: u64,
    direction: Direction,
    out: &mut Vec<libc::iovec>,
) -> Result<(), AccessError> {
    match direction {
        Direction::IntoGuest => {
            let mut pieces = Vec::new();
            memory.pieces_mut(at, len, MAX_PIECES, &mut pieces)?;
            out.extend(pieces.iter().map(|p| libc::iovec {
                iov_base: p.ptr.cast(),
                iov_len: p.len,
            }));
        }
        Direction::OutOfGuest { .. } => {
            let mut pieces = Vec::new();
            memory.pieces(at, len, MAX_PIECES, &mut pieces)?;
            out.extend(pieces.iter().map(|p| libc::iovec {
                iov_base: p.ptr.cast_mut().cast(),
                iov_len: p.len,
            }));
        }
    }
    Ok(())
}

/// Reads a list of (address, length) pairs as readv(2) takes it.
pub(super) fn read_vectors(memory: &Memory, at: u64, count: u64) -> Result<Vec<(u64, u64)>, Stop> {
    const MAX: usize = 1024;
    if count > to_u64(MAX) {
        return super::refuse(libc::EINVAL);
    }
    let bytes = memory.read_bytes(GuestVirt::new(at), count * 16, MAX * 16)?;
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0_u64, |value, &byte| value << 8 | u64::from(byte))
    };
    let vectors: Vec<_> = bytes
        .chunks_exact(16)
        .map(|pair| {
            let (base, len) = pair.split_at(8);
            (word(base), word(len))
        })
        .collect();
    let total = vectors
        .iter()
        .try_fold(0_u64, |sum, &(_, len)| sum.checked_add(len));
    match total {
        Some(total) if i64::try_from(total).is_ok() => Ok(vectors),
        _ => super::refuse(libc::EINVAL),
    }
}
