//! The frame page: what a guest finds fresh at every entry. The host rewrites it whole each time,
//! so it needs no reset; the guest can only read it.

use std::time::{Duration, SystemTime};

use crate::kvm::{Host, host_tsc};
use crate::{Regs, clock};
use tinykvm_sys::abi::{tinykvm_clock, tinykvm_frame};

/// Fresh random bytes are fetched from the kernel for so many entries at once.
const RANDOM_BATCH: usize = 64;

/// The frame of one VM, in the making.
#[derive(Debug)]
pub(crate) struct Frame {
    frame: tinykvm_frame,
    clock: Clock,
    random: [[u8; 16]; RANDOM_BATCH],
    random_left: usize,
}

impl Frame {
    pub(crate) fn new(host: &Host) -> Self {
        Self {
            frame: tinykvm_frame::default(),
            clock: Clock::new(host),
            random: [[0; 16]; RANDOM_BATCH],
            random_left: 0,
        }
    }

    /// Prepares a call: where to go, with which segment bases, and whether to reload CR3 first.
    pub(crate) fn prepare(&mut self, target: u64, fs_base: u64, gs_base: u64, reload: bool) {
        self.frame.target = target;
        self.frame.fs_base = fs_base;
        self.frame.gs_base = gs_base;
        self.frame.flush = u64::from(reload);
        self.frame.clock = self.clock.now();
        self.frame.random = self.next_random();
    }

    fn next_random(&mut self) -> [u8; 16] {
        if self.random_left == 0 {
            let bytes = self.random.as_flattened_mut();
            // SAFETY: the buffer is ours and as long as said. 1 KiB is more than the 256 bytes
            // that are never cut short, so the result is checked (getrandom(2)).
            let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
            self.random_left = usize::try_from(got).unwrap_or(0) / 16;
        }
        self.random_left = self.random_left.saturating_sub(1);
        self.random
            .get(self.random_left)
            .copied()
            .unwrap_or_default()
    }

    /// The page's content for an entry with these registers: the stub loads the last four itself.
    pub(crate) fn page(&self, regs: &Regs) -> tinykvm_frame {
        tinykvm_frame {
            rax: regs.rax,
            rcx: regs.rcx,
            rdx: regs.rdx,
            r11: regs.r11,
            ..self.frame
        }
    }
}

/// Turns the TSC into time, for the vDSO.
#[derive(Debug, Clone, Copy)]
struct Clock {
    mult: u64,
}

impl Clock {
    fn new(host: &Host) -> Self {
        let khz = if host.facts().shared_tsc {
            host.tsc_khz()
        } else {
            0
        };
        let mult = (1_000_000_u64 << 32).checked_div(khz).unwrap_or(0);
        Self { mult }
    }

    fn now(self) -> tinykvm_clock {
        if self.mult == 0 {
            return tinykvm_clock::default();
        }
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let realtime = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        tinykvm_clock {
            tsc_base: host_tsc(),
            mult: self.mult,
            realtime_ns: nanoseconds(realtime.unwrap_or_default()),
            monotonic_ns: nanoseconds(clock::read(libc::CLOCK_MONOTONIC).unwrap_or_default()),
            ..Default::default()
        }
    }
}
