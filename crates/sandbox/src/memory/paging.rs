//! The guest's page tables: 4-level x86-64 tables in guest memory (Intel SDM volume 3, 4.5),
//! read and edited by the host alone. The guest cannot reach them.
//!
//! The host walks them for every access that a guest asks for, with the rights of CPL 3, and sets
//! accessed and dirty bits as the CPU would: a reset then finds the host's writes where it finds
//! the guest's. Intermediate entries always grant everything; leaves decide.

use std::ops::Range;

use super::backing::Backing;
use crate::address::{GuestPhys, GuestVirt, PAGE_SIZE};
use crate::layout::USER_END;

pub(crate) const PRESENT: u64 = 1;
pub(crate) const WRITE: u64 = 1 << 1;
pub(crate) const USER: u64 = 1 << 2;
pub(crate) const ACCESSED: u64 = 1 << 5;
pub(crate) const DIRTY: u64 = 1 << 6;
/// Ignored by the CPU: this entry is in the edit log.
pub(crate) const EDITED: u64 = 1 << 9;
/// Ignored by the CPU: a frame belongs to this entry, even where it is not present.
pub(crate) const OWNED: u64 = 1 << 10;
pub(crate) const NO_EXECUTE: u64 = 1 << 63;

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const TABLE: u64 = PRESENT | WRITE | USER;
const ENTRIES: u64 = 512;
/// Of a table.
const ALL_LINES: u64 = u64::MAX;

/// Where the root table lies in every VM.
pub(crate) const ROOT: GuestPhys = GuestPhys::new(0x1000);

/// The frame an entry points to.
pub(crate) const fn frame_of(entry: u64) -> GuestPhys {
    GuestPhys::new(entry & ADDRESS)
}

/// The entry for `va` in the table at `table`; level 3 is the root, 0 the leaves.
fn slot(table: GuestPhys, va: GuestVirt, level: u32) -> GuestPhys {
    let index = (va.raw() >> (12 + 9 * level)) & (ENTRIES - 1);
    GuestPhys::new(table.raw() + index * 8)
}

/// Where the leaf entry of `va` is, if all tables above it exist. Addresses that the CPU would refuse
/// have none: only 48 of their bits choose an entry.
pub(crate) fn leaf(memory: &Backing, va: GuestVirt) -> Option<GuestPhys> {
    if va.raw() >= USER_END {
        return None;
    }
    let mut table = ROOT;
    for level in [3, 2, 1] {
        let entry = memory.word(slot(table, va, level));
        if entry & PRESENT == 0 {
            return None;
        }
        table = frame_of(entry);
    }
    Some(slot(table, va, 0))
}

/// The leaf entries of `range` that exist. Skips what has no tables in one step, so that the length
/// of a range costs nothing.
pub(crate) fn leaves(
    memory: &Backing,
    range: Range<u64>,
) -> impl Iterator<Item = (GuestVirt, GuestPhys)> + '_ {
    let mut next = range.start;
    std::iter::from_fn(move || {
        while next < range.end {
            let va = GuestVirt::new(next);
            let mut table = ROOT;
            let mut missing = None;
            for level in [3, 2, 1] {
                let entry = memory.word(slot(table, va, level));
                if entry & PRESENT == 0 {
                    missing = Some(PAGE_SIZE << (9 * level));
                    break;
                }
                table = frame_of(entry);
            }
            let step = missing.unwrap_or(PAGE_SIZE);
            next = (next & !(step - 1)).saturating_add(step);
            if missing.is_none() {
                return Some((va, slot(table, va, 0)));
            }
        }
        None
    })
}

/// The leaf entry's place, with the tables above it made from `new_table` where they are missing.
/// `new_table` returns a zeroed frame.
pub(crate) fn leaf_or_insert(
    memory: &Backing,
    va: GuestVirt,
    mut new_table: impl FnMut() -> Option<GuestPhys>,
) -> Option<GuestPhys> {
    let mut table = ROOT;
    for level in [3, 2, 1] {
        let at = slot(table, va, level);
        let entry = memory.word(at);
        table = if entry & PRESENT == 0 {
            let frame = new_table()?;
            memory.set_word(at, frame.raw() | TABLE);
            frame
        } else {
            frame_of(entry)
        };
    }
    Some(slot(table, va, 0))
}

/// Marks the tables above `va` as accessed, as a walk by the CPU does.
fn mark_path(memory: &Backing, va: GuestVirt) {
    let mut table = ROOT;
    for level in [3, 2, 1] {
        let at = slot(table, va, level);
        let entry = memory.word(at);
        if entry & ACCESSED == 0 {
            memory.set_word(at, entry | ACCESSED);
        }
        table = frame_of(entry);
    }
}

/// The leaf entry of `va` and its place, if user mode may read (or write) there.
pub(crate) fn entry_for(
    memory: &Backing,
    va: GuestVirt,
    write: bool,
) -> Result<(GuestPhys, u64), Denied> {
    let at = leaf(memory, va).ok_or(Denied::Unmapped)?;
    let entry = memory.word(at);
    if entry & (PRESENT | USER) != PRESENT | USER {
        return Err(Denied::Unmapped);
    }
    if write && entry & WRITE == 0 {
        return Err(Denied::ReadOnly);
    }
    Ok((at, entry))
}

/// Whether user mode may fetch instructions at `va`.
pub(crate) fn is_executable(memory: &Backing, va: GuestVirt) -> bool {
    leaf(memory, va)
        .is_some_and(|at| memory.word(at) & (PRESENT | USER | NO_EXECUTE) == PRESENT | USER)
}

