//! What the program may have, as it can ask for it. The sandbox enforces its own limits; setting
//! one here is accepted and changes nothing.

use super::args::{Record, low_u32, read_words};
use super::fds::MAX_DESCRIPTORS;
use super::identity::is_self;
use super::{Answer, Call, Stop, refuse, time};
use crate::address::GuestVirt;
use crate::arith::to_u64;

const INFINITY: u64 = u64::MAX;

/// What a file that the program writes may have: one that does not fit into its memory is of no
/// use to it. Whatever makes a file longer asks here.
pub(super) fn max_file_size(call: &Call<'_>) -> u64 {
    call.process.facts.memory
}

fn limit(call: &Call<'_>, resource: u32) -> Result<u64, Stop> {
    match resource {
        libc::RLIMIT_STACK => Ok(call.process.facts.stack),
        libc::RLIMIT_FSIZE => Ok(max_file_size(call)),
        libc::RLIMIT_NOFILE => Ok(to_u64(MAX_DESCRIPTORS)),
        libc::RLIMIT_NPROC => Ok(1),
        libc::RLIMIT_CORE | libc::RLIMIT_RTPRIO | libc::RLIMIT_NICE | libc::RLIMIT_MSGQUEUE => {
            Ok(0)
        }
        0..=15 => Ok(INFINITY),
        _ => refuse(libc::EINVAL),
    }
}

fn write_limit(call: &mut Call<'_>, resource: u32, at: u64) -> Result<(), Stop> {
    let limit = limit(call, resource)?;
    Record::<16>::new()
        .u64(0, limit)
        .u64(8, limit)
        .write(call.memory, at)?;
    Ok(())
}

fn check_new(call: &Call<'_>, resource: u32, at: u64) -> Result<(), Stop> {
    let [soft, hard] = read_words(call.memory, GuestVirt::new(at))?;
    if soft > hard {
        return refuse(libc::EINVAL);
    }
    if hard > limit(call, resource)? {
        refuse(libc::EPERM)
    } else {
        Ok(())
    }
}

pub(super) fn getrlimit(call: &mut Call<'_>) -> Answer {
    let [resource, at, ..] = call.args();
    write_limit(call, low_u32(resource), at)?;
    Ok(0)
}

pub(super) fn setrlimit(call: &mut Call<'_>) -> Answer {
    let [resource, at, ..] = call.args();
    check_new(call, low_u32(resource), at)?;
    Ok(0)
}

pub(super) fn prlimit64(call: &mut Call<'_>) -> Answer {
    let [of, resource, new, old, ..] = call.args();
    if !is_self(of) {
        return refuse(libc::ESRCH);
    }
    let resource = low_u32(resource);
    limit(call, resource)?;
    if new != 0 {
        check_new(call, resource, new)?;
    }
    if old != 0 {
        write_limit(call, resource, old)?;
    }
    Ok(0)
}

pub(super) fn sysinfo(call: &mut Call<'_>) -> Answer {
    let [at, ..] = call.args();
    let memory = call.process.facts.memory;
    Record::<112>::new()
        .u64(0, time::uptime(call))
        .u64(32, memory)
        .u64(40, memory)
        .u16(80, 1)
        .u32(104, 1)
        .write(call.memory, at)?;
    Ok(0)
}
