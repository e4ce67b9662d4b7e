//! What a reset finds and undoes, and what it keeps.

use super::*;

#[test]
fn a_reset_undoes_exactly_the_pages_that_were_written() {
    let (image, data) = frozen();
    for (pages, bits) in [
        (1, DirtyBits::Fresh),
        (1000, DirtyBits::Fresh),
        (1000, DirtyBits::Sticky),
    ] {
        let mut memory = image.fork().unwrap();
        let at = memory
            .map(Place::Anywhere, 1000 * 4096, Protection::READ_WRITE)
            .unwrap();
        for page in 0..pages {
            memory.write(add(at, page * 4096), b"dirt").unwrap();
        }
        memory.write(data, b"dirt").unwrap();
        assert_eq!(reset(&mut memory, bits).pages, pages + 1);
        let expected = if bits == DirtyBits::Fresh {
            0
        } else {
            pages + 1
        };
        assert_eq!(reset(&mut memory, bits).pages, expected, "{bits:?}");
    }
}

#[test]
fn a_reset_finds_what_was_written_wherever_it_is() {
    let (image, _) = frozen();
    let area = image.request_area();
    let stack = area.start - 4 * MIB..area.start;
    for bits in [DirtyBits::Fresh, DirtyBits::Sticky] {
        let mut memory = image.fork().unwrap();
        let arena = memory
            .map(Place::Anywhere, 8 * MIB, Protection::READ_WRITE)
            .unwrap()
            .raw();
        let heap = HEAP..memory.set_break(GuestVirt::new(HEAP + 4096)).raw();
        for range in [stack.clone(), area.clone(), arena..arena + 8 * MIB, heap] {
            for at in [range.start, range.start + 2048, range.end - 8] {
                memory.write(GuestVirt::new(at), b"dirt").unwrap();
            }
        }
        assert_eq!(reset(&mut memory, bits).pages, 7, "{bits:?}");
        // Behind the request area there is room in its page table, where the image has no entries.
        let gap = GuestVirt::new(area.end + 64 * 4096);
        let before = memory.write(gap, b"dirt").unwrap_err();
        assert_eq!(before.kind, AccessKind::Unmapped);
        memory
            .map(Place::Fixed(gap), 4096, Protection::READ_WRITE)
            .unwrap();
        memory.write(gap, b"dirt").unwrap();
        memory.write(GuestVirt::new(area.start), b"dirt").unwrap();
        reset(&mut memory, bits);
        assert!(memory.write(gap, b"dirt").is_err());
    }
}

#[test]
fn a_reset_finds_what_the_host_wrote_where_the_program_may_not() {
    let (image, data) = frozen();
    for bits in [DirtyBits::Fresh, DirtyBits::Sticky] {
        let mut memory = image.fork().unwrap();
        // The second time the dirty bit may be there already.
        for _ in 0..3 {
            memory.poke(TEXT, b"int3").unwrap();
            assert_eq!(memory.read_bytes(TEXT, 4, 4).unwrap(), b"int3");
            assert!(memory.dirty_bytes() >= 4096);
            reset(&mut memory, bits);
            assert_eq!(memory.read_bytes(TEXT, 4, 4).unwrap(), b"text");

            memory.discard(TEXT, 4096).unwrap();
            assert_eq!(memory.read_bytes(TEXT, 4, 4).unwrap(), [0; 4]);
            memory.write(data, b"dirt").unwrap();
            reset(&mut memory, bits);
            assert_eq!(memory.read_bytes(TEXT, 4, 4).unwrap(), b"text");
        }
        assert_eq!(
            memory.write(TEXT, b"x").unwrap_err().kind,
            AccessKind::ReadOnly
        );
    }
}

#[test]
fn a_reset_finds_what_was_discarded_where_the_image_allows_nothing() {
    let mut main = main_memory();
    let all = main
        .map(Place::Anywhere, MIB, Protection::READ_WRITE)
        .unwrap();
    // Far from pages that may be written, which a reset looks at anyway.
    let at = add(all, MIB / 2);
    main.write(at, b"kept").unwrap();
    main.protect(all, MIB, Protection::NONE).unwrap();
    let image = Arc::new(main.freeze(MIB).unwrap());
    for bits in [DirtyBits::Fresh, DirtyBits::Sticky] {
        let mut memory = image.fork().unwrap();
        for _ in 0..3 {
            memory.discard(at, 4096).unwrap();
            reset(&mut memory, bits);
            memory.protect(at, 4096, Protection::READ).unwrap();
            assert_eq!(memory.read_bytes(at, 4, 4).unwrap(), b"kept");
            reset(&mut memory, bits);
        }
    }
}

#[test]
fn a_reset_is_quick_where_few_pages_are_to_be_copied_and_nothing_else() {
    let (image, data) = frozen();
    let mut memory = image.fork().unwrap();
    assert!(memory.is_quickly_reset(u64::MAX));
    memory.write(data, b"dirt").unwrap();
    assert!(memory.is_quickly_reset(u64::MAX));
    assert!(!memory.is_quickly_reset(0), "everything is dropped");
    let at = memory
        .map(Place::Anywhere, MIB, Protection::READ_WRITE)
        .unwrap();
    for page in 0..100 {
        memory.write(add(at, page * 4096), b"dirt").unwrap();
    }
    assert!(!memory.is_quickly_reset(u64::MAX));
    reset(&mut memory, DirtyBits::Fresh);
    memory.protect(data, 4096, Protection::READ).unwrap();
    assert!(!memory.is_quickly_reset(u64::MAX));
}

