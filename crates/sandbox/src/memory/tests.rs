//! Mapping, freezing, forking and resetting without a virtual CPU: the host plays the guest.

use std::sync::Arc;

use super::*;

mod lending;
mod resets;

const MIB: u64 = 1 << 20;
const TEXT: GuestVirt = GuestVirt::new(0x40_0000);
const HEAP: u64 = 0x80_0000;
const ARENA: u64 = 0x1000_0000;

fn main_memory() -> Memory {
    let mut memory = Memory::new_main(32 * MIB, false).unwrap();
    memory.set_layout(
        GuestVirt::new(HEAP)..GuestVirt::new(HEAP + 8 * MIB),
        GuestVirt::new(ARENA)..GuestVirt::new(1 << 40),
    );
    memory
}

fn add(at: GuestVirt, bytes: u64) -> GuestVirt {
    at.checked_add(bytes).unwrap()
}

/// A frozen program with a read-only page, two data pages and an 8 MiB arena.
fn frozen() -> (Arc<Frozen>, GuestVirt) {
    let mut memory = main_memory();
    memory
        .map(Place::Fixed(TEXT), 4096, Protection::READ_WRITE)
        .unwrap();
    memory.write(TEXT, b"text").unwrap();
    memory
        .protect(TEXT, 4096, Protection::READ_EXECUTE)
        .unwrap();
    let data = memory
        .map(Place::Anywhere, 8192, Protection::READ_WRITE)
        .unwrap();
    memory.write(data, &[7; 8192]).unwrap();
    (Arc::new(memory.freeze(8 * MIB).unwrap()), data)
}

fn reset(memory: &mut Memory, bits: DirtyBits) -> Wiped {
    let wiped = memory.reset(bits, u64::MAX).unwrap();
    assert_eq!(memory.differences(), [], "a reset must miss nothing");
    let counted = memory.dirty_bytes();
    assert_eq!(counted, wiped.still_dirty * 4096, "what is left must count");
    wiped
}

#[test]
fn only_a_fault_of_the_program_that_the_tables_do_not_explain_is_tried_again() {
    const READ: u64 = 5;
    const WRITE: u64 = 7;
    const FETCH: u64 = 0x15;
    let mut memory = main_memory();
    let at = memory.map(Place::Anywhere, 4096, Protection::READ).unwrap();
    let granted = |memory: &Memory| [READ, WRITE, FETCH].map(|code| memory.grants(at, code));
    assert_eq!(granted(&memory), [true, false, false]);
    memory.protect(at, 4096, Protection::READ_WRITE).unwrap();
    assert_eq!(granted(&memory), [true, true, false]);
    memory.protect(at, 4096, Protection::READ_EXECUTE).unwrap();
    assert_eq!(granted(&memory), [true, false, true]);
    // Of the in-guest kernel, for want of the page, reserved bits, protection keys, shadow stacks.
    for code in [1, 3, 4, 6, 0xd, 0x25, 0x45] {
        assert!(!memory.grants(at, code), "{code:#x}");
    }
    memory.protect(at, 4096, Protection::NONE).unwrap();
    assert_eq!(granted(&memory), [false; 3]);
    assert!(!memory.grants(GuestVirt::new(u64::MAX), READ));
}

#[test]
fn mapped_memory_is_zero_and_keeps_what_is_written() {
    let mut memory = main_memory();
    let at = memory
        .map(Place::Anywhere, 10_000, Protection::READ_WRITE)
        .unwrap();
    let mut bytes = [1; 12_288];
    memory.read(at, &mut bytes).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 0));
    memory.write(add(at, 4090), b"across pages").unwrap();
    assert_eq!(
        memory.read_bytes(add(at, 4090), 12, 12).unwrap(),
        b"across pages"
    );
    assert_eq!(
        memory.read_cstr(add(at, 4090), 100).unwrap(),
        b"across pages"
    );
}

