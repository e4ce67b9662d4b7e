//! This process's file descriptors, which varnishd needs for its clients: which of them are for whom.
//!
//! The kernel gives out the lowest number that is free (open(2)), so a number tells how many are open
//! at least.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

/// Who holds one. What a guest may have open leaves some for VMs, those leave some for the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    Guest,
    Machine,
    Host,
}

impl Holder {
    /// Below which number its descriptors have to be, where `limit` are possible.
    fn bound(self, limit: u64) -> u64 {
        let eighths = match self {
            Self::Guest => 4,
            Self::Machine => 6,
            Self::Host => 7,
        };
        (limit / 8).saturating_mul(eighths)
    }

    /// Whether it may keep a descriptor that it has just been given.
    pub(crate) fn may_keep(self, descriptor: &impl AsRawFd) -> bool {
        self.may_have(descriptor.as_raw_fd(), limit())
    }

    fn may_have(self, number: RawFd, limit: u64) -> bool {
        u64::try_from(number).is_ok_and(|number| number < self.bound(limit))
    }
}

/// Whether so few are left that whoever cannot do without one should wait.
pub fn descriptors_are_scarce() -> bool {
    !File::open("/dev/null").is_ok_and(|file| Holder::Host.may_keep(&file))
}

/// How many this process may have (`RLIMIT_NOFILE`, getrlimit(2)).
pub(crate) fn limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes to `limit`, which lives during the call.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } {
        0 => limit.rlim_cur,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_leave_descriptors_for_machines_and_both_leave_some_for_the_host() {
        let last = |holder: Holder| {
            (0..2000)
                .take_while(|&fd| holder.may_have(fd, 1024))
                .count()
        };
        assert_eq!(last(Holder::Guest), 512);
        assert_eq!(last(Holder::Machine), 768);
        assert_eq!(last(Holder::Host), 896);
        assert!(Holder::Guest.may_have(1_000_000, libc::RLIM_INFINITY));
        assert!(!Holder::Host.may_have(-1, 1024));
        assert!(!descriptors_are_scarce());
    }
}
