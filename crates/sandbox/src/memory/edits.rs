//! What a request changes in its page tables, and what a reset needs to know about it: of each entry
//! what the image has there. A request that edits nothing lets the reset look at few entries.

use super::backing::Backing;
use super::paging::{self, ACCESSED, DIRTY, EDITED, WRITE};
use super::stale::{Stale, takes_away};
use super::{MapError, Memory, Role};
use crate::address::{GuestPhys, GuestVirt};

/// A page-table entry as the image has it, before a request changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) at: GuestPhys,
    pub(super) original: u64,
}

impl Memory {
    /// Changes one entry, keeping its accessed and dirty bits; requests log what was there.
    pub(super) fn edit(&mut self, at: GuestPhys, new: u64, stale: &mut Stale) {
        let old = self.backing.word(at);
        let kept = old & (ACCESSED | DIRTY | EDITED);
        if old == new | kept {
            return;
        }
        let mark = log(&mut self.role, at, old);
        self.backing.set_word(at, new | kept | mark);
        if takes_away(old, new) {
            stale.add(self, paging::frame_of(old));
        }
    }

    /// Has KVM forget what edits have made wrong. Where that fails the guest may still have rights that
    /// no entry shows: only a full reset ends them.
    pub(super) fn forget(&mut self, stale: Stale) -> Result<(), MapError> {
        let result = stale.flush(self);
        if let (Err(_), Role::Request { full_reset_due, .. }) = (&result, &mut self.role) {
            *full_reset_due = true;
        }
        result.map_err(|_no_mapping_left| MapError::NoMemory)
    }
}

/// Has the reset put the entry at `at` back: the mark that says so.
fn log(role: &mut Role, at: GuestPhys, old: u64) -> u64 {
    match role {
        Role::Request { edits, .. } if old & EDITED == 0 => {
            edits.push(Edit {
                at,
                original: old & !(ACCESSED | DIRTY),
            });
            EDITED
        }
        _ => 0,
    }
}

/// Marks the page of the leaf at `at` as written. Where the program may not write it counts as an
/// edit: with edits a reset looks at all entries, without at those of writable pages.
pub(super) fn mark_written(backing: &Backing, role: &mut Role, va: GuestVirt, at: GuestPhys) {
    let mut entry = backing.word(at);
    if entry & WRITE == 0 {
        entry |= log(role, at, entry);
        backing.set_word(at, entry);
    }
    paging::mark_dirty(backing, va, at, entry);
}
