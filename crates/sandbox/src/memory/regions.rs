//! Ranges of guest-virtual addresses that the configuration decides about, not the program: memory that all
//! VMs of the program share, areas that are there from the start, and areas where nothing may be.
//!
//! Guards: the program can neither map, unmap nor protect anything in what is shared or kept empty: the
//! frames behind shared memory belong to no VM.

use std::ops::Range;
use std::sync::Arc;

use super::paging::{NO_EXECUTE, OWNED, PRESENT, USER, WRITE};
use super::space::user_range;
use super::{MapError, Memory, Place, Protection, Role};
use crate::address::{GuestPhys, GuestVirt, PAGE_SIZE};

/// Where shared memory lies in all programs: above everything that is mapped without an address.
const SHARED: u64 = 0x6000_0000_0000;
/// Bigger areas are left for the program to map what it needs of them: page tables of areas that
/// hardly anything is used of cost more than they are worth.
const MOST_PREPARED: u64 = 1 << 30;

/// A range that the configuration decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Region {
    /// Where it starts.
    pub address: GuestVirt,
    /// Its length in bytes.
    pub len: u64,
    /// What it is for.
    pub usage: Use,
}

/// What a [`Region`] is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// It can be read and written, mapped or not.
    Data,
    /// The same, and executed.
    Code,
    /// Nothing is ever mapped there.
    Nothing,
}

/// Regions of a program.
#[derive(Debug, Clone, Default)]
pub(super) struct Regions {
    /// Memory that all VMs share.
    shared: Range<u64>,
    empty: Vec<Range<u64>>,
    /// There from the start, and free to be mapped over.
    prepared: Vec<Range<u64>>,
    code: Vec<Range<u64>>,
}

impl Regions {
    /// Whether the program has no say over a part of `range`.
    pub(super) fn reserve(&self, range: &Range<u64>) -> bool {
        let overlaps = |own: &Range<u64>| own.start < range.end && range.start < own.end;
        overlaps(&self.shared) || self.empty.iter().any(overlaps)
    }

    /// Whether the program may have memory there that is writable and executable.
    pub(super) fn is_code(&self, range: &Range<u64>) -> bool {
        is_inside(&self.code, range)
    }

    pub(super) fn is_prepared(&self, range: &Range<u64>) -> bool {
        is_inside(&self.prepared, range)
    }

    /// The end of a prepared area that overlaps `range`.
    pub(super) fn end_of_prepared(&self, range: &Range<u64>) -> Option<u64> {
        let overlaps = |own: &&Range<u64>| own.start < range.end && range.start < own.end;
        self.prepared.iter().find(overlaps).map(|own| own.end)
    }

    pub(super) fn prepared_within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let part = |own: &Range<u64>| own.start.max(range.start)..own.end.min(range.end);
        let parts = self.prepared.iter().map(part);
        parts.filter(|part| !part.is_empty()).collect()
    }

    pub(super) fn shared(&self) -> Range<u64> {
        self.shared.clone()
    }
}

fn is_inside(list: &[Range<u64>], range: &Range<u64>) -> bool {
    list.iter()
        .any(|own| own.start <= range.start && range.end <= own.end)
}

impl Memory {
    /// The memory that all VMs of the program share: begin and end, guest-virtual.
    pub fn shared_area(&self) -> Option<Range<GuestVirt>> {
        let Range { start, end } = self.space.regions.shared();
        (start < end).then(|| GuestVirt::new(start)..GuestVirt::new(end))
    }

    /// Points the addresses of shared memory at it, in a main VM that has some.
    pub(super) fn map_common(&mut self) -> Result<(), MapError> {
        let from = self.backing.shared_from();
        let len = self.backing.len() - from;
        if len == 0 {
            return Ok(());
        }
        let range = user_range(GuestVirt::new(SHARED), len)?;
        for va in range.clone().step_by(4096) {
            let at = self.leaf_or_insert(GuestVirt::new(va))?;
            let frame = from + (va - range.start);
            self.backing.set_word(at, shared_entry(frame));
        }
        let space = Arc::make_mut(&mut self.space);
        if !space.areas.insert(range.clone(), Protection::READ_WRITE) {
            return Err(MapError::NoMemory);
        }
        space.regions.shared = range;
        Ok(())
    }

    /// Makes a region, in a main VM whose program has not run yet.
    pub fn add_region(&mut self, region: &Region) -> Result<(), MapError> {
        if region.len == 0 {
            return Ok(());
        }
        let len = region
            .len
            .checked_next_multiple_of(PAGE_SIZE)
            .ok_or(MapError::Invalid)?;
        let range = user_range(region.address.page_floor(), len)?;
        let heap = self.space.heap.start..self.space.heap_limit;
        let taken = !self.space.areas.is_free(range.clone())
            || self.space.regions.end_of_prepared(&range).is_some()
            || (heap.start < range.end && range.start < heap.end);
        if taken || self.space.regions.reserve(&range) {
            return Err(MapError::Exists);
        }
        if region.usage == Use::Nothing {
            let space = Arc::make_mut(&mut self.space);
            space.regions.empty.push(range.clone());
            // Where the program asks for any place, this one is taken.
            let kept = space.areas.insert(range, Protection::NONE);
            return kept.then_some(()).ok_or(MapError::NoMemory);
        }
        if len <= MOST_PREPARED {
            let place = Place::FixedNoReplace(GuestVirt::new(range.start));
            self.map(place, len, Protection::READ_WRITE)?;
            let execute = region.usage == Use::Code;
            self.set_rights(
                range.clone(),
                Protection {
                    execute,
                    ..Protection::READ_WRITE
                },
            )?;
        }
        let space = Arc::make_mut(&mut self.space);
        space.areas.remove(range.clone());
        if region.usage == Use::Code {
            space.regions.code.push(range.clone());
        }
        if len <= MOST_PREPARED {
            space.regions.prepared.push(range);
        }
        Ok(())
    }

    /// Wipes what a main VM has written to a prepared area before it mapped something there.
    pub(super) fn wipe_prepared(&mut self, range: &Range<u64>) -> Result<(), MapError> {
        if !matches!(self.role, Role::Main { .. }) {
            return Ok(());
        }
        for part in self.space.regions.prepared_within(range) {
            self.zero_range(part)?;
        }
        Ok(())
    }
}

/// The leaf entry of a page of shared memory.
pub(super) fn shared_entry(frame: u64) -> u64 {
    GuestPhys::new(frame).raw() | PRESENT | USER | WRITE | NO_EXECUTE | OWNED
}
