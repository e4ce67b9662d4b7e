//! Reading, writing and seeking: what a descriptor's bytes come from and go to.

use std::time::Instant;

use super::args::{low_i32, low_u32, signed, unsigned};
use super::fds::{Device, HostFile, Kind};
use super::{Answer, Call, Errno, Stop, pipes, random, refuse, status, transfer};
use crate::address::GuestVirt;
use crate::arith::to_u64;

/// Bytes of output that one call takes.
const OUTPUT_STEP: usize = 65_536;
/// Bytes that one read of `/dev/zero` or `/dev/urandom` gives.
const DEVICE_STEP: u64 = 1 << 20;
/// As on Linux, the longest read or write there is.
const LONGEST: u64 = 0x7fff_f000;

/// A descriptor as a result.
pub(super) fn fd_value(fd: i32) -> u64 {
    unsigned(i64::from(fd))
}

pub(super) fn read(call: &mut Call<'_>) -> Answer {
    let [fd, at, len, ..] = call.args();
    read_ranges(call, low_i32(fd), &[(at, len.min(LONGEST))], None)
}

pub(super) fn readv(call: &mut Call<'_>) -> Answer {
    let [fd, at, count, ..] = call.args();
    let ranges = transfer::read_vectors(call.memory, at, u64::from(low_u32(count)))?;
    read_ranges(call, low_i32(fd), &ranges, None)
}

pub(super) fn pread64(call: &mut Call<'_>) -> Answer {
    let [fd, at, len, offset, ..] = call.args();
    let offset = checked_offset(offset)?;
    read_ranges(call, low_i32(fd), &[(at, len.min(LONGEST))], Some(offset))
}

pub(super) fn preadv(call: &mut Call<'_>) -> Answer {
    let [fd, at, count, offset, ..] = call.args();
    let offset = checked_offset(offset)?;
    let ranges = transfer::read_vectors(call.memory, at, u64::from(low_u32(count)))?;
    read_ranges(call, low_i32(fd), &ranges, Some(offset))
}

pub(super) fn preadv2(call: &mut Call<'_>) -> Answer {
    let [.., offset, _, flags] = call.args();
    if flags != 0 {
        return refuse(libc::EOPNOTSUPP);
    }
    if signed(offset) == -1 {
        readv(call)
    } else {
        preadv(call)
    }
}

pub(super) fn write(call: &mut Call<'_>) -> Answer {
    let [fd, at, len, ..] = call.args();
    write_ranges(call, low_i32(fd), &[(at, len.min(LONGEST))], None)
}

pub(super) fn writev(call: &mut Call<'_>) -> Answer {
    let [fd, at, count, ..] = call.args();
    let ranges = transfer::read_vectors(call.memory, at, u64::from(low_u32(count)))?;
    write_ranges(call, low_i32(fd), &ranges, None)
}

pub(super) fn pwrite64(call: &mut Call<'_>) -> Answer {
    let [fd, at, len, offset, ..] = call.args();
    let offset = checked_offset(offset)?;
    write_ranges(call, low_i32(fd), &[(at, len.min(LONGEST))], Some(offset))
}

pub(super) fn pwritev(call: &mut Call<'_>) -> Answer {
    let [fd, at, count, offset, ..] = call.args();
    let offset = checked_offset(offset)?;
    let ranges = transfer::read_vectors(call.memory, at, u64::from(low_u32(count)))?;
    write_ranges(call, low_i32(fd), &ranges, Some(offset))
}

pub(super) fn pwritev2(call: &mut Call<'_>) -> Answer {
    let [.., offset, _, flags] = call.args();
    if flags != 0 {
        return refuse(libc::EOPNOTSUPP);
    }
    if signed(offset) == -1 {
        writev(call)
    } else {
        pwritev(call)
    }
}

fn checked_offset(offset: u64) -> Result<u64, Errno> {
    if signed(offset) < 0 {
        Err(Errno(libc::EINVAL))
    } else {
        Ok(offset)
    }
}

/// The first range that has a length: all that calls on devices and events look at.
fn first(ranges: &[(u64, u64)]) -> (u64, u64) {
    ranges
        .iter()
        .copied()
        .find(|&(_, len)| len > 0)
        .unwrap_or((0, 0))
}

