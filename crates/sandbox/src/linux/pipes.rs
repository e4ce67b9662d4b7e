//! Pipes and event counters, kept in the host's memory: with one thread in the VM nobody else
//! could ever fill or empty them, so a read that would wait forever ends the run instead.

use std::collections::VecDeque;

use super::args::{low_i32, low_u32};
use super::fds::Kind;
use super::{Answer, Call, Errno, deadlock, refuse};
use crate::address::GuestVirt;
use crate::arith::{to_u64, to_usize};

/// Bytes in a pipe, as Linux has it.
const CAPACITY: usize = 65_536;
/// As `PIPE_BUF` says.
const ATOMIC: u64 = 4096;
/// The largest value an event counter takes.
const EVENT_MAX: u64 = u64::MAX - 1;

/// The bytes between the ends of a pipe.
#[derive(Debug, Clone)]
pub(super) struct Pipe {
    data: VecDeque<u8>,
    /// Whether each end is still open.
    pub(super) has_reader: bool,
    pub(super) has_writer: bool,
    /// Goes up with every read and write: what edge-triggered epoll looks at.
    pub(super) activity: u64,
}

impl Pipe {
    pub(super) fn new() -> Self {
        Self {
            data: VecDeque::new(),
            has_reader: true,
            has_writer: true,
            activity: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.data.len()
    }

    pub(super) fn room(&self) -> usize {
        CAPACITY.saturating_sub(self.data.len())
    }
}

/// An eventfd(2).
#[derive(Debug, Clone, Default)]
pub(super) struct Event {
    pub(super) count: u64,
    semaphore: bool,
    pub(super) activity: u64,
}

impl Event {
    pub(super) fn is_full(&self) -> bool {
        self.count >= EVENT_MAX
    }
}

pub(super) fn pipe(call: &mut Call<'_>) -> Answer {
    make_pipe(call, 0)
}

pub(super) fn pipe2(call: &mut Call<'_>) -> Answer {
    let [_, flags, ..] = call.args();
    make_pipe(call, low_i32(flags))
}

fn make_pipe(call: &mut Call<'_>, flags: i32) -> Answer {
    let [at, ..] = call.args();
    if flags & !(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_DIRECT) != 0 {
        return refuse(libc::EINVAL);
    }
    let (nonblocking, cloexec) = (flags & libc::O_NONBLOCK != 0, flags & libc::O_CLOEXEC != 0);
    let (reader, writer) = call.process.files_mut().insert_pipe(nonblocking, cloexec)?;
    let mut pair = reader.to_le_bytes().to_vec();
    pair.extend_from_slice(&writer.to_le_bytes());
    if let Err(error) = call.memory.write(GuestVirt::new(at), &pair) {
        call.process.files_mut().close(reader)?;
        call.process.files_mut().close(writer)?;
        return Err(error.into());
    }
    Ok(0)
}

pub(super) fn eventfd(call: &mut Call<'_>) -> Answer {
    make_event(call, 0)
}

pub(super) fn eventfd2(call: &mut Call<'_>) -> Answer {
    let [_, flags, ..] = call.args();
    make_event(call, low_i32(flags))
}

fn make_event(call: &mut Call<'_>, flags: i32) -> Answer {
    let [initial, ..] = call.args();
    if flags & !(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE) != 0 {
        return refuse(libc::EINVAL);
    }
    let event = Event {
        count: u64::from(low_u32(initial)),
        semaphore: flags & libc::EFD_SEMAPHORE != 0,
        activity: 0,
    };
    let (nonblocking, cloexec) = (
        flags & libc::EFD_NONBLOCK != 0,
        flags & libc::EFD_CLOEXEC != 0,
    );
    let fd = call
        .process
        .files_mut()
        .insert(Kind::Event(event), nonblocking, cloexec)?;
    Ok(super::files::fd_value(fd))
}

/// read(2) and readv(2) from a pipe.
pub(super) fn read_pipe(call: &mut Call<'_>, fd: i32, pipe: usize, to: &[(u64, u64)]) -> Answer {
    let nonblocking = call.process.files().get(fd)?.nonblocking;
    let available = call.process.files().pipe(pipe)?.len();
    if total(to) == 0 {
        return Ok(0);
    }
    if available == 0 {
        if !call.process.files().pipe_has_end(&Kind::PipeWriter(pipe)) {
            return Ok(0);
        }
        return if nonblocking {
            refuse(libc::EAGAIN)
        } else {
            deadlock("it reads from a pipe that only itself could write to")
        };
    }
    let take = to_usize(total(to).min(to_u64(available)));
    let bytes: Vec<u8> = call
        .process
        .files()
        .pipe(pipe)?
        .data
        .iter()
        .take(take)
        .copied()
        .collect();
    let mut rest = bytes.as_slice();
    for &(at, len) in to {
        let (now, later) = rest.split_at(to_usize(len.min(to_u64(rest.len()))));
        call.memory.write(GuestVirt::new(at), now)?;
        rest = later;
    }
    let pipe = call.process.files_mut().pipe_mut(pipe)?;
    pipe.data.drain(..take.min(pipe.data.len()));
    pipe.activity += 1;
    Ok(to_u64(take))
}

/// write(2) and writev(2) to a pipe: up to `ATOMIC` bytes go in together or not at all.
pub(super) fn write_pipe(call: &mut Call<'_>, fd: i32, pipe: usize, from: &[(u64, u64)]) -> Answer {
    let nonblocking = call.process.files().get(fd)?.nonblocking;
    let len = total(from);
    if len == 0 {
        return Ok(0);
    }
    if !call.process.files().pipe_has_end(&Kind::PipeReader(pipe)) {
        super::signals::raise(call, libc::SIGPIPE)?;
        return refuse(libc::EPIPE);
    }
    let room = call.process.files().pipe(pipe)?.room();
    if room == 0 || (len <= ATOMIC && len > to_u64(room)) {
        return if nonblocking {
            refuse(libc::EAGAIN)
        } else {
            deadlock("it writes to a full pipe that only itself could read from")
        };
    }
    let mut bytes = Vec::new();
    for &(at, len) in from {
        let left = room.saturating_sub(bytes.len());
        let take = len.min(to_u64(left));
        bytes.extend(call.memory.read_bytes(GuestVirt::new(at), take, left)?);
    }
    let pipe = call.process.files_mut().pipe_mut(pipe)?;
    pipe.data.extend(&bytes);
    pipe.activity += 1;
    Ok(to_u64(bytes.len()))
}

/// Bytes in all ranges together.
fn total(ranges: &[(u64, u64)]) -> u64 {
    ranges
        .iter()
        .fold(0, |sum, &(_, len)| sum.saturating_add(len))
}

/// read(2) from an event counter.
pub(super) fn read_event(call: &mut Call<'_>, fd: i32, at: u64, len: u64) -> Answer {
    let opened = call.process.files().get(fd)?;
    let Kind::Event(event) = &opened.kind else {
        return refuse(libc::EBADF);
    };
    if len < 8 {
        return refuse(libc::EINVAL);
    }
    if event.count == 0 {
        return if opened.nonblocking {
            refuse(libc::EAGAIN)
        } else {
            deadlock("it reads from an eventfd that only itself could write to")
        };
    }
    let value = if event.semaphore { 1 } else { event.count };
    call.memory.write_u64(GuestVirt::new(at), value)?;
    if let Kind::Event(event) = &mut call.process.files_mut().get_mut(fd)?.kind {
        event.count -= value;
        event.activity += 1;
    }
    Ok(8)
}

/// write(2) to an event counter.
pub(super) fn write_event(call: &mut Call<'_>, fd: i32, at: u64, len: u64) -> Answer {
    if len < 8 {
        return refuse(libc::EINVAL);
    }
    let value = call.memory.read_u64(GuestVirt::new(at))?;
    let opened = call.process.files_mut().get_mut(fd)?;
    let nonblocking = opened.nonblocking;
    let Kind::Event(event) = &mut opened.kind else {
        return Err(Errno(libc::EBADF).into());
    };
    if value == u64::MAX {
        return refuse(libc::EINVAL);
    }
    match event.count.checked_add(value) {
        Some(sum) if sum <= EVENT_MAX => {
            event.count = sum;
            event.activity += 1;
            Ok(8)
        }
        _ if nonblocking => refuse(libc::EAGAIN),
        _ => deadlock("it adds to a full eventfd that only itself could read from"),
    }
}
