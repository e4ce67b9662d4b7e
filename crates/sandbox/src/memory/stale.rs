//! Translations that are wrong once a page-table entry has changed.

use std::io;

use super::Memory;
use super::frames::Run;
use super::paging::{self, ACCESSED, NO_EXECUTE, PRESENT, WRITE};
use crate::address::{GuestPhys, PAGE_SIZE};

/// Whether a translation made from `old` may allow what `new` does not.
pub(super) fn takes_away(old: u64, new: u64) -> bool {
    let lost = old & !new & (PRESENT | WRITE) != 0;
    let no_longer_executable = new & !old & NO_EXECUTE != 0;
    let moved = paging::frame_of(old) != paging::frame_of(new);
    old & PRESENT != 0 && old & ACCESSED != 0 && (lost || no_longer_executable || moved)
}

/// Frames whose translations KVM must forget, gathered into runs.
#[derive(Debug, Default)]
pub(super) struct Stale {
    run: Option<Run>,
    failed: Option<io::Error>,
}

impl Stale {
    pub(super) fn add(&mut self, memory: &Memory, frame: GuestPhys) {
        if let Some(run) = &mut self.run
            && run.start.raw() + run.pages * PAGE_SIZE == frame.raw()
        {
            run.pages += 1;
            return;
        }
        self.forget(memory);
        self.run = Some(Run {
            start: frame,
            pages: 1,
        });
    }

    /// Ends the gathering. With an error the guest may still have the rights of before.
    pub(super) fn flush(mut self, memory: &Memory) -> io::Result<()> {
        self.forget(memory);
        self.failed.map_or(Ok(()), Err)
    }

    fn forget(&mut self, memory: &Memory) {
        if let Some(run) = self.run.take()
            && let Err(error) = memory
                .backing
                .forget_translations(run.start, run.pages * PAGE_SIZE)
        {
            self.failed = Some(error);
        }
    }
}