#[test]
fn changed_rights_are_undone() {
    let (image, data) = frozen();
    for bits in [DirtyBits::Fresh, DirtyBits::Sticky] {
        let mut memory = image.fork().unwrap();
        memory.protect(data, 4096, Protection::NONE).unwrap();
        memory.protect(data, 4096, Protection::READ).unwrap();
        assert_eq!(
            memory.write(data, b"x").unwrap_err().kind,
            AccessKind::ReadOnly
        );
        memory.protect(TEXT, 4096, Protection::READ_WRITE).unwrap();
        memory.write(TEXT, b"evil").unwrap();
        assert!(!memory.is_executable(TEXT));
        reset(&mut memory, bits);
        assert!(memory.is_executable(TEXT));
        memory.write(data, b"x").unwrap();
    }
}

#[test]
fn pages_that_one_request_made_writable_are_no_burden_for_others() {
    let (image, data) = frozen();
    let mut memory = image.fork().unwrap();
    memory.protect(TEXT, 4096, Protection::READ_WRITE).unwrap();
    memory.write(TEXT, b"dirt").unwrap();
    memory.write(data, b"dirt").unwrap();
    let wiped = reset(&mut memory, DirtyBits::Sticky);
    assert_eq!((wiped.pages, wiped.still_dirty), (2, 1));
    // The next one edits another entry, so that all entries are looked at.
    memory
        .protect(add(data, 4096), 4096, Protection::READ)
        .unwrap();
    assert_eq!(memory.dirty_bytes(), 4096);
    memory.protect(TEXT, 4096, Protection::READ_WRITE).unwrap();
    memory.write(TEXT, b"again").unwrap();
    assert_eq!(memory.dirty_bytes(), 2 * 4096);
    assert_eq!(reset(&mut memory, DirtyBits::Sticky).still_dirty, 1);
}

#[test]
fn everything_a_request_maps_is_gone_after_a_reset() {
    let (image, data) = frozen();
    for bits in [DirtyBits::Fresh, DirtyBits::Sticky] {
        let mut memory = image.fork().unwrap();
        let first = memory
            .map(Place::Anywhere, MIB, Protection::READ_WRITE)
            .unwrap();
        memory.write(first, b"one").unwrap();
        memory.unmap(first, MIB).unwrap();
        let again = memory
            .map(Place::Anywhere, MIB, Protection::READ_WRITE)
            .unwrap();
        assert_eq!(memory.read_bytes(again, 3, 3).unwrap(), [0; 3]);
        memory.unmap(data, 8192).unwrap();
        assert!(memory.read(data, &mut [0]).is_err());
        // A place of its own choice needs page tables of its own: those go, too.
        let far = GuestVirt::new(0xc0_0000_0000);
        memory
            .map(Place::Fixed(far), 3 * 4096, Protection::READ_WRITE)
            .unwrap();
        memory.write(far, b"far away").unwrap();
        assert!(reset(&mut memory, bits).full);
        assert!(memory.read(far, &mut [0]).is_err());
        assert_eq!(memory.read_bytes(data, 4, 4).unwrap(), [7; 4]);
        let at = memory
            .map(Place::Anywhere, MIB, Protection::READ_WRITE)
            .unwrap();
        assert_eq!(at, first);
    }
}

#[test]
fn a_vm_that_grew_fat_gives_its_memory_back() {
    let (image, _) = frozen();
    let mut memory = image.fork().unwrap();
    let at = memory
        .map(Place::Anywhere, 4 * MIB, Protection::READ_WRITE)
        .unwrap();
    memory.write(at, &vec![1; 4 << 20]).unwrap();
    let wiped = memory.reset(DirtyBits::Sticky, 100).unwrap();
    assert!(wiped.full && wiped.pages >= 1024);
    assert_eq!(memory.differences(), []);
    assert_eq!(reset(&mut memory, DirtyBits::Sticky).pages, 0);
}

#[test]
fn one_request_that_wrote_much_does_not_burden_those_after_it_for_long() {
    let (image, data) = frozen();
    for bits in [DirtyBits::Fresh, DirtyBits::Sticky] {
        let mut memory = image.fork().unwrap();
        memory.write(data, b"little").unwrap();
        memory.reset(bits, u64::MAX).unwrap();
        let at = memory
            .map(Place::Anywhere, 4 * MIB, Protection::READ_WRITE)
            .unwrap();
        memory.write(at, &vec![1; 4 << 20]).unwrap();
        memory.reset(bits, u64::MAX).unwrap();
        let mut full = 0;
        for _ in 0..100 {
            memory.write(data, b"little").unwrap();
            full += u32::from(memory.reset(bits, u64::MAX).unwrap().full);
        }
        memory.write(data, b"little").unwrap();
        assert!(reset(&mut memory, bits).pages < 8);
        assert_eq!(full, u32::from(bits == DirtyBits::Sticky));
    }
}

