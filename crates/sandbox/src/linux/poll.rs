//! poll(2) and select(2). Whether a descriptor is ready depends on this VM alone, so it cannot
//! change during the call: either something is ready now, or the time-out decides.

use std::collections::HashMap;
use std::time::Duration;

use super::args::low_i32;
use super::fds::{Descriptors, Kind, MAX_DESCRIPTORS};
use super::{Answer, Call, Errno, Stop, deadlock, refuse, time};
use crate::address::GuestVirt;
use crate::arith::to_u64;

pub(super) const IN: u32 = 0x1;
pub(super) const OUT: u32 = 0x4;
pub(super) const ERR: u32 = 0x8;
pub(super) const HUP: u32 = 0x10;
const NVAL: u32 = 0x20;
/// POLLRDNORM, POLLWRNORM: the same in other words.
const READ_NORMAL: u32 = 0x40;
const WRITE_NORMAL: u32 = 0x100;

fn when(holds: bool, bits: u32) -> u32 {
    if holds { bits } else { 0 }
}

/// What could be done with an open file right now without waiting.
pub(super) fn readiness(table: &Descriptors, kind: &Kind) -> u32 {
    match kind {
        Kind::Input => IN,
        Kind::Output(_) => OUT,
        Kind::Device(_) | Kind::File(_) | Kind::Directory(_) => IN | OUT,
        Kind::PipeReader(pipe) => {
            let filled = table.pipe(*pipe).is_ok_and(|pipe| pipe.len() > 0);
            let abandoned = !table.pipe_has_end(&Kind::PipeWriter(*pipe));
            when(filled, IN) | when(abandoned, HUP)
        }
        Kind::PipeWriter(pipe) => {
            let room = table.pipe(*pipe).is_ok_and(|pipe| pipe.room() >= 4096);
            let abandoned = !table.pipe_has_end(&Kind::PipeReader(*pipe));
            when(room, OUT) | when(abandoned, ERR)
        }
        Kind::Event(event) => when(event.count > 0, IN) | when(!event.is_full(), OUT),
        Kind::Epoll(interests) => when(
            interests
                .iter()
                .any(|interest| interest.ready(table).is_some()),
            IN,
        ),
    }
}

/// What a call has found about open files: one behind a thousand descriptors is looked at once.
#[derive(Default)]
struct Looked(HashMap<usize, u32>);

impl Looked {
    fn readiness(&mut self, table: &Descriptors, fd: i32) -> Result<u32, Errno> {
        let identity = table.identity(fd)?;
        let kind = &table.get(fd)?.kind;
        let look = || readiness(table, kind);
        Ok(*self.0.entry(identity).or_insert_with(look))
    }
}

fn ready_events(table: &Descriptors, looked: &mut Looked, fd: i32, wanted: u32) -> u32 {
    let Ok(ready) = looked.readiness(table, fd) else {
        return NVAL;
    };
    let normal = when(ready & IN != 0, READ_NORMAL) | when(ready & OUT != 0, WRITE_NORMAL);
    (ready | normal) & (wanted | ERR | HUP)
}

/// Lets a time-out pass during which nothing can happen.
pub(super) fn wait_in_vain(call: &Call<'_>, timeout: Option<Duration>) -> Result<(), Stop> {
    match timeout {
        None => deadlock("it polls descriptors that only itself could make ready"),
        Some(timeout) if timeout.is_zero() => Ok(()),
        Some(timeout) => time::sleep_until(call, time::after(timeout)),
    }
}

pub(super) fn poll(call: &mut Call<'_>) -> Answer {
    let [.., timeout, _, _, _] = call.args();
    poll_for(call, time::millis(low_i32(timeout)))
}

pub(super) fn ppoll(call: &mut Call<'_>) -> Answer {
    let [_, _, timeout, ..] = call.args();
    let timeout = match timeout {
        0 => None,
        at => Some(time::read_timespec(call, at)?),
    };
    poll_for(call, timeout)
}

