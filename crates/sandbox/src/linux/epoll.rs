//! epoll(7) over the descriptors that have a readiness: pipes, events, output. As in `poll.rs`,
//! nothing becomes ready while the call waits.

use std::time::Duration;

use super::args::{low_i32, low_u32};
use super::fds::{Descriptors, Kind};
use super::{Answer, Call, Errno, Stop, files, poll, refuse, time};
use crate::address::GuestVirt;

/// Interests in all sets of a VM together.
const MAX_INTERESTS: usize = 4096;
const EDGE: u32 = 1 << 31;
const ONE_SHOT: u32 = 1 << 30;

/// One descriptor in an epoll set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interest {
    fd: i32,
    /// The open file behind `fd` when it was added.
    pub(super) identity: usize,
    events: u32,
    data: u64,
    /// What an edge-triggered interest reported last: nothing new until this changes.
    reported: Option<(u64, u32)>,
    /// A one-shot interest that fired.
    spent: bool,
}

impl Interest {
    /// The events to report now, with the activity they stand for.
    pub(super) fn ready(&self, table: &Descriptors) -> Option<(u64, u32)> {
        let opened = table.opened_at(self.identity)?;
        let wanted = self.events | poll::ERR | poll::HUP;
        let events = match opened.kind {
            // Sets do not nest, so this ends.
            Kind::Epoll(_) => 0,
            ref kind => poll::readiness(table, kind) & wanted,
        };
        let activity = match &opened.kind {
            Kind::Event(event) => event.activity,
            Kind::PipeReader(pipe) | Kind::PipeWriter(pipe) => {
                table.pipe(*pipe).map_or(0, |pipe| pipe.activity)
            }
            _ => 0,
        };
        let edge_is_old = self.events & EDGE != 0 && self.reported == Some((activity, events));
        (events != 0 && !self.spent && !edge_is_old).then_some((activity, events))
    }
}

pub(super) fn epoll_create(call: &mut Call<'_>) -> Answer {
    let [size, ..] = call.args();
    if low_i32(size) <= 0 {
        return refuse(libc::EINVAL);
    }
    create(call, false)
}

pub(super) fn epoll_create1(call: &mut Call<'_>) -> Answer {
    let [flags, ..] = call.args();
    match low_i32(flags) {
        0 => create(call, false),
        libc::EPOLL_CLOEXEC => create(call, true),
        _ => refuse(libc::EINVAL),
    }
}

fn create(call: &mut Call<'_>, close_on_exec: bool) -> Answer {
    let kind = Kind::Epoll(Vec::new());
    Ok(files::fd_value(call.process.files_mut().insert(
        kind,
        false,
        close_on_exec,
    )?))
}

fn interests(table: &Descriptors, set: i32) -> Result<&[Interest], Stop> {
    match &table.get(set)?.kind {
        Kind::Epoll(interests) => Ok(interests),
        _ => refuse(libc::EINVAL),
    }
}

fn interests_mut<'a>(call: &'a mut Call<'_>, set: i32) -> Result<&'a mut Vec<Interest>, Stop> {
    match &mut call.process.files_mut().get_mut(set)?.kind {
        Kind::Epoll(interests) => Ok(interests),
        _ => refuse(libc::EINVAL),
    }
}

pub(super) fn epoll_ctl(call: &mut Call<'_>) -> Answer {
    let [set, operation, fd, at, ..] = call.args();
    let (set, operation, fd) = (low_i32(set), low_i32(operation), low_i32(fd));
    interests(call.process.files(), set)?;
    let identity = call.process.files().identity(fd)?;
    match &call.process.files().get(fd)?.kind {
        Kind::Epoll(_) => return refuse(libc::EINVAL),
        Kind::File(_) | Kind::Directory(_) | Kind::Device(_) | Kind::Input => {
            return refuse(libc::EPERM);
        }
        Kind::Output(_) | Kind::PipeReader(_) | Kind::PipeWriter(_) | Kind::Event(_) => {}
    }
    let same = |interest: &Interest| interest.fd == fd && interest.identity == identity;
    let known = interests(call.process.files(), set)?.iter().position(same);
    if operation == libc::EPOLL_CTL_DEL {
        let Some(known) = known else {
            return refuse(libc::ENOENT);
        };
        interests_mut(call, set)?.remove(known);
        return Ok(0);
    }
    // struct epoll_event is packed on x86-64: events, then data.
    let events = call.memory.read_u32(GuestVirt::new(at))?;
    let data = call.memory.read_u64(GuestVirt::new(at.wrapping_add(4)))?;
    let interest = Interest {
        fd,
        identity,
        events,
        data,
        reported: None,
        spent: false,
    };
    match (operation, known) {
        (libc::EPOLL_CTL_ADD, Some(_)) => refuse(libc::EEXIST),
        (libc::EPOLL_CTL_ADD, None) => {
            if call.process.files().interests() >= MAX_INTERESTS {
                return refuse(libc::ENOSPC);
            }
            interests_mut(call, set)?.push(interest);
            Ok(0)
        }
        (libc::EPOLL_CTL_MOD, Some(known)) => {
            if let Some(place) = interests_mut(call, set)?.get_mut(known) {
                *place = interest;
            }
            Ok(0)
        }
        (libc::EPOLL_CTL_MOD, None) => refuse(libc::ENOENT),
        _ => refuse(libc::EINVAL),
    }
}

/// epoll_wait(2) and epoll_pwait(2).
pub(super) fn epoll_wait(call: &mut Call<'_>) -> Answer {
    let [_, _, _, timeout, ..] = call.args();
    wait(call, time::millis(low_i32(timeout)))
}

pub(super) fn epoll_pwait2(call: &mut Call<'_>) -> Answer {
    let [_, _, _, timeout, ..] = call.args();
    let timeout = match timeout {
        0 => None,
        at => Some(time::read_timespec(call, at)?),
    };
    wait(call, timeout)
}

fn wait(call: &mut Call<'_>, timeout: Option<Duration>) -> Answer {
    let [set, at, max, ..] = call.args();
    let set = low_i32(set);
    let max = usize::try_from(low_i32(max)).map_err(|_| Errno(libc::EINVAL))?;
    if max == 0 {
        return refuse(libc::EINVAL);
    }
    let table = call.process.files();
    let found: Vec<_> = interests(table, set)?
        .iter()
        .enumerate()
        .filter_map(|(index, interest)| Some((index, *interest, interest.ready(table)?)))
        .take(max)
        .collect();
    let mut next = at;
    for (_, interest, (_, events)) in &found {
        let mut entry = [0; 12];
        let bytes = events
            .to_le_bytes()
            .into_iter()
            .chain(interest.data.to_le_bytes());
        entry
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = from);
        call.memory.write(GuestVirt::new(next), &entry)?;
        next = next.wrapping_add(12);
    }
    for (index, interest, report) in &found {
        if interest.events & (EDGE | ONE_SHOT) == 0 {
            continue;
        }
        if let Some(place) = interests_mut(call, set)?.get_mut(*index) {
            place.reported = Some(*report);
            place.spent = interest.events & ONE_SHOT != 0;
        }
    }
    if found.is_empty() {
        poll::wait_in_vain(call, timeout)?;
    }
    Ok(u64::from(low_u32(crate::arith::to_u64(found.len()))))
}
