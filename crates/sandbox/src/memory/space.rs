//! Mapping, unmapping and protecting guest-virtual ranges: the work behind mmap(2), munmap(2),
//! mprotect(2), mremap(2), brk(2) and MADV_DONTNEED.
//!
//! In a main VM frames come from the image's free frames. In a request VM the *arena*, a range of
//! zeroed memory that the image maps read-write for every fork, is handed out: the common case
//! edits no page table. Free arena memory is read-write, and zero unless the program wrote where it has
//! mapped nothing.
//!
//! An edit that takes rights away from a page that was in use is followed by
//! `Backing::forget_translations`, without which hosts with shadow paging do not see it.

use std::ops::Range;
use std::sync::Arc;

use super::areas::Areas;
use super::edits::mark_written;
use super::frames::Run;
use super::paging::{self, DIRTY, NO_EXECUTE, OWNED, PRESENT, USER, WRITE};
use super::regions::Regions;
use super::stacks::Stacks;
use super::stale::Stale;
use super::{MapError, Memory, Place, Protection, Role};
use crate::address::{GuestPhys, GuestVirt, PAGE_SIZE};
use crate::arith::to_u64;
use crate::layout::{USER_BEGIN, USER_END};

/// What is mapped where.
#[derive(Debug, Clone, Default)]
pub(crate) struct Space {
    pub(super) areas: Areas,
    /// Where brk(2) starts, stands, and must stop.
    pub(super) heap: Range<u64>,
    pub(super) heap_limit: u64,
    /// Where mappings without an address go.
    pub(super) arena: Range<u64>,
    /// Nothing of the arena from here on is free to be lent.
    pub(super) lent_from: u64,
    /// What the configuration decides about.
    pub(super) regions: Regions,
    pub(super) stacks: Stacks,
}

impl Memory {
    /// Sets the ranges for brk(2) and for mappings without an address. For the loader.
    pub(crate) fn set_layout(&mut self, heap: Range<GuestVirt>, arena: Range<GuestVirt>) {
        let space = Arc::make_mut(&mut self.space);
        space.heap = heap.start.raw()..heap.start.raw();
        space.heap_limit = heap.end.raw();
        space.arena = arena.start.raw()..arena.end.raw();
        space.lent_from = space.arena.end;
    }

    /// Maps `len` zeroed bytes. The length is rounded up to whole pages.
    pub fn map(&mut self, place: Place, len: u64, prot: Protection) -> Result<GuestVirt, MapError> {
        let len = len
            .checked_next_multiple_of(PAGE_SIZE)
            .ok_or(MapError::NoMemory)?;
        if len == 0 {
            return Err(MapError::Invalid);
        }
        if let Place::Anywhere = place {
            self.check_rights(prot, &(0..0))?;
        }
        let range = match place {
            Place::Fixed(at) => {
                let range = self.programs_range(at, len)?;
                self.check_rights(prot, &range)?;
                self.unmap(at, len)?;
                range
            }
            Place::FixedNoReplace(at) => {
                let range = self.programs_range(at, len)?;
                if !self.space.areas.is_free(range.clone()) {
                    return Err(MapError::Exists);
                }
                range
            }
            Place::Hint(at) => match self.programs_range(at.page_floor(), len) {
                Ok(range) if self.space.areas.is_free(range.clone()) => range,
                _ => self.find_free(len)?,
            },
            Place::Anywhere => self.find_free(len)?,
        };
        self.check_rights(prot, &range)?;
        if prot != Protection::NONE && !self.can_commit(&range) {
            return Err(MapError::NoMemory);
        }
        if !Arc::make_mut(&mut self.space)
            .areas
            .insert(range.clone(), prot)
        {
            return Err(MapError::NoMemory);
        }
        self.wipe_prepared(&range)?;
        if let Err(error) = self.set_rights(range.clone(), prot) {
            // What was mapped before the memory ran out goes back; nothing there was in use.
            let _ = self.unmap(GuestVirt::new(range.start), len);
            return Err(error);
        }
        if matches!(self.role, Role::Request { .. }) {
            // Outside the arena unmapping keeps frames with what is in them.
            let arena = self.space.arena.clone();
            for outside in outside_of(&arena, &range) {
                self.zero_range(outside)?;
            }
        }
        Ok(GuestVirt::new(range.start))
    }