/// Whether the entry for `va` allows what a page fault with this error code was about (Intel SDM volume
/// 3, 4.7): an access of user mode to a page that is there.
pub(crate) fn grants(memory: &Backing, va: GuestVirt, code: u64) -> bool {
    const FETCH: u64 = 1 << 4;
    let rights_of_user = PRESENT | USER;
    if code & !(WRITE | FETCH) != rights_of_user {
        return false;
    }
    let fetched = code & FETCH == 0 || is_executable(memory, va);
    fetched && entry_for(memory, va, code & WRITE != 0).is_ok()
}

/// Sets the dirty bit of the leaf at `at`, and the accessed bits on the way to it. Only for pages that
/// may be written: a reset looks for no others (`edits::mark_written`).
pub(super) fn mark_dirty(memory: &Backing, va: GuestVirt, at: GuestPhys, entry: u64) {
    if entry & DIRTY == 0 {
        memory.set_word(at, entry | ACCESSED | DIRTY);
        mark_path(memory, va);
    }
}

/// Why user mode may not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    Unmapped,
    ReadOnly,
}

/// What [`visit_dirty`] does with the bits it passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bits {
    /// Leave them: they never come back once cleared (hosts with shadow paging), or somebody else
    /// is only counting.
    Keep,
    /// Clear them; the guest must reload CR3 before it runs again.
    Clear,
}

/// Where the entries of an image's tables are, of pages those that may be written: what a walk through a
/// fork's tables has to look at while the fork has edited none. Most entries are of code, most tables
/// sparse, and reading all of them would cost each request a level-1 cache of other things.
#[derive(Debug, Default)]
pub(crate) struct Outline {
    /// The table's address, and its cache lines that have such entries, a bit for each. Sorted.
    tables: Vec<(u64, u64)>,
}

impl Outline {
    pub(crate) fn new(memory: &Backing) -> Self {
        let mut tables = Vec::new();
        visit_tables(memory, &mut |table, level| {
            let entries = if level == 0 { WRITE } else { u64::MAX };
            tables.push((table.raw(), memory.lines_with(table, entries)));
        });
        tables.sort_unstable();
        Self { tables }
    }

    fn lines(&self, table: GuestPhys) -> u64 {
        let found = self
            .tables
            .binary_search_by_key(&table.raw(), |(at, _)| *at);
        found
            .ok()
            .and_then(|index| self.tables.get(index))
            .map_or(ALL_LINES, |(_, lines)| *lines)
    }
}

/// Calls `found` with the frame of every dirty page, walking only below accessed entries. A page that
/// was written and then made inaccessible counts too: its frame comes back with the reset. Without an
/// outline the walk looks at whole tables.
pub(crate) fn visit_dirty(
    memory: &Backing,
    outline: Option<&Outline>,
    bits: Bits,
    found: &mut dyn FnMut(GuestPhys),
) {
    let walk = Walk {
        memory,
        outline,
        bits,
    };
    walk.visit(ROOT, 3, found);
}

struct Walk<'a> {
    memory: &'a Backing,
    outline: Option<&'a Outline>,
    bits: Bits,
}

impl Walk<'_> {
    fn visit(&self, table: GuestPhys, level: u32, found: &mut dyn FnMut(GuestPhys)) {
        let lines = self
            .outline
            .map_or(ALL_LINES, |outline| outline.lines(table));
        let (wanted, cleared) = match level {
            0 => (DIRTY, DIRTY),
            _ => (PRESENT | ACCESSED, ACCESSED),
        };
        self.memory
            .matching_words(table, lines, wanted, &mut |at, entry| {
                if level == 0 {
                    found(frame_of(entry));
                } else {
                    self.visit(frame_of(entry), level - 1, found);
                }
                if self.bits == Bits::Clear {
                    self.memory.set_word(at, entry & !cleared);
                }
            });
    }
}

/// Prepares the tables for freezing: nothing is dirty, no path is accessed. Leaves of the image
/// count as accessed so that reading them costs a fork no write to its tables.
pub(crate) fn settle(memory: &Backing) {
    settle_table(memory, ROOT, 3);
}

fn settle_table(memory: &Backing, table: GuestPhys, level: u32) {
    if level == 0 {
        memory.matching_words(table, ALL_LINES, DIRTY, &mut |at, entry| {
            memory.set_word(at, entry & !DIRTY);
        });
    }
    memory.matching_words(table, ALL_LINES, PRESENT, &mut |at, entry| {
        if level == 0 {
            memory.set_word(at, (entry | ACCESSED) & !EDITED);
        } else {
            settle_table(memory, frame_of(entry), level - 1);
            memory.set_word(at, entry & !ACCESSED);
        }
    });
}

/// Bytes that the tables for `pages` contiguous pages take, at most.
pub(crate) const fn table_bytes(pages: u64) -> u64 {
    (pages / ENTRIES + 2 + pages / (ENTRIES * ENTRIES) + 2 + 4) * PAGE_SIZE
}

/// Calls `found` with the frame and level of every page table, the root's first.
pub(crate) fn visit_tables(memory: &Backing, found: &mut dyn FnMut(GuestPhys, u32)) {
    fn below(
        memory: &Backing,
        table: GuestPhys,
        level: u32,
        found: &mut dyn FnMut(GuestPhys, u32),
    ) {
        found(table, level);
        if level > 0 {
            memory.matching_words(table, ALL_LINES, PRESENT, &mut |_, entry| {
                below(memory, frame_of(entry), level - 1, found);
            });
        }
    }
    below(memory, ROOT, 3, found);
}
