//! The host's clocks.

use std::time::Duration;

/// What a clock shows (clock_gettime(2)); `None`, and errno says why, where the host has no such clock.
pub(crate) fn read(clock: i32) -> Option<Duration> {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is of the kernel's type and outlives the call.
    if unsafe { libc::clock_gettime(clock, &raw mut now) } != 0 {
        return None;
    }
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
    Some(Duration::new(seconds, nanoseconds))
}