    /// Unmaps a range; unmapped parts of it are no error.
    pub fn unmap(&mut self, at: GuestVirt, len: u64) -> Result<(), MapError> {
        let len = len
            .checked_next_multiple_of(PAGE_SIZE)
            .ok_or(MapError::Invalid)?;
        let range = self.programs_range(at, len)?;
        let mapped: Vec<_> = self
            .space
            .areas
            .within(range.clone())
            .map(|(part, _)| part)
            .collect();
        if mapped.is_empty() {
            return Ok(());
        }
        if !self.space.areas.may_remove(&range) {
            return Err(MapError::NoMemory);
        }
        for part in mapped {
            self.release(part.clone())?;
            // Only this part: what was free may have been lent meanwhile.
            let space = Arc::make_mut(&mut self.space);
            space.lent_from = space.lent_from.max(part.end.min(space.arena.end));
            space.areas.remove(part);
        }
        Ok(())
    }

    /// Changes the rights of a mapped range.
    pub fn protect(&mut self, at: GuestVirt, len: u64, prot: Protection) -> Result<(), MapError> {
        let len = len
            .checked_next_multiple_of(PAGE_SIZE)
            .ok_or(MapError::NoMemory)?;
        if len == 0 {
            return Ok(());
        }
        let range = self.programs_range(at, len)?;
        self.check_rights(prot, &range)?;
        let covered = self.space.areas.covers(range.clone());
        if !covered && !self.space.regions.is_prepared(&range) {
            return Err(MapError::NoMemory);
        }
        if prot != Protection::NONE && !self.can_commit(&range) {
            return Err(MapError::NoMemory);
        }
        if !Arc::make_mut(&mut self.space)
            .areas
            .insert(range.clone(), prot)
        {
            return Err(MapError::NoMemory);
        }
        self.set_rights(range, prot)
    }

    /// Resizes a mapping, moving it where it cannot grow in place and `may_move` allows that.
    pub fn remap(
        &mut self,
        at: GuestVirt,
        old_len: u64,
        new_len: u64,
        may_move: bool,
    ) -> Result<GuestVirt, MapError> {
        let old_len = old_len
            .checked_next_multiple_of(PAGE_SIZE)
            .ok_or(MapError::Invalid)?;
        let new_len = new_len
            .checked_next_multiple_of(PAGE_SIZE)
            .ok_or(MapError::NoMemory)?;
        if old_len == 0 || new_len == 0 {
            return Err(MapError::Invalid);
        }
        let old = self.programs_range(at, old_len)?;
        let mut rights = self.space.areas.within(old.clone()).map(|(_, prot)| prot);
        let (Some(prot), true) = (rights.next(), self.space.areas.covers(old.clone())) else {
            return Err(MapError::Invalid);
        };
        drop(rights);
        if new_len <= old_len {
            let tail = at.checked_add(new_len).ok_or(MapError::Invalid)?;
            if new_len < old_len {
                self.unmap(tail, old_len - new_len)?;
            }
            return Ok(at);
        }
        let growth = GuestVirt::new(old.end);
        match self.map(Place::FixedNoReplace(growth), new_len - old_len, prot) {
            Ok(_) => return Ok(at),
            Err(error) if !may_move => {
                return Err(if error == MapError::Exists {
                    MapError::NoMemory
                } else {
                    error
                });
            }
            Err(_) => {}
        }
        let copy_prot = if prot == Protection::NONE {
            prot
        } else {
            Protection::READ_WRITE
        };
        let new = self.map(Place::Anywhere, new_len, copy_prot)?;
        if prot != Protection::NONE {
            let mut page = [0; 4096];
            for offset in (0..old_len).step_by(4096) {
                let from = at.checked_add(offset).ok_or(MapError::Invalid)?;
                let to = new.checked_add(offset).ok_or(MapError::Invalid)?;
                let leaf = paging::leaf(&self.backing, from);
                if leaf.is_some_and(|leaf| self.role.is_zero(self.backing.word(leaf))) {
                    continue;
                }
                self.read(from, &mut page).map_err(|_| MapError::Invalid)?;
                self.write(to, &page).map_err(|_| MapError::NoMemory)?;
            }
            if prot != copy_prot {
                self.protect(new, new_len, prot)?;
            }
        }
        self.unmap(at, old_len)?;
        Ok(new)
    }

