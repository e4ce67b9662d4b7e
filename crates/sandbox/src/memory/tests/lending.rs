//! Frames that a request VM's arena lends to other mappings and to page tables: each has one owner, and
//! none brings anything along.
//!
//! The program may write to all of the arena, mapped or not.

use std::collections::BTreeSet;

use guests::Dice;

use super::*;
use crate::address::PAGE_SIZE;
use crate::memory::paging::{OWNED, PRESENT, ROOT, USER, WRITE};

const FAR: u64 = 0x7000_0000_0000;
const FARTHER: u64 = 0x6f00_0000_0000;

/// Looks at every table and every page: no frame has two owners, and the program reaches no table.
fn check_owners(memory: &Memory) {
    let mut owned = BTreeSet::from([ROOT.raw()]);
    let mut tables = vec![(ROOT, 3)];
    while let Some((table, level)) = tables.pop() {
        for at in (table.raw()..table.raw() + PAGE_SIZE).step_by(8) {
            let entry = memory.backing.word(GuestPhys::new(at));
            let frame = paging::frame_of(entry);
            if level > 0 && entry & PRESENT != 0 {
                assert!(owned.insert(frame.raw()), "{frame:?} is a table twice");
                tables.push((frame, level - 1));
            } else if level == 0 && entry & (OWNED | USER) != 0 {
                let own = frame.raw() >= 0x20000 || entry & WRITE == 0;
                assert!(own && frame.raw() < memory.len(), "{entry:#x} at {at:#x}");
                assert!(owned.insert(frame.raw()), "{frame:?} has two owners");
            }
        }
    }
}

/// Writes what would be page-table entries for the sandbox's own pages, as a program could.
fn fill_with_entries(memory: &mut Memory, at: u64) {
    let entries: Vec<u8> = (0..512_u64)
        .flat_map(|index| (index << 12 | PRESENT | WRITE | USER).to_le_bytes())
        .collect();
    let _refused_where_it_may_not = memory.write(GuestVirt::new(at), &entries);
}

fn fixed(memory: &mut Memory, at: u64, len: u64) -> Result<GuestVirt, MapError> {
    let place = Place::Fixed(GuestVirt::new(at));
    memory.map(place, len, Protection::READ_WRITE)
}

#[test]
fn page_tables_are_made_of_zeros_whatever_the_program_wrote_there() {
    let (image, _) = frozen();
    let mut memory = image.fork().unwrap();
    let end = memory.space.arena.end;
    for page in 1..=8 {
        fill_with_entries(&mut memory, end - page * PAGE_SIZE);
    }
    fixed(&mut memory, FAR, PAGE_SIZE).unwrap();
    let fresh = memory.read_bytes(GuestVirt::new(FAR), 4096, 4096).unwrap();
    assert!(fresh.iter().all(|byte| *byte == 0));
    for page in 1..512 {
        let beside = GuestVirt::new(FAR + page * PAGE_SIZE);
        assert!(memory.read(beside, &mut [0]).is_err(), "{beside}");
    }
    check_owners(&memory);
    reset(&mut memory, DirtyBits::Fresh);
}

#[test]
fn frames_that_an_unmapping_lends_are_not_lent_again() {
    let (image, _) = frozen();
    let mut memory = image.fork().unwrap();
    let end = memory.space.arena.end;
    fixed(&mut memory, FAR, PAGE_SIZE).unwrap();
    memory
        .unmap(GuestVirt::new(end - 16 * PAGE_SIZE), 16 * PAGE_SIZE)
        .unwrap();
    check_owners(&memory);
    fixed(&mut memory, end - 4 * PAGE_SIZE, 4 * PAGE_SIZE).unwrap();
    check_owners(&memory);
    fixed(&mut memory, FARTHER, PAGE_SIZE).unwrap();
    check_owners(&memory);
    reset(&mut memory, DirtyBits::Sticky);
}

#[test]
fn whatever_a_program_maps_every_frame_has_one_owner() {
    let mut main = main_memory();
    main.map(Place::Anywhere, 64 << 10, Protection::READ_WRITE)
        .unwrap();
    // A small arena, so that it runs out.
    let image = Arc::new(main.freeze(40 * PAGE_SIZE).unwrap());
    for seed in 0..60 {
        let mut dice = Dice::new(0x9e37_79b9_7f4a_7c15 ^ seed);
        let mut memory = image.fork().unwrap();
        for _ in 0..60 {
            let arena = memory.space.arena.clone();
            let start = match dice.below(6) {
                0 => FAR,
                1 => FARTHER,
                2 => arena.start,
                _ => arena.end - 40 * PAGE_SIZE,
            };
            let at = start + dice.below(40) * PAGE_SIZE;
            let len = (1 + dice.below(20)) * PAGE_SIZE;
            let prot = match dice.below(4) {
                0 => Protection::NONE,
                1 => Protection::READ,
                _ => Protection::READ_WRITE,
            };
            let (place, at_page) = (Place::Fixed(GuestVirt::new(at)), GuestVirt::new(at));
            // Most of it is refused; what counts is what it leaves behind.
            match dice.below(8) {
                0 | 1 => drop(memory.map(place, len, prot)),
                2 => drop(memory.map(Place::Anywhere, len, prot)),
                3 | 4 => drop(memory.unmap(at_page, len)),
                5 => drop(memory.protect(at_page, len, prot)),
                6 => drop(memory.remap(at_page, PAGE_SIZE, len, true)),
                _ => drop(memory.discard(at_page, len)),
            }
            for page in 0..40 {
                fill_with_entries(&mut memory, arena.end - (page + 1) * PAGE_SIZE);
            }
            check_owners(&memory);
        }
        let bits = [DirtyBits::Fresh, DirtyBits::Sticky];
        reset(&mut memory, bits[usize::from(seed % 2 == 0)]);
        assert_eq!(memory.read_bytes(TEXT, 1, 1).ok(), None);
    }
}
