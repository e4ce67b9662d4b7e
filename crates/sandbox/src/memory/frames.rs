//! Which guest-physical frames of a main VM are free.
//!
//! Contiguous runs come from a bump pointer, so that memory mapped at once is contiguous for the
//! host as well; freed runs are used again first.

use crate::address::{GuestPhys, PAGE_SIZE};

/// The free frames of one VM.
#[derive(Debug)]
pub(crate) struct Frames {
    next: u64,
    end: u64,
    free: Vec<Run>,
}

/// A run of neighbouring frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: GuestPhys,
    pub(crate) pages: u64,
}

impl Frames {
    /// All frames from `start` up to `end` are free.
    pub(crate) fn new(start: GuestPhys, end: GuestPhys) -> Self {
        Self {
            next: start.raw(),
            end: end.raw(),
            free: Vec::new(),
        }
    }

    /// Takes up to `pages` neighbouring frames: fewer where only smaller runs are left.
    pub(crate) fn take(&mut self, pages: u64) -> Option<Run> {
        if pages == 0 {
            return None;
        }
        if let Some(mut run) = self.free.pop() {
            if run.pages > pages {
                let rest = pages * PAGE_SIZE;
                self.free.push(Run {
                    start: GuestPhys::new(run.start.raw() + rest),
                    pages: run.pages - pages,
                });
                run.pages = pages;
            }
            return Some(run);
        }
        let left = self.end.saturating_sub(self.next) / PAGE_SIZE;
        let pages = pages.min(left);
        if pages == 0 {
            return None;
        }
        let start = GuestPhys::new(self.next);
        self.next += pages * PAGE_SIZE;
        Some(Run { start, pages })
    }

    /// Gives frames back; their content must be zeros.
    pub(crate) fn give(&mut self, run: Run) {
        if run.pages == 0 {
            return;
        }
        if let Some(last) = self.free.last_mut()
            && last.start.raw() + last.pages * PAGE_SIZE == run.start.raw()
        {
            last.pages += run.pages;
            return;
        }
        self.free.push(run);
    }

    /// Frames that can still be taken.
    pub(crate) fn available(&self) -> u64 {
        let fresh = self.end.saturating_sub(self.next) / PAGE_SIZE;
        self.free.iter().map(|run| run.pages).sum::<u64>() + fresh
    }

    /// The first address that was never taken.
    pub(crate) fn high_water(&self) -> GuestPhys {
        GuestPhys::new(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_runs_are_used_before_new_frames() {
        let mut frames = Frames::new(GuestPhys::new(0x10000), GuestPhys::new(0x20000));
        let first = frames.take(4).unwrap();
        assert_eq!(
            first,
            Run {
                start: GuestPhys::new(0x10000),
                pages: 4
            }
        );
        frames.give(first);
        assert_eq!(frames.take(2).unwrap().start.raw(), 0x10000);
        assert_eq!(
            frames.take(9).unwrap(),
            Run {
                start: GuestPhys::new(0x12000),
                pages: 2
            }
        );
        assert_eq!(
            frames.take(99).unwrap(),
            Run {
                start: GuestPhys::new(0x14000),
                pages: 12
            }
        );
        assert_eq!(frames.take(1), None);
        assert_eq!(frames.available(), 0);
    }
}