    /// brk(2): moves the end of the heap if it can, and says where it is.
    pub fn set_break(&mut self, to: GuestVirt) -> GuestVirt {
        let (start, now) = (self.space.heap.start, self.space.heap.end);
        let to = to.raw();
        if to < start || to > self.space.heap_limit {
            return GuestVirt::new(now);
        }
        let page = |address: u64| address.next_multiple_of(PAGE_SIZE);
        let (old_end, new_end) = (page(now), page(to));
        if new_end > old_end {
            let range = old_end..new_end;
            let fits = self.can_commit(&range)
                && Arc::make_mut(&mut self.space)
                    .areas
                    .insert(range.clone(), Protection::READ_WRITE)
                && self.set_rights(range, Protection::READ_WRITE).is_ok();
            if !fits {
                return GuestVirt::new(now);
            }
        } else if new_end < old_end {
            // The pages stay mapped: what matters is that they are zero when they come back.
            if self.zero_range(new_end..old_end).is_err() {
                return GuestVirt::new(now);
            }
        }
        Arc::make_mut(&mut self.space).heap.end = to;
        GuestVirt::new(to)
    }

    /// MADV_DONTNEED: the range reads as zeros.
    pub fn discard(&mut self, at: GuestVirt, len: u64) -> Result<(), MapError> {
        let len = len
            .checked_next_multiple_of(PAGE_SIZE)
            .ok_or(MapError::Invalid)?;
        if len == 0 {
            return Ok(());
        }
        let range = self.programs_range(at, len)?;
        let covered = self.space.areas.covers(range.clone());
        if !covered && !self.space.regions.is_prepared(&range) {
            return Err(MapError::NoMemory);
        }
        self.zero_range(range)
    }

    /// A range that the program may map, unmap and protect.
    fn programs_range(&self, at: GuestVirt, len: u64) -> Result<Range<u64>, MapError> {
        let range = user_range(at, len)?;
        if self.space.regions.reserve(&range) {
            return Err(MapError::Reserved);
        }
        Ok(range)
    }

    fn check_rights(&self, prot: Protection, range: &Range<u64>) -> Result<(), MapError> {
        let may = self.executable_heap || self.space.regions.is_code(range);
        if prot.write && prot.execute && !may {
            return Err(MapError::WriteExecute);
        }
        Ok(())
    }

    /// A range of the arena in which nothing is mapped or prepared.
    pub(super) fn find_free(&self, len: u64) -> Result<Range<u64>, MapError> {
        let Space { areas, regions, .. } = &*self.space;
        let mut within = self.space.arena.clone();
        loop {
            let start = areas.find_free(within.clone(), len);
            let start = start.ok_or(MapError::NoMemory)?;
            let range = start..start + len;
            match regions.end_of_prepared(&range) {
                None => return Ok(range),
                Some(end) => within.start = end,
            }
        }
    }

    /// Whether there are frames for every page of `range` that has none.
    fn can_commit(&self, range: &Range<u64>) -> bool {
        let Role::Main { frames, .. } = &self.role else {
            return true;
        };
        let pages = (range.end - range.start) / PAGE_SIZE;
        let available = frames.available();
        let owned = paging::leaves(&self.backing, range.clone())
            .filter(|(_, at)| self.backing.word(*at) & OWNED != 0);
        let tables = paging::table_bytes(pages) / PAGE_SIZE;
        let missing = pages.saturating_sub(to_u64(owned.count()));
        missing == 0 || missing.saturating_add(tables) <= available
    }

    /// Gives every page of `range` a frame (unless nobody may use it) and these rights.
    pub(super) fn set_rights(
        &mut self,
        range: Range<u64>,
        prot: Protection,
    ) -> Result<(), MapError> {
        let mut stale = Stale::default();
        let result = self.set_entries(range, prot, &mut stale);
        // Also of a range that was changed in part.
        self.forget(stale).and(result)
    }

    fn set_entries(
        &mut self,
        range: Range<u64>,
        prot: Protection,
        stale: &mut Stale,
    ) -> Result<(), MapError> {
        let mut run = Run {
            start: GuestPhys::new(0),
            pages: 0,
        };
        if prot == Protection::NONE {
            // Tables that do not exist need no change.
            let existing: Vec<_> = paging::leaves(&self.backing, range).collect();
            for (_, at) in existing {
                self.set_entry_rights(at, prot, stale);
            }
            return Ok(());
        }
        for va in range.clone().step_by(4096) {
            let at = self.leaf_or_insert(GuestVirt::new(va))?;
            if self.set_entry_rights(at, prot, stale) {
                continue;
            }
            if run.pages == 0 {
                run = self.take_frames((range.end - va) / PAGE_SIZE)?;
            }
            self.edit(at, run.start.raw() | OWNED | rights(prot), stale);
            run.start = GuestPhys::new(run.start.raw() + PAGE_SIZE);
            run.pages -= 1;
        }
        Ok(())
    }

