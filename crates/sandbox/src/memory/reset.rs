//! Making a request VM's memory the image again.
//!
//! Pages that became private keep their place and get the image's content back: no unmapping, no
//! faults in the next request. Which pages: leaves whose dirty bit is set, whoever wrote them.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use super::paging::{self, ACCESSED, Bits, DIRTY, PRESENT, WRITE};
use super::stale::{Stale, takes_away};
use super::{Memory, Role};
use crate::address::{GuestPhys, PAGE_SIZE};
use crate::layout;

/// What a host does with dirty bits that were cleared from outside; found out by probing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirtyBits {
    /// They are set again by the next write after a reload of CR3 (hardware paging).
    Fresh,
    /// They stay clear while the writable shadow entry lives (shadow paging): never clear them.
    Sticky,
}

/// What a reset did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wiped {
    /// Pages that were dirty.
    pub pages: u64,
    /// Those of them that go on counting as dirty, on hosts where dirty bits stay.
    pub still_dirty: u64,
    /// Pages that the VM had of its own, dirty ones and those of earlier requests.
    pub held: u64,
    /// Everything private was dropped instead of copied back.
    pub full: bool,
    /// Page-table bits were cleared: the guest must reload CR3 before it runs.
    pub reload: bool,
}

/// How long pages that stay dirty (`DirtyBits::Sticky`) have been copied back, so that one request
/// that wrote much does not slow down all that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Burden {
    resets: u32,
    /// Dirty pages at the first of them: what a request writes by itself.
    first: u64,
}

impl Burden {
    /// Copying fewer pages than this costs less than an exit.
    const LIGHT: u64 = 256;
    /// Requests after which a burden is dropped: where the first of them wrote little, and where
    /// it wrote as much itself, so that dropping probably wins nothing.
    const UNUSUAL: u32 = 64;
    const USUAL: u32 = 1024;

    /// Counts a reset of `pages` dirty pages; whether it should drop them instead.
    fn is_due(&mut self, pages: u64) -> bool {
        if self.resets == 0 {
            self.first = pages;
        }
        self.resets = self.resets.saturating_add(1);
        let patience = if self.first.saturating_mul(2) < pages {
            Self::UNUSUAL
        } else {
            Self::USUAL
        };
        pages > Self::LIGHT && self.resets >= patience
    }
}

impl Memory {
    /// The pages in which this VM differs from its image, for tests and for the suspicious: looks
    /// at every byte. Left out are the two pages that the host rewrites before they are used (frame
    /// and kernel stack), and accessed and dirty bits in page tables.
    pub(crate) fn differences(&self) -> Vec<GuestPhys> {
        let Role::Request { frozen, .. } = &self.role else {
            return Vec::new();
        };
        let mut tables = HashSet::new();
        paging::visit_tables(frozen.source(), &mut |table, _level| {
            tables.insert(table.raw());
        });
        let rewritten = [layout::FRAME, layout::KERNEL_STACK];
        let (mut ours, mut original) = ([0; 4096], [0; 4096]);
        let mut different = Vec::new();
        for at in (0..self.backing.shared_from()).step_by(4096) {
            let page = GuestPhys::new(at);
            self.backing.copy_out(page, &mut ours);
            frozen.read_page(page, &mut original);
            if ours == original || rewritten.contains(&at) {
                continue;
            }
            let table = tables.contains(&at);
            let same = (at..at + PAGE_SIZE)
                .step_by(8)
                .map(GuestPhys::new)
                .all(|word| {
                    let changed = self.backing.word(word) ^ frozen.source().word(word);
                    table && changed & !(ACCESSED | DIRTY) == 0
                });
            if !same {
                different.push(page);
            }
        }
        different
    }

    /// Whether a reset is a matter of copying few pages.
    pub(crate) fn is_quickly_reset(&self, keep_pages: u64) -> bool {
        const FEW: u64 = 64;
        let (Some(_), Role::Request { held, .. }) = (self.role.outline(), &self.role) else {
            return false;
        };
        let (mut pages, mut more) = (0, 0);
        self.each_dirty_page(|page| {
            pages += 1;
            more += u64::from(!held.has(page));
        });
        pages <= FEW && held.count() + more <= self.room.most_held(keep_pages)
    }

    /// Undoes everything since the fork or the last reset. Pages of the VM's own stay for the next
    /// request; more than `keep_pages` of them, or than one request may write, are given back to the host.
    pub(crate) fn reset(&mut self, bits: DirtyBits, keep_pages: u64) -> io::Result<Wiped> {
        let Self {
            backing,
            space,
            role,
            room,
            executable_heap: _,
        } = self;
        let Role::Request {
            frozen,
            edits,
            dirty,
            held,
            full_reset_due,
            burden,
        } = role
        else {
            return Err(io::Error::other("only a request VM can be reset"));
        };
        if !Arc::ptr_eq(space, frozen.space()) {
            *space = Arc::clone(frozen.space());
        }
        dirty.clear();
        let clear = if bits == DirtyBits::Fresh {
            Bits::Clear
        } else {
            Bits::Keep
        };
        // What all VMs share is nobody's to wipe.
        let own = backing.shared_from();
        let outline = frozen.outline(edits, *full_reset_due);
        paging::visit_dirty(backing, outline, clear, &mut |frame| {
            if frame.raw() < own {
                dirty.extend(u32::try_from(frame.raw() / PAGE_SIZE));
            }
        });
        for &page in dirty.iter() {
            held.add(page.into());
        }
        let pages = dirty.len() as u64;
        let too_many = held.count() > room.most_held(keep_pages);
        let due = bits == DirtyBits::Sticky && burden.is_due(pages);
        let held_now = held.count();
        if *full_reset_due || too_many || due {
            held.clear();
            edits.clear();
            *burden = Burden::default();
            *full_reset_due = false;
            room.renew(0);
            backing.drop_private(GuestPhys::new(0), own)?;
            return Ok(Wiped {
                pages,
                held: held_now,
                full: true,
                reload: true,
                ..Wiped::default()
            });
        }
        for &page in dirty.iter() {
            if !frozen.restore_page(backing, u64::from(page)) {
                return Err(io::Error::other("a dirty page lies outside the memory"));
            }
        }
        let undo = std::mem::take(edits);
        let mut stale = Stale::default();
        let mut clean = 0;
        for edit in &undo {
            let now = self.backing.word(edit.at);
            // Nobody writes what the image does not let write, so its dirty bit may go, with all
            // translations: the next write needs an edit. Elsewhere it has to stay where it is sticky.
            let kept = match edit.original & (PRESENT | WRITE) {
                0 => 0,
                PRESENT => ACCESSED,
                _ => ACCESSED | DIRTY,
            };
            let cleaned = now & !kept & DIRTY != 0;
            clean += u64::from(cleaned);
            self.backing.set_word(edit.at, edit.original | now & kept);
            if cleaned || takes_away(now, edit.original) {
                stale.add(self, paging::frame_of(now));
            }
        }
        stale.flush(self)?;
        if let Role::Request { edits, .. } = &mut self.role {
            *edits = undo;
            edits.clear();
        }
        let sticky = bits == DirtyBits::Sticky;
        let still_dirty = if sticky {
            pages.saturating_sub(clean)
        } else {
            0
        };
        self.room.renew(still_dirty * PAGE_SIZE);
        Ok(Wiped {
            pages,
            held: held_now,
            still_dirty,
            full: false,
            // Whether or not a page was dirty: the walk cleared accessed bits too.
            reload: !sticky,
        })
    }
}