#[test]
fn memory_that_comes_back_is_zero_again() {
    let mut memory = main_memory();
    let at = memory
        .map(Place::Anywhere, MIB, Protection::READ_WRITE)
        .unwrap();
    memory.fill_zero(at, MIB).unwrap();
    memory.write(at, b"secret").unwrap();
    memory.unmap(at, MIB).unwrap();
    let again = memory
        .map(Place::Anywhere, MIB, Protection::READ_WRITE)
        .unwrap();
    assert_eq!(memory.read_bytes(again, 6, 6).unwrap(), [0; 6]);
    memory.write(again, b"secret").unwrap();
    memory.discard(again, 4096).unwrap();
    assert_eq!(memory.read_bytes(again, 6, 6).unwrap(), [0; 6]);
}

#[test]
fn what_the_guest_may_not_use_the_host_refuses_too() {
    let mut memory = main_memory();
    let at = memory.map(Place::Anywhere, 4096, Protection::READ).unwrap();
    assert_eq!(
        memory.write(at, b"x").unwrap_err().kind,
        AccessKind::ReadOnly
    );
    assert_eq!(
        memory.read(add(at, 4090), &mut [0; 8]).unwrap_err().kind,
        AccessKind::Unmapped
    );
    for wild in [
        0,
        0x1000,
        0x10000,
        0x19000,
        u64::MAX,
        1 << 63,
        (1 << 47) - 4,
    ] {
        let kind = memory
            .write(GuestVirt::new(wild), &[0; 16])
            .unwrap_err()
            .kind;
        assert_ne!(kind, AccessKind::TooLong, "{wild:#x}");
        assert!(
            memory.read(GuestVirt::new(wild), &mut [0; 16]).is_err(),
            "{wild:#x}"
        );
    }
    memory.protect(at, 4096, Protection::NONE).unwrap();
    assert!(memory.read(at, &mut [0]).is_err());
    assert_eq!(
        memory.read_bytes(at, 5000, 4096).unwrap_err().kind,
        AccessKind::TooLong
    );
    assert_eq!(
        memory.read_cstr(at, 10).unwrap_err().kind,
        AccessKind::Unmapped
    );
}

#[test]
fn addresses_beyond_48_bits_are_nobodys() {
    let mut memory = main_memory();
    let at = memory
        .map(Place::Anywhere, 4096, Protection::READ_WRITE)
        .unwrap();
    for high in [1 << 47, 1 << 48, 0xffff << 48] {
        let alias = GuestVirt::new(at.raw() | high);
        assert!(memory.read(alias, &mut [0]).is_err());
        assert!(memory.write(alias, b"x").is_err());
        assert!(memory.poke(alias, b"x").is_err());
        assert!(!memory.is_executable(GuestVirt::new(TEXT.raw() | high)));
    }
    memory.poke(at, b"x").unwrap();
}

#[test]
fn mappings_that_linux_refuses_are_refused() {
    let mut memory = main_memory();
    let rwx = Protection {
        read: true,
        write: true,
        execute: true,
    };
    assert_eq!(
        memory.map(Place::Anywhere, 4096, rwx),
        Err(MapError::WriteExecute)
    );
    assert_eq!(
        memory.map(Place::Anywhere, 0, Protection::READ),
        Err(MapError::Invalid)
    );
    assert_eq!(
        memory.map(Place::Anywhere, u64::MAX, Protection::READ),
        Err(MapError::NoMemory)
    );
    assert_eq!(
        memory.map(Place::Anywhere, 64 * MIB, Protection::READ_WRITE),
        Err(MapError::NoMemory)
    );
    for bad in [0, 0x19000, 0x40_0001, u64::MAX - 4095, 0x7fff_ffff_f000] {
        let place = Place::Fixed(GuestVirt::new(bad));
        assert_eq!(
            memory.map(place, 4096, Protection::READ),
            Err(MapError::Invalid),
            "{bad:#x}"
        );
    }
    let at = memory.map(Place::Anywhere, 8192, Protection::READ).unwrap();
    let taken = memory.map(Place::FixedNoReplace(at), 4096, Protection::READ);
    assert_eq!(taken, Err(MapError::Exists));
    assert_eq!(
        memory.protect(at, 12_288, Protection::READ),
        Err(MapError::NoMemory)
    );
    // A reservation takes no memory, however large.
    memory
        .map(Place::Anywhere, 1 << 36, Protection::NONE)
        .unwrap();
}