fn read_ranges(
    call: &mut Call<'_>,
    fd: i32,
    ranges: &[(u64, u64)],
    at_offset: Option<u64>,
) -> Answer {
    let (at, len) = first(ranges);
    let opened = call.process.files().get(fd)?;
    match &opened.kind {
        Kind::File(file) => {
            let file = file.clone();
            read_file(call, fd, &file, ranges, at_offset)
        }
        Kind::Directory(_) => refuse(libc::EISDIR),
        Kind::Device(device) => {
            let device = *device;
            read_device(call, device, at, len)
        }
        Kind::Input if at_offset.is_none() => Ok(0),
        Kind::Output(_) if at_offset.is_none() => refuse(libc::EBADF),
        Kind::PipeReader(pipe) if at_offset.is_none() => {
            let pipe = *pipe;
            pipes::read_pipe(call, fd, pipe, ranges)
        }
        Kind::Event(_) if at_offset.is_none() => pipes::read_event(call, fd, at, len),
        Kind::PipeWriter(_) if at_offset.is_none() => refuse(libc::EBADF),
        Kind::Epoll(_) => refuse(libc::EINVAL),
        _ => refuse(libc::ESPIPE),
    }
}

fn read_device(call: &mut Call<'_>, device: Device, at: u64, len: u64) -> Answer {
    let len = len.min(DEVICE_STEP);
    match device {
        Device::Null => Ok(0),
        Device::Zero => {
            call.memory.fill_zero(GuestVirt::new(at), len)?;
            Ok(len)
        }
        Device::Random => random::fill(call, at, len),
    }
}

fn read_file(
    call: &mut Call<'_>,
    fd: i32,
    open: &HostFile,
    ranges: &[(u64, u64)],
    at_offset: Option<u64>,
) -> Answer {
    if !open.readable {
        return refuse(libc::EBADF);
    }
    let start = at_offset.unwrap_or(open.offset);
    let read = each_range(ranges, call.deadline, |done, at, len| {
        transfer::read_at(call, &open.file, start.saturating_add(done), at, len)
    })?;
    if at_offset.is_none() && read > 0 {
        set_offset(call, fd, start.saturating_add(read))?;
    }
    Ok(read)
}

/// Calls `step` for range after range until one comes out short or the deadline has come; an error
/// counts only where nothing was moved before it.
fn each_range(
    ranges: &[(u64, u64)],
    deadline: Instant,
    mut step: impl FnMut(u64, u64, u64) -> Answer,
) -> Result<u64, Stop> {
    let mut done: u64 = 0;
    for &(at, len) in ranges {
        if done > 0 && Instant::now() >= deadline {
            break;
        }
        let left = LONGEST.saturating_sub(done);
        match step(done, at, len.min(left)) {
            Ok(moved) => {
                done += moved;
                if moved < len {
                    break;
                }
            }
            Err(Stop::Errno(_)) if done > 0 => break,
            Err(stop) => return Err(stop),
        }
    }
    Ok(done)
}

fn set_offset(call: &mut Call<'_>, fd: i32, offset: u64) -> Result<(), Errno> {
    if let Kind::File(file) = &mut call.process.files_mut().get_mut(fd)?.kind {
        file.offset = offset;
    }
    Ok(())
}

fn write_ranges(
    call: &mut Call<'_>,
    fd: i32,
    ranges: &[(u64, u64)],
    at_offset: Option<u64>,
) -> Answer {
    let (at, len) = first(ranges);
    let opened = call.process.files().get(fd)?;
    match &opened.kind {
        Kind::Output(stream) if at_offset.is_none() => {
            let stream = *stream;
            write_output(call, stream, ranges)
        }
        Kind::File(file) => {
            let file = file.clone();
            write_file(call, fd, &file, ranges, at_offset)
        }
        Kind::Directory(_) | Kind::Input => refuse(libc::EBADF),
        Kind::Device(_) => Ok(ranges
            .iter()
            .fold(0, |sum: u64, &(_, len)| sum.saturating_add(len))),
        Kind::PipeWriter(pipe) if at_offset.is_none() => {
            let pipe = *pipe;
            pipes::write_pipe(call, fd, pipe, ranges)
        }
        Kind::Event(_) if at_offset.is_none() => pipes::write_event(call, fd, at, len),
        Kind::PipeReader(_) if at_offset.is_none() => refuse(libc::EBADF),
        Kind::Epoll(_) => refuse(libc::EINVAL),
        _ => refuse(libc::ESPIPE),
    }
}

