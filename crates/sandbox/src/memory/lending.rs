//! Where frames for new mappings and new page tables come from. A main VM has free ones. A request VM has
//! none: its arena lends them, from the top.
//!
//! Guards: a frame has one owner, and its new owner finds zeros there. The program can write to all of
//! the arena, mapped or not, and a page table must not be what it wrote.

use std::sync::Arc;

use super::frames::Run;
use super::paging::{self, DIRTY, OWNED};
use super::stale::Stale;
use super::{MapError, Memory, Protection, Role};
use crate::address::{GuestPhys, GuestVirt, PAGE_SIZE};

impl Memory {
    pub(super) fn leaf_or_insert(&mut self, va: GuestVirt) -> Result<GuestPhys, MapError> {
        if let Some(at) = paging::leaf(&self.backing, va) {
            return Ok(at);
        }
        let mut tables = Vec::with_capacity(3);
        for _ in 0..3 {
            tables.extend(self.take_frames(1).ok());
        }
        if let Role::Request { full_reset_due, .. } = &mut self.role {
            *full_reset_due = true;
        }
        let at = paging::leaf_or_insert(&self.backing, va, || tables.pop().map(|run| run.start));
        for unused in tables {
            if let Role::Main { frames, .. } = &mut self.role {
                frames.give(unused);
            }
        }
        at.ok_or(MapError::NoMemory)
    }

    /// Zeroed frames: fresh ones in a main VM, borrowed from the top of the arena in a request VM.
    pub(super) fn take_frames(&mut self, pages: u64) -> Result<Run, MapError> {
        match &mut self.role {
            Role::Main { frames, .. } => frames.take(pages).ok_or(MapError::NoMemory),
            Role::Request { .. } => self.lend(),
        }
    }

    /// Takes the frame of the highest free page of the arena for something else, perhaps a page table.
    /// The page stays taken, and inaccessible, until the program unmaps it.
    fn lend(&mut self) -> Result<Run, MapError> {
        let space = Arc::make_mut(&mut self.space);
        let free = space.arena.start..space.lent_from;
        let found = space.areas.find_free_from_top(free, PAGE_SIZE);
        let va = found.ok_or(MapError::NoMemory)?;
        space.lent_from = va;
        if !space.areas.insert(va..va + PAGE_SIZE, Protection::NONE) {
            return Err(MapError::NoMemory);
        }
        let at = paging::leaf(&self.backing, GuestVirt::new(va)).ok_or(MapError::NoMemory)?;
        let entry = self.backing.word(at);
        if entry & OWNED == 0 {
            return Err(MapError::NoMemory);
        }
        let start = paging::frame_of(entry);
        // The program must not reach the frame here any more, nor what it wrote there in its new place.
        let mut stale = Stale::default();
        self.edit(at, start.raw(), &mut stale);
        self.forget(stale)?;
        if entry & DIRTY != 0 && !self.backing.zero(start, PAGE_SIZE) {
            return Err(MapError::NoMemory);
        }
        Ok(Run { start, pages: 1 })
    }
}