#[test]
fn a_moved_mapping_keeps_its_content() {
    let mut memory = main_memory();
    let at = memory
        .map(Place::Anywhere, 8192, Protection::READ_WRITE)
        .unwrap();
    let wall = memory.map(Place::Anywhere, 4096, Protection::READ).unwrap();
    assert_eq!(wall, add(at, 8192));
    memory.write(add(at, 8000), b"tail").unwrap();
    assert_eq!(
        memory.remap(at, 8192, 16_384, false),
        Err(MapError::NoMemory)
    );
    let new = memory.remap(at, 8192, 16_384, true).unwrap();
    assert_eq!(memory.read_bytes(add(new, 8000), 4, 4).unwrap(), b"tail");
    assert!(memory.read(at, &mut [0]).is_err());
    assert_eq!(memory.remap(new, 16_384, 4096, false), Ok(new));
    assert!(memory.read(add(new, 4096), &mut [0]).is_err());
}

#[test]
fn the_break_moves_within_its_room_and_new_heap_is_zero() {
    let mut memory = main_memory();
    assert_eq!(memory.set_break(GuestVirt::new(0)).raw(), HEAP);
    assert_eq!(
        memory.set_break(GuestVirt::new(HEAP + 5000)).raw(),
        HEAP + 5000
    );
    memory.write(GuestVirt::new(HEAP + 4096), b"old").unwrap();
    assert_eq!(
        memory.set_break(GuestVirt::new(HEAP + 100)).raw(),
        HEAP + 100
    );
    assert_eq!(
        memory.set_break(GuestVirt::new(HEAP + 9000)).raw(),
        HEAP + 9000
    );
    assert_eq!(
        memory
            .read_bytes(GuestVirt::new(HEAP + 4096), 3, 3)
            .unwrap(),
        [0; 3]
    );
    assert_eq!(
        memory.set_break(GuestVirt::new(HEAP + 9 * MIB)).raw(),
        HEAP + 9000
    );
}

#[test]
fn a_fork_starts_as_the_image_and_its_writes_stay_its_own() {
    let (image, data) = frozen();
    let mut one = image.fork().unwrap();
    let other = image.fork().unwrap();
    assert_eq!(one.differences(), []);
    assert_eq!(one.read_bytes(TEXT, 4, 4).unwrap(), b"text");
    assert_eq!(
        one.write(TEXT, b"x").unwrap_err().kind,
        AccessKind::ReadOnly
    );
    one.write(data, b"mine").unwrap();
    assert_eq!(other.read_bytes(data, 4, 4).unwrap(), [7; 4]);
    assert_eq!(one.differences().len(), 1);
    for bits in [DirtyBits::Fresh, DirtyBits::Sticky] {
        reset(&mut one, bits);
        assert_eq!(one.read_bytes(data, 4, 4).unwrap(), [7; 4]);
        one.write(data, b"mine").unwrap();
    }
}

#[test]
fn a_request_cannot_map_more_than_its_share() {
    let (image, _) = frozen();
    let mut memory = image.fork().unwrap();
    let too_much = memory.map(Place::Anywhere, 9 * MIB, Protection::READ_WRITE);
    assert_eq!(too_much, Err(MapError::NoMemory));
    memory
        .map(Place::Anywhere, 8 * MIB, Protection::READ_WRITE)
        .unwrap();
    let more = memory.map(Place::Anywhere, 4096, Protection::READ_WRITE);
    assert_eq!(more, Err(MapError::NoMemory));
    reset(&mut memory, DirtyBits::Fresh);
    memory
        .map(Place::Anywhere, 8 * MIB, Protection::READ_WRITE)
        .unwrap();
}

#[test]
fn pieces_are_merged_and_bounded() {
    let (image, _) = frozen();
    let mut memory = image.fork().unwrap();
    let at = memory
        .map(Place::Anywhere, MIB, Protection::READ_WRITE)
        .unwrap();
    let mut pieces = Vec::new();
    memory
        .pieces(add(at, 100), MIB - 100, 1, &mut pieces)
        .unwrap();
    assert_eq!(pieces.len(), 1);
    assert_eq!(pieces[0].len, (1 << 20) - 100);
    let mut writable = Vec::new();
    memory.pieces_mut(at, 8192, 1, &mut writable).unwrap();
    assert_eq!(
        reset(&mut memory, DirtyBits::Fresh).pages,
        2,
        "handed out for writing is dirty"
    );
    assert!(memory.pieces(at, 2 << 40, 4, &mut pieces).is_err());
}