fn poll_for(call: &mut Call<'_>, timeout: Option<Duration>) -> Answer {
    const ENTRY: usize = 8;
    let [at, count, ..] = call.args();
    if count > to_u64(MAX_DESCRIPTORS) {
        return refuse(libc::EINVAL);
    }
    let at = GuestVirt::new(at);
    let mut entries = call
        .memory
        .read_bytes(at, count * 8, MAX_DESCRIPTORS * ENTRY)?;
    let table = call.process.files();
    let mut looked = Looked::default();
    let mut ready = 0;
    for entry in entries.chunks_exact_mut(ENTRY) {
        let [a, b, c, d, e, f, revents @ ..] = entry else {
            continue;
        };
        let fd = i32::from_le_bytes([*a, *b, *c, *d]);
        let wanted = u32::from(u16::from_le_bytes([*e, *f]));
        let events = if fd < 0 {
            0
        } else {
            ready_events(table, &mut looked, fd, wanted)
        };
        ready += u64::from(events != 0);
        let [low, high, ..] = events.to_le_bytes();
        revents
            .iter_mut()
            .zip([low, high])
            .for_each(|(to, from)| *to = from);
    }
    call.memory.write(at, &entries)?;
    if ready == 0 {
        wait_in_vain(call, timeout)?;
    }
    Ok(ready)
}

pub(super) fn select(call: &mut Call<'_>) -> Answer {
    let [_, _, _, _, timeout, _] = call.args();
    let timeout = match timeout {
        0 => None,
        at => Some(time::read_timeval(call, at)?),
    };
    select_for(call, timeout)
}

pub(super) fn pselect6(call: &mut Call<'_>) -> Answer {
    let [_, _, _, _, timeout, _] = call.args();
    let timeout = match timeout {
        0 => None,
        at => Some(time::read_timespec(call, at)?),
    };
    select_for(call, timeout)
}

fn select_for(call: &mut Call<'_>, timeout: Option<Duration>) -> Answer {
    let [count, read, write, except, ..] = call.args();
    let count = usize::try_from(low_i32(count)).map_err(|_| Errno(libc::EINVAL))?;
    if count > MAX_DESCRIPTORS {
        return refuse(libc::EINVAL);
    }
    let len = count.div_ceil(64) * 8;
    let mut looked = Looked::default();
    let mut ready = 0;
    let mut results = [const { Vec::new() }; 3];
    let interest = [IN | HUP | ERR, OUT | ERR, 0];
    for ((at, mask), result) in [read, write, except]
        .into_iter()
        .zip(interest)
        .zip(&mut results)
    {
        if at == 0 {
            continue;
        }
        let mut set = call
            .memory
            .read_bytes(GuestVirt::new(at), to_u64(len), len)?;
        for fd in 0..count {
            let Some(byte) = set.get_mut(fd / 8) else {
                continue;
            };
            let bit = 1_u8 << (fd % 8);
            if *byte & bit == 0 {
                continue;
            }
            let fd = i32::try_from(fd).map_err(|_| Errno(libc::EINVAL))?;
            if looked.readiness(call.process.files(), fd)? & mask == 0 {
                *byte &= !bit;
            } else {
                ready += 1;
            }
        }
        *result = set;
    }
    if ready == 0 {
        wait_in_vain(call, timeout)?;
    }
    for (at, set) in [read, write, except].into_iter().zip(&results) {
        if at != 0 {
            call.memory.write(GuestVirt::new(at), set)?;
        }
    }
    Ok(ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_behind_many_descriptors_is_looked_at_once() {
        let mut table = Descriptors::standard();
        let set = table.insert(Kind::Epoll(Vec::new()), false, false).unwrap();
        let mut looked = Looked::default();
        for to in 100..1000 {
            table.duplicate_to(set, to, false).unwrap();
            assert_eq!(looked.readiness(&table, to), Ok(0));
        }
        assert_eq!(looked.0.len(), 1);
        assert_eq!(looked.readiness(&table, 50), Err(Errno(libc::EBADF)));
    }
}
