//! Clocks and sleeping. No sleep outlasts the deadline of the call: what would ends in
//! [`Fault::TimedOut`] when the deadline comes.

use std::time::{Duration, Instant};

use super::args::{Record, low_i32, read_words, signed, unsigned};
use super::{Answer, Call, Errno, Stop, refuse};
use crate::Fault;
use crate::address::GuestVirt;
use crate::clock;

/// A time interval or a point in time, as a `struct timespec` says it.
pub(super) fn read_timespec(call: &Call<'_>, at: u64) -> Result<Duration, Stop> {
    let [seconds, nanos] = read_words(call.memory, GuestVirt::new(at))?;
    match u32::try_from(nanos) {
        Ok(nanos) if nanos < 1_000_000_000 && signed(seconds) >= 0 => {
            Ok(Duration::new(seconds, nanos))
        }
        _ => refuse(libc::EINVAL),
    }
}

/// A time interval, as a `struct timeval` says it.
pub(super) fn read_timeval(call: &Call<'_>, at: u64) -> Result<Duration, Stop> {
    let [seconds, micros] = read_words(call.memory, GuestVirt::new(at))?;
    if signed(seconds) < 0 || signed(micros) < 0 {
        return refuse(libc::EINVAL);
    }
    let micros = Duration::from_micros(micros);
    Duration::from_secs(seconds)
        .checked_add(micros)
        .ok_or(Stop::Errno(Errno(libc::EINVAL)))
}

/// When this much time has passed; `None` is beyond every deadline.
pub(super) fn after(interval: Duration) -> Option<Instant> {
    Instant::now().checked_add(interval)
}

/// When a clock of the host shows `time`; `None` is beyond every deadline.
pub(super) fn at(clock: i32, time: Duration) -> Result<Option<Instant>, Errno> {
    Ok(after(time.saturating_sub(host_clock(clock)?)))
}

/// Sleeps until `until`, or until the deadline and no longer.
pub(super) fn sleep_until(call: &Call<'_>, until: Option<Instant>) -> Result<(), Stop> {
    let deadline = call.deadline;
    let wake = until.map_or(deadline, |until| until.min(deadline));
    std::thread::sleep(wake.saturating_duration_since(Instant::now()));
    match until {
        Some(until) if until < deadline => Ok(()),
        _ => Err(Fault::TimedOut.into()),
    }
}

fn host_clock(clock: i32) -> Result<Duration, Errno> {
    clock::read(clock).ok_or_else(Errno::last)
}

/// What a clock shows to the guest. CPU time is the time since the program started: the host's own
/// CPU time is none of the guest's business.
fn guest_clock(call: &Call<'_>, clock: i32) -> Result<Duration, Errno> {
    match clock {
        libc::CLOCK_PROCESS_CPUTIME_ID | libc::CLOCK_THREAD_CPUTIME_ID => {
            Ok(call.process.facts.started.elapsed())
        }
        libc::CLOCK_REALTIME
        | libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_REALTIME_COARSE
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_BOOTTIME
        | libc::CLOCK_TAI => host_clock(clock),
        _ => Err(Errno(libc::EINVAL)),
    }
}

fn timespec(time: Duration) -> Record<16> {
    Record::new()
        .u64(0, time.as_secs())
        .u64(8, u64::from(time.subsec_nanos()))
}

/// `struct timeval`.
pub(super) fn timeval(time: Duration) -> Record<16> {
    Record::new()
        .u64(0, time.as_secs())
        .u64(8, u64::from(time.subsec_micros()))
}

pub(super) fn clock_gettime(call: &mut Call<'_>) -> Answer {
    let [clock, at, ..] = call.args();
    timespec(guest_clock(call, low_i32(clock))?).write(call.memory, at)?;
    Ok(0)
}

pub(super) fn clock_getres(call: &mut Call<'_>) -> Answer {
    let [clock, at, ..] = call.args();
    guest_clock(call, low_i32(clock))?;
    if at != 0 {
        timespec(Duration::from_nanos(1)).write(call.memory, at)?;
    }
    Ok(0)
}

pub(super) fn gettimeofday(call: &mut Call<'_>) -> Answer {
    let [at, zone, ..] = call.args();
    if at != 0 {
        timeval(host_clock(libc::CLOCK_REALTIME)?).write(call.memory, at)?;
    }
    if zone != 0 {
        Record::<8>::new().write(call.memory, zone)?;
    }
    Ok(0)
}

pub(super) fn time(call: &mut Call<'_>) -> Answer {
    let [at, ..] = call.args();
    let seconds = host_clock(libc::CLOCK_REALTIME)?.as_secs();
    if at != 0 {
        call.memory.write_u64(GuestVirt::new(at), seconds)?;
    }
    Ok(seconds)
}

pub(super) fn nanosleep(call: &mut Call<'_>) -> Answer {
    let [at, ..] = call.args();
    sleep_until(call, after(read_timespec(call, at)?))?;
    Ok(0)
}

pub(super) fn clock_nanosleep(call: &mut Call<'_>) -> Answer {
    let [clock, flags, at, ..] = call.args();
    let clock = low_i32(clock);
    match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_MONOTONIC | libc::CLOCK_BOOTTIME | libc::CLOCK_TAI => {}
        libc::CLOCK_PROCESS_CPUTIME_ID => return refuse(libc::EOPNOTSUPP),
        _ => return refuse(libc::EINVAL),
    }
    let time = read_timespec(call, at)?;
    let absolute = low_i32(flags) & libc::TIMER_ABSTIME != 0;
    let until = if absolute {
        self::at(clock, time)?
    } else {
        after(time)
    };
    sleep_until(call, until)?;
    Ok(0)
}

/// CPU time in clock ticks of 10 ms.
pub(super) fn times(call: &mut Call<'_>) -> Answer {
    let [at, ..] = call.args();
    let ticks = |time: Duration| {
        time.as_secs()
            .saturating_mul(100)
            .saturating_add(u64::from(time.subsec_millis() / 10))
    };
    if at != 0 {
        let cpu = ticks(call.process.facts.started.elapsed());
        Record::<32>::new().u64(0, cpu).write(call.memory, at)?;
    }
    Ok(ticks(host_clock(libc::CLOCK_BOOTTIME)?))
}

pub(super) fn getrusage(call: &mut Call<'_>) -> Answer {
    let [who, at, ..] = call.args();
    let used = match low_i32(who) {
        libc::RUSAGE_SELF | libc::RUSAGE_THREAD => call.process.facts.started.elapsed(),
        libc::RUSAGE_CHILDREN => Duration::ZERO,
        _ => return refuse(libc::EINVAL),
    };
    Record::<144>::new()
        .u64(0, used.as_secs())
        .u64(8, u64::from(used.subsec_micros()))
        .write(call.memory, at)?;
    Ok(0)
}

/// A time-out in milliseconds, as poll(2) and epoll_wait(2) take it: negative means none.
pub(super) fn millis(timeout: i32) -> Option<Duration> {
    u64::try_from(timeout).ok().map(Duration::from_millis)
}

/// Seconds since the program started, for sysinfo(2).
pub(super) fn uptime(call: &Call<'_>) -> u64 {
    unsigned(signed(call.process.facts.started.elapsed().as_secs()))
}