#[test]
fn shared_memory_belongs_to_no_vm() {
    for bits in [DirtyBits::Fresh, DirtyBits::Sticky] {
        let mut main = Memory::new_main_sharing(32 * MIB, 64 << 10, false).unwrap();
        main.set_layout(
            GuestVirt::new(HEAP)..GuestVirt::new(HEAP + 8 * MIB),
            GuestVirt::new(ARENA)..GuestVirt::new(1 << 40),
        );
        let area = main.shared_area().unwrap();
        assert_eq!(area.end.raw() - area.start.raw(), 64 << 10);
        let (begin, last) = (area.start, GuestVirt::new(area.end.raw() - 8));
        main.write(begin, b"main").unwrap();
        let data = main
            .map(Place::Anywhere, 8192, Protection::READ_WRITE)
            .unwrap();
        let image = Arc::new(main.freeze(MIB).unwrap());
        let (mut one, mut other) = (image.fork().unwrap(), image.fork().unwrap());
        let read = |memory: &Memory, at| memory.read_bytes(at, 4, 4).unwrap();
        assert_eq!(read(&one, begin), b"main");
        one.write(begin, b"one!").unwrap();
        one.write(last, b"last").unwrap();
        one.write(data, b"own!").unwrap();
        assert_eq!(one.dirty_bytes(), 4096, "shared pages count for nobody");
        assert_eq!(read(&other, begin), b"one!");
        assert_eq!(read(&other, last), b"last");
        assert_eq!(read(&other, data), [0; 4]);
        for full in [false, true] {
            one.write(data, b"own!").unwrap();
            let keep = if full { 0 } else { u64::MAX };
            let wiped = one.reset(bits, keep).unwrap();
            assert_eq!((wiped.pages, wiped.full), (1, full));
            assert_eq!(one.differences(), []);
            assert_eq!(read(&one, begin), b"one!");
            assert_eq!(read(&one, data), [0; 4]);
        }
        for memory in [&mut one, &mut other] {
            let refused = Err(MapError::Reserved);
            let at = GuestVirt::new(begin.raw() - 4096);
            assert_eq!(memory.unmap(at, 8192), refused);
            assert_eq!(memory.protect(begin, 4096, Protection::READ), refused);
            assert_eq!(memory.discard(begin, 4096), refused);
            assert!(memory.remap(begin, 4096, 8192, true).is_err());
            for place in [Place::Fixed(begin), Place::FixedNoReplace(begin)] {
                assert!(memory.map(place, 4096, Protection::READ).is_err());
            }
            let hint = memory.map(Place::Hint(begin), 4096, Protection::READ);
            assert_ne!(hint.unwrap(), begin);
        }
        drop((one, image));
        assert_eq!(read(&other, begin), b"one!");
    }
}

#[test]
fn a_large_frame_of_a_callback_meets_nothing_of_the_programs() {
    let (frozen, data) = frozen();
    let end = frozen.stack_top().raw() - 4 * MIB;
    assert!(data.raw() < end - GUARD);
    let memory = frozen.fork().unwrap();
    assert!(memory.space.areas.is_free(end - GUARD..end));
    let passed = |address: u64, rsp: u64| memory.overflown_stack(address, rsp);
    let seen = Some((Stack::Callback, 4 * MIB));
    assert_eq!(passed(end - 8, end), seen);
    assert_eq!(passed(end - 1, end + 127), seen);
    assert_eq!(passed(end - GUARD + 128, end - GUARD + 256), seen);
    // Far from the stack pointer, above the end, and on another stack.
    assert_eq!(passed(end - 4096, end + 8), None);
    assert_eq!(passed(end, end), None);
    assert_eq!(passed(data.raw() + 8192, data.raw() + 8200), None);
    assert_eq!(passed(u64::MAX, 0), None);
    assert_eq!(passed(0, u64::MAX), None);
}