fn write_file(
    call: &mut Call<'_>,
    fd: i32,
    open: &HostFile,
    ranges: &[(u64, u64)],
    at_offset: Option<u64>,
) -> Answer {
    if !open.writable {
        return refuse(libc::EBADF);
    }
    if !call.process.may_write {
        return refuse(libc::EPERM);
    }
    let start = at_offset.unwrap_or(open.offset);
    let written = each_range(ranges, call.deadline, |done, at, len| {
        transfer::write_at(call, open, start.saturating_add(done), at, len)
    })?;
    if at_offset.is_none() && written > 0 {
        let end = if open.append {
            status::of_host(&open.file)?.size
        } else {
            start.saturating_add(written)
        };
        set_offset(call, fd, end)?;
    }
    Ok(written)
}

/// Text for the host's log. One call gives it at most [`OUTPUT_STEP`] bytes, one request no more
/// than its budget; what is over is accepted and dropped.
fn write_output(call: &mut Call<'_>, stream: u8, ranges: &[(u64, u64)]) -> Answer {
    let total = ranges
        .iter()
        .fold(0, |sum: u64, &(_, len)| sum.saturating_add(len));
    if call.process.output_left == 0 {
        return Ok(total);
    }
    let mut text = Vec::new();
    for &(at, len) in ranges {
        let room = OUTPUT_STEP - text.len();
        let take = len.min(to_u64(room));
        match call.memory.read_bytes(GuestVirt::new(at), take, room) {
            Ok(bytes) => text.extend(bytes),
            Err(_) if !text.is_empty() => break,
            Err(error) => return Err(error.into()),
        }
    }
    let taken = to_u64(text.len());
    emit(call, stream, &text);
    Ok(taken)
}

/// Passes text on, within the budget of this request.
pub(super) fn emit(call: &mut Call<'_>, stream: u8, text: &[u8]) {
    let left = usize::try_from(call.process.output_left).unwrap_or(usize::MAX);
    let within = text.get(..left).unwrap_or(text);
    if !within.is_empty() {
        call.output.output(stream, within);
        call.process.output_left -= to_u64(within.len());
    }
    if within.len() < text.len() && !call.process.output_cut {
        call.process.output_cut = true;
        call.output.output(
            stream,
            b"[more than 1 MiB of output: the rest is dropped]\n",
        );
    }
}

pub(super) fn lseek(call: &mut Call<'_>) -> Answer {
    let [fd, offset, whence, ..] = call.args();
    let (fd, offset) = (low_i32(fd), signed(offset));
    let (now, size) = match &call.process.files().get(fd)?.kind {
        Kind::File(file) => (file.offset, status::of_host(&file.file)?.size),
        Kind::Directory(directory) => (unsigned(directory.position), 0),
        Kind::Device(_) => return Ok(0),
        _ => return refuse(libc::ESPIPE),
    };
    let base = match low_i32(whence) {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => signed(now),
        libc::SEEK_END => signed(size),
        // A file without holes, as far as the guest can tell.
        libc::SEEK_DATA if (0..signed(size)).contains(&offset) => 0,
        libc::SEEK_HOLE if (0..signed(size)).contains(&offset) => signed(size) - offset,
        libc::SEEK_DATA | libc::SEEK_HOLE => return refuse(libc::ENXIO),
        _ => return refuse(libc::EINVAL),
    };
    let to = base
        .checked_add(offset)
        .filter(|to| *to >= 0)
        .ok_or(Errno(libc::EINVAL))?;
    match &mut call.process.files_mut().get_mut(fd)?.kind {
        Kind::File(file) => file.offset = unsigned(to),
        Kind::Directory(directory) => directory.position = to,
        _ => {}
    }
    Ok(unsigned(to))
}

pub(super) fn fadvise64(call: &mut Call<'_>) -> Answer {
    let [fd, ..] = call.args();
    match call.process.files().get(low_i32(fd))?.kind {
        Kind::PipeReader(_) | Kind::PipeWriter(_) => refuse(libc::ESPIPE),
        _ => Ok(0),
    }
}