    /// Gives an entry that has a frame these rights. False: it has none.
    fn set_entry_rights(&mut self, at: GuestPhys, prot: Protection, stale: &mut Stale) -> bool {
        let old = self.backing.word(at);
        if old & OWNED == 0 {
            return false;
        }
        let frame = paging::frame_of(old).raw();
        self.edit(at, rights(prot) | frame | OWNED, stale);
        true
    }

    /// Takes the memory behind mapped pages back: frames of a main VM become free, arena pages of
    /// a request VM zero and read-write, other pages of a request VM inaccessible.
    fn release(&mut self, range: Range<u64>) -> Result<(), MapError> {
        if matches!(self.role, Role::Main { .. }) {
            self.free_frames(range);
            return Ok(());
        }
        let arena = self.space.arena.clone();
        for outside in outside_of(&arena, &range) {
            self.set_rights(outside, Protection::NONE)?;
        }
        let inside = range.start.max(arena.start)..range.end.min(arena.end);
        if !inside.is_empty() {
            self.set_rights(inside.clone(), Protection::READ_WRITE)?;
            self.zero_range(inside)?;
        }
        Ok(())
    }

    fn free_frames(&mut self, range: Range<u64>) {
        let mut run = Run {
            start: GuestPhys::new(0),
            pages: 0,
        };
        let existing: Vec<_> = paging::leaves(&self.backing, range).collect();
        for (_, at) in existing {
            let entry = self.backing.word(at);
            if entry & OWNED == 0 {
                continue;
            }
            self.backing.set_word(at, 0);
            let frame = paging::frame_of(entry);
            if run.pages > 0 && run.start.raw() + run.pages * PAGE_SIZE == frame.raw() {
                run.pages += 1;
            } else {
                self.give_frames(run);
                run = Run {
                    start: frame,
                    pages: 1,
                };
            }
        }
        self.give_frames(run);
    }

    fn give_frames(&mut self, run: Run) {
        // Punching the hole zeroes the frames and makes KVM forget its translations of them; a
        // run that could not be punched is lost to this VM rather than reused.
        if run.pages > 0
            && self
                .backing
                .punch_hole(run.start, run.pages * PAGE_SIZE)
                .is_ok()
            && let Role::Main { frames, .. } = &mut self.role
        {
            frames.give(run);
        }
    }

    /// Makes the pages of `range` zeros that are not.
    pub(super) fn zero_range(&mut self, range: Range<u64>) -> Result<(), MapError> {
        for (address, at) in paging::leaves(&self.backing, range) {
            let entry = self.backing.word(at);
            if entry & OWNED != 0 && !self.role.is_zero(entry) {
                let page = paging::frame_of(entry);
                if entry & DIRTY == 0 && !self.has_room_for(page) {
                    return Err(MapError::NoMemory);
                }
                self.backing.zero(page, PAGE_SIZE);
                // Inaccessible pages as well: the reset finds them by this alone.
                mark_written(&self.backing, &mut self.role, address, at);
            }
        }
        Ok(())
    }
}

/// The entry bits of a protection.
fn rights(prot: Protection) -> u64 {
    if prot == Protection::NONE {
        return 0;
    }
    let write = if prot.write { WRITE } else { 0 };
    let no_execute = if prot.execute { 0 } else { NO_EXECUTE };
    PRESENT | USER | write | no_execute
}

/// The parts of `range` before and behind the arena.
fn outside_of(arena: &Range<u64>, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let before = range.start..range.end.min(arena.start);
    let behind = range.start.max(arena.end)..range.end;
    [before, behind].into_iter().filter(|part| !part.is_empty())
}

pub(super) fn user_range(at: GuestVirt, len: u64) -> Result<Range<u64>, MapError> {
    let end = at.checked_add(len).ok_or(MapError::Invalid)?;
    if at.page_offset() != 0 || at.raw() < USER_BEGIN || end.raw() > USER_END {
        return Err(MapError::Invalid);
    }
    Ok(at.raw()..end.raw())
}
