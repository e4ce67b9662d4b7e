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

/// Frames whose translations KVM must forget, gathered into runs. Each run costs two system calls that
/// lock the process's address space: behind some of them, what is between goes along.
#[derive(Debug, Default)]
pub(super) struct Stale {
    run: Option<Run>,
    forgotten: u32,
    failed: Option<io::Error>,
}

impl Stale {
    const MOST_RUNS: u32 = 256;

    pub(super) fn add(&mut self, memory: &Memory, frame: GuestPhys) {
        let frame = frame.raw();
        if let Some(run) = &mut self.run {
            let (start, end) = (run.start.raw(), run.start.raw() + run.pages * PAGE_SIZE);
            let beside = frame == end || frame + PAGE_SIZE == start;
            if beside || self.forgotten >= Self::MOST_RUNS {
                let start = start.min(frame);
                let end = end.max(frame + PAGE_SIZE);
                *run = Run {
                    start: GuestPhys::new(start),
                    pages: (end - start) / PAGE_SIZE,
                };
                return;
            }
        }
        self.forget(memory);
        self.run = Some(Run {
            start: GuestPhys::new(frame),
            pages: 1,
        });
    }

    /// Ends the gathering. With an error the guest may still have the rights of before.
    pub(super) fn flush(mut self, memory: &Memory) -> io::Result<()> {
        self.forget(memory);
        self.failed.map_or(Ok(()), Err)
    }

    fn forget(&mut self, memory: &Memory) {
        let Some(run) = self.run.take() else { return };
        self.forgotten = self.forgotten.saturating_add(1);
        let len = run.pages * PAGE_SIZE;
        if let Err(error) = memory.backing.forget_translations(run.start, len) {
            self.failed = Some(error);
        }
    }
}