#[test]
fn requests_that_always_write_much_keep_their_pages() {
    let (image, _) = frozen();
    let mut memory = image.fork().unwrap();
    for _ in 0..200 {
        let at = memory
            .map(Place::Anywhere, 2 * MIB, Protection::READ_WRITE)
            .unwrap();
        memory.write(at, &vec![1; 2 << 20]).unwrap();
        assert!(!memory.reset(DirtyBits::Sticky, u64::MAX).unwrap().full);
    }
    assert_eq!(memory.differences(), []);
}

/// Memory of the process that this VM has for itself alone.
fn private_bytes(memory: &Memory) -> u64 {
    let begin = memory.backing.host_address();
    let end = begin + memory.backing.shared_from();
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut inside, mut bytes) = (false, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap();
        if let Some((from, _)) = first.split_once('-') {
            inside = u64::from_str_radix(from, 16).is_ok_and(|at| begin <= at && at < end);
        } else if inside && first == "Anonymous:" {
            bytes += words.next().unwrap().parse::<u64>().unwrap() << 10;
        }
    }
    bytes
}

#[test]
fn requests_that_write_different_pages_leave_a_vm_no_more_than_one_may_write() {
    const LIMIT: u64 = 2 * MIB;
    const SLACK: u64 = 256 << 10;
    let mut main = main_memory();
    let at = main
        .map(Place::Anywhere, 16 * MIB, Protection::READ_WRITE)
        .unwrap();
    for page in 0..16 * 256 {
        main.write(add(at, page * 4096), &[1; 4096]).unwrap();
    }
    let image = Arc::new(main.freeze(8 * MIB).unwrap());
    for bits in [DirtyBits::Fresh, DirtyBits::Sticky] {
        for keep in [MIB + MIB / 2, u64::MAX] {
            let mut memory = image.fork().unwrap();
            memory.set_limit(LIMIT);
            let mut full = 0;
            for request in 0..16 {
                // Not from one large buffer, which may lie beside the VM's memory and count with it.
                for page in 0..256 {
                    let page = add(at, request * MIB + page * 4096);
                    memory.write(page, &[2; 4096]).unwrap();
                }
                let wiped = memory.reset(bits, keep / 4096).unwrap();
                full += u32::from(wiped.full);
                let held = private_bytes(&memory);
                let most = LIMIT.min(keep) + SLACK;
                assert!(held <= most, "{bits:?} {keep}: {held} after {request}");
            }
            assert_eq!(memory.differences(), []);
            let expected = if keep == u64::MAX { 5 } else { 8 };
            assert_eq!(full, expected, "{bits:?} {keep}");
        }
    }
}

#[test]
fn zeroing_what_nobody_has_touched_takes_no_memory() {
    let mut main = main_memory();
    let before = main.used_bytes();
    let len = 4 * MIB;
    let at = main
        .map(Place::Anywhere, len, Protection::READ_WRITE)
        .unwrap();
    let tables = main.used_bytes() - before;
    main.discard(at, len).unwrap();
    let moved = main.remap(at, len, len + 4096, true).unwrap();
    main.write(moved, b"content").unwrap();
    let after = main.used_bytes() - before;
    assert!(after <= tables + 8192, "{after} bytes, {tables} of tables");

    let image = Arc::new(main.freeze(8 * MIB).unwrap());
    for bits in [DirtyBits::Fresh, DirtyBits::Sticky] {
        let mut memory = image.fork().unwrap();
        memory.discard(moved, len).unwrap();
        assert_eq!(memory.read_bytes(moved, 7, 7).unwrap(), [0; 7]);
        assert_eq!(memory.dirty_bytes(), 4096, "only what had content");
        memory.write(add(moved, 8192), b"dirt").unwrap();
        let again = memory.remap(moved, len, len + 8192, true).unwrap();
        assert_eq!(memory.read_bytes(add(again, 8192), 4, 4).unwrap(), b"dirt");
        assert_eq!(memory.read_bytes(again, 7, 7).unwrap(), [0; 7]);
        reset(&mut memory, bits);
        assert_eq!(memory.read_bytes(moved, 7, 7).unwrap(), b"content");
    }
}

#[test]
fn rights_of_many_scattered_pages_change_and_come_back() {
    const PAGES: u64 = 2000;
    let (image, data) = frozen();
    for bits in [DirtyBits::Fresh, DirtyBits::Sticky] {
        let mut memory = image.fork().unwrap();
        let at = memory
            .map(Place::Anywhere, PAGES * 4096, Protection::READ_WRITE)
            .unwrap();
        memory.write(data, b"dirt").unwrap();
        memory.fill_zero(at, PAGES * 4096).unwrap();
        for page in (0..PAGES).rev().step_by(2) {
            let page = add(at, page * 4096);
            memory.protect(page, 4096, Protection::READ).unwrap();
            assert!(memory.write(page, b"x").is_err());
        }
        reset(&mut memory, bits);
    }
}
