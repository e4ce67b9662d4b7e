//! One test for each thing that can be wrong, and for what only looks wrong.

use super::craft::*;
use super::*;
use crate::memory::Protection;

fn error(craft: &Craft) -> ElfError {
    parse(&craft.bytes(), &STRICT).unwrap_err()
}

fn accepted(craft: &Craft) {
    let bytes = craft.bytes();
    check(&parse(&bytes, &STRICT).unwrap());
}

#[test]
fn a_sound_file_is_accepted() {
    let bytes = program().bytes();
    let elf = parse(&bytes, &STRICT).unwrap();
    check(&elf);
    assert_eq!(elf.kind, Kind::Static);
    assert_eq!(elf.entry.raw(), 0x40_0800);
    assert_eq!(elf.phdr.raw(), 0x40_0040);
    assert_eq!(elf.phnum, 2);
    assert_eq!(elf.image_end.raw(), 0x40_5000);
    let rights: Vec<_> = elf.segments.iter().map(|it| it.prot).collect();
    assert_eq!(rights, [Protection::READ_EXECUTE, Protection::READ_WRITE]);
}

#[test]
fn files_that_are_no_elf_files_are_named() {
    for (bytes, name) in [
        (&b""[..], "empty"),
        (b"\x7fEL", "something else"),
        (b"#!/bin/sh\n", "a script"),
        (b"\0asm\x01\0\0\0", "a WebAssembly module"),
        (b"<!DOCTYPE html>", "an HTML or XML page"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (&[0; 4096], "something else"),
    ] {
        assert_eq!(parse(bytes, &STRICT), Err(ElfError::NotElf(name)));
    }
}

#[test]
fn a_truncated_file_is_told_where_it_ends() {
    let whole = program().bytes();
    for len in 0..whole.len() {
        let error = parse(&whole[..len], &STRICT).unwrap_err();
        let part = match len {
            0..4 => {
                assert!(matches!(error, ElfError::NotElf(_)));
                continue;
            }
            4..64 => Part::Header,
            64..176 => Part::ProgramHeaders,
            176..0x1000 => Part::Segment(0),
            _ => Part::Segment(1),
        };
        let needed = match part {
            Part::Header => 64,
            Part::ProgramHeaders => 176,
            Part::Segment(0) => 0x1000,
            Part::Segment(_) => 0x1800,
        };
        let len = len as u64;
        assert_eq!(error, ElfError::Truncated { part, needed, len });
    }
}

#[test]
fn programs_for_other_machines_are_named() {
    for (machine, name) in [
        (183, "aarch64"),
        (40, "arm"),
        (243, "riscv"),
        (21, "ppc64"),
        (22, "s390x"),
        (3, "i386"),
        (0xfedc, "65244"),
    ] {
        let mut craft = program();
        craft.machine = machine;
        let error = error(&craft);
        assert!(matches!(error, ElfError::WrongMachine { .. }));
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_32_bit_program_is_told_to_be_built_for_64() {
    let error = error(&program().patch(4, &[1]).patch(18, &[3, 0]));
    assert!(matches!(error, ElfError::ThirtyTwoBit { .. }));
    let text = error.to_string();
    assert!(text.contains("i386") && text.contains("-m64"), "{text}");
}

#[test]
fn a_big_endian_program_is_named() {
    let error = error(&program().patch(5, &[2]).patch(18, &[0, 22]));
    assert!(matches!(error, ElfError::BigEndian { .. }));
    assert!(error.to_string().contains("s390x"));
}

#[test]
fn damaged_headers_are_named() {
    for (craft, expected) in [
        (program().patch(4, &[7]), ("EI_CLASS", 7)),
        (program().patch(5, &[9]), ("EI_DATA", 9)),
        (program().patch(54, &[32, 0]), ("e_phentsize", 32)),
    ] {
        let (field, value) = expected;
        assert_eq!(error(&craft), ElfError::Damaged { field, value });
    }
    let craft = pie().set(0, ALIGN, 1 << 63);
    assert!(matches!(error(&craft), ElfError::OutOfRange { .. }));
}

#[test]
fn object_files_and_core_dumps_are_no_programs() {
    for (kind, name) in [(1, "object file"), (4, "core dump"), (0, "unknown type")] {
        let mut craft = program();
        craft.kind = kind;
        let error = error(&craft);
        assert!(matches!(error, ElfError::WrongType { .. }));
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_dynamic_program_is_told_its_interpreter_and_what_to_do() {
    let craft = program()
        .add([INTERP, R, 0x200, 0x40_0200, 0, 28, 28, 1])
        .patch(0x200, b"/lib64/ld-linux-x86-64.so.2\0");
    let error = error(&craft);
    assert_eq!(
        error,
        ElfError::Dynamic {
            interpreter: "/lib64/ld-linux-x86-64.so.2".into()
        }
    );
    assert!(error.to_string().contains("-static"));
}

#[test]
fn nothing_from_a_file_reaches_a_terminal_raw() {
    let craft = program()
        .add([INTERP, R, 0x200, 0x40_0200, 0, 600, 600, 1])
        .patch(0x200, b"\x1b[31mred\n\xff")
        .patch(0x20a, &[b'x'; 600]);
    let text = error(&craft).to_string();
    assert!(text.contains("?[31mred??xxx"), "{text}");
    assert!(text.len() < 400);
}

#[test]
fn a_shared_library_is_told_from_a_static_pie() {
    let dynamic = |entries: &[(u64, u64)]| {
        let bytes: Vec<u8> = entries
            .iter()
            .flat_map(|entry| [entry.0.to_le_bytes(), entry.1.to_le_bytes()].concat())
            .collect();
        pie()
            .add([DYNAMIC, RW, 0x1000, 0x2000, 0, bytes.len() as u64, 0x100, 8])
            .patch(0x1000, &bytes)
            .patch(0x0f00, b"\0libc.so.6\0")
    };
    let library = dynamic(&[(1, 1), (5, 0x0f00), (0, 0)]);
    assert_eq!(
        error(&library),
        ElfError::NeedsLibrary {
            library: "libc.so.6".into()
        }
    );
    // A name that is not in the file is no reason to go on.
    let nameless = dynamic(&[(1, 1), (5, u64::MAX), (0, 0)]);
    assert!(matches!(error(&nameless), ElfError::NeedsLibrary { .. }));
    // What comes after DT_NULL does not count.
    accepted(&dynamic(&[(5, 0x0f00), (0, 0), (1, 1)]));
}

#[test]
fn segments_that_overlap_or_are_out_of_order_are_refused() {
    let overlapping = program().set(1, VADDR, 0x40_0000 + 0x800);
    // The same place within a page, so that this is what is wrong with it.
    let overlapping = overlapping.set(1, OFFSET, 0x800);
    assert_eq!(
        error(&overlapping),
        ElfError::Overlap {
            number: 1,
            address: GuestVirt::new(0x40_0800),
            end: GuestVirt::new(0x40_1000)
        }
    );
    let mut backwards = program();
    backwards.headers.reverse();
    assert!(matches!(
        error(&backwards),
        ElfError::Overlap { number: 1, .. }
    ));
    let same = program().loads(vec![
        load(RX, 0, 0x40_0000, 0x1000, 0x1000),
        load(RX, 0, 0x40_0000, 0x1000, 0x1000),
    ]);
    assert!(matches!(error(&same), ElfError::Overlap { number: 1, .. }));
}

#[test]
fn segments_outside_user_space_are_refused() {
    for (address, size) in [
        (0, 0x1000),
        (0xf_f000, 0x2000),
        (USER_END - 0x1000, 0x2000),
        (USER_END, 0x1000),
        (0xffff_8000_0000_0000, 0x1000),
        (0xffff_ffff_ffff_f000, 0x1000),
        (0x50_0000, u64::MAX),
        (0x50_0000, u64::MAX - 0x50_0000),
        (0x50_0000, 1 << 47),
    ] {
        let craft = program().add(load(RW, 0x1000, address, 0x100, size));
        let expected = ElfError::OutOfRange {
            number: 2,
            address,
            size,
        };
        assert_eq!(error(&craft), expected);
    }
    // A position-independent one is moved, and must not move out of the address space.
    let craft = pie().add(load(RW, 0x1000, u64::MAX - 0xfff, 0x100, 0x100));
    assert!(matches!(
        error(&craft),
        ElfError::OutOfRange { number: 2, .. }
    ));
    accepted(&program().add(load(RW, 0x1000, USER_END - 0x1000, 0x100, 0x1000)));
}

#[test]
fn a_segment_larger_in_the_file_than_in_memory_is_refused() {
    assert_eq!(
        error(&program().set(1, MEMSZ, 0x7ff)),
        ElfError::LargerInFile {
            number: 1,
            file: 0x800,
            memory: 0x7ff
        }
    );
    assert!(matches!(
        error(&program().set(1, MEMSZ, 0)),
        ElfError::LargerInFile { .. }
    ));
}

#[test]
fn file_ranges_that_wrap_around_are_truncation() {
    for (offset, len) in [
        (u64::MAX - 0xfff, 0x800),
        (0x1000, u64::MAX),
        (u64::MAX, u64::MAX),
    ] {
        let craft = program()
            .set(1, OFFSET, offset)
            .set(1, FILESZ, len)
            .set(1, MEMSZ, len);
        let error = error(&craft);
        assert!(
            matches!(
                error,
                ElfError::Truncated {
                    part: Part::Segment(1),
                    ..
                } | ElfError::OutOfRange { .. }
            ),
            "{error}"
        );
    }
    for offset in [u64::MAX, u64::MAX - 55, 0x1800, 1 << 63] {
        let craft = program().patch(32, &offset.to_le_bytes());
        let part = Part::ProgramHeaders;
        assert!(matches!(error(&craft), ElfError::Truncated { part: found, .. } if found == part));
    }
}

#[test]
fn writable_code_needs_executable_heap() {
    let craft = program().set(1, FLAGS, RWX);
    assert_eq!(
        error(&craft),
        ElfError::WriteExecute {
            number: 1,
            address: GuestVirt::new(0x40_2000)
        }
    );
    assert!(
        error(&craft)
            .to_string()
            .contains("\"executable_heap\": true")
    );
    let lenient = ParseOptions {
        executable_heap: true,
    };
    let bytes = craft.bytes();
    let elf = parse(&bytes, &lenient).unwrap();
    assert!(elf.segments[1].prot.write && elf.segments[1].prot.execute);
}

#[test]
fn rights_without_reading_can_be_read_all_the_same() {
    let bytes = program().set(0, FLAGS, 1).set(1, FLAGS, 2).bytes();
    let elf = parse(&bytes, &STRICT).unwrap();
    let rights: Vec<_> = elf.segments.iter().map(|it| it.prot).collect();
    assert_eq!(rights, [Protection::READ_EXECUTE, Protection::READ_WRITE]);
}

#[test]
fn too_many_headers_are_refused() {
    let max = MAX_HEADERS;
    let mut craft = program();
    craft.len = 0x10000;
    craft.headers.resize(usize::from(max), [0; 8]);
    accepted(&craft);
    craft.headers.push([0; 8]);
    let count = max + 1;
    assert_eq!(error(&craft), ElfError::TooManyHeaders { count, max });
    // PN_XNUM: the true number is elsewhere.
    let craft = program().patch(56, &[0xff, 0xff]);
    assert!(matches!(
        error(&craft),
        ElfError::TooManyHeaders { count: 0xffff, .. }
    ));
}

#[test]
fn a_file_with_nothing_to_load_is_refused() {
    assert_eq!(error(&program().loads(vec![])), ElfError::NoSegments);
    let stack = [GNU_STACK, RW, 0, 0, 0, 0, 0, 16];
    assert_eq!(error(&program().loads(vec![stack])), ElfError::NoSegments);
    let empty = load(RX, 0, 0x40_0000, 0, 0);
    assert_eq!(error(&program().loads(vec![empty])), ElfError::NoSegments);
    let mut craft = pie();
    craft.headers.clear();
    assert_eq!(error(&craft), ElfError::NoSegments);
}

#[test]
fn an_entry_point_that_is_no_code_is_refused() {
    for entry in [0, 0x1000, 0x40_1000, 0x40_2000, u64::MAX] {
        let mut craft = program();
        craft.entry = entry;
        assert_eq!(error(&craft), ElfError::Entry { entry });
        let mut craft = pie();
        craft.entry = if entry == 0 { 0 } else { entry | 0x2000 };
        assert!(matches!(error(&craft), ElfError::Entry { .. }));
    }
}

#[test]
fn thread_local_storage_must_make_sense() {
    let tls =
        |file, memory, address, align| [TLS, R, 0x1000, address, address, file, memory, align];
    accepted(&program().add(tls(0x20, 0x80, 0x40_2000, 32)));
    accepted(&program().add(tls(0, 0x80, 0, 0)));
    for (header, word) in [
        (tls(0x81, 0x80, 0x40_2000, 32), "more bytes"),
        (tls(0x20, 0x80, 0x40_2000, 33), "power of two"),
        (tls(0x801, 0x900, 0x40_2000, 32), "outside the file"),
        (
            tls(0x20, 0x80, 0x50_0000, 32),
            "not part of a loaded segment",
        ),
        (
            tls(0x20, 0x80, u64::MAX, 32),
            "not part of a loaded segment",
        ),
        (
            tls(0x20, 0x80, 0x40_27f0, 32),
            "not part of a loaded segment",
        ),
    ] {
        let error = error(&program().add(header));
        assert!(matches!(error, ElfError::Tls { number: 2, .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    let two = program()
        .add(tls(0x20, 0x80, 0x40_2000, 32))
        .add(tls(0x20, 0x80, 0x40_2000, 32));
    assert!(matches!(error(&two), ElfError::Tls { number: 3, .. }));
}

#[test]
fn an_executable_stack_is_noticed() {
    for (flags, asked) in [(RW, false), (RWX, true)] {
        let bytes = program().add([GNU_STACK, flags, 0, 0, 0, 0, 0, 16]).bytes();
        assert_eq!(parse(&bytes, &STRICT).unwrap().executable_stack, asked);
    }
}

#[test]
fn an_offset_at_another_place_within_the_page_is_refused() {
    assert_eq!(
        error(&program().set(1, VADDR, 0x40_2010)),
        ElfError::Misaligned {
            number: 1,
            address: GuestVirt::new(0x40_2010),
            offset: 0x1000
        }
    );
    // Without bytes from the file the offset says nothing.
    accepted(&program().set(1, VADDR, 0x40_2010).set(1, FILESZ, 0));
}

#[test]
fn pages_hold_what_the_file_has_around_a_segment_as_on_linux() {
    let mut craft = program().loads(vec![
        load(RX, 0x210, 0x40_0210, 0x600, 0x600),
        load(RW, 0x1210, 0x40_2210, 0x100, 0x2000),
    ]);
    craft.entry = 0x40_0300;
    let bytes = craft.bytes();
    let elf = parse(&bytes, &STRICT).unwrap();
    check(&elf);
    // Before and behind the code; before the data, but zeros behind it.
    assert_eq!(memory(&elf, 0x40_0000, 0x1000).unwrap(), bytes[..0x1000]);
    assert_eq!(
        memory(&elf, 0x40_2000, 0x310).unwrap(),
        bytes[0x1000..0x1310]
    );
    assert_eq!(memory(&elf, 0x40_2310, 0x1cf0).unwrap(), [0; 0x1cf0]);
    assert_eq!(memory(&elf, 0x40_4210, 1).unwrap(), [0]);
    assert_eq!(memory(&elf, 0x40_5000, 1), None);
    // The headers are mapped only by being in that page: Linux says they are nowhere.
    assert_eq!(elf.phdr.raw(), 0);
}

#[test]
fn in_a_page_that_two_segments_share_the_rights_of_the_later_one_hold() {
    let mut craft = program().loads(vec![
        load(RX, 0, 0x40_0000, 0x1400, 0x1400),
        load(RW, 0x1400, 0x40_1400, 0x200, 0x200),
        load(R, 0x1600, 0x40_1600, 0x200, 0x200),
    ]);
    craft.entry = 0x40_0800;
    let bytes = craft.bytes();
    let elf = parse(&bytes, &STRICT).unwrap();
    check(&elf);
    assert_eq!(elf.segments.len(), 2);
    assert_eq!(elf.segments[1].address.raw(), 0x40_1000);
    assert_eq!(elf.segments[1].prot, Protection::READ);
    assert_eq!(memory(&elf, 0x40_0000, 0x1800).unwrap(), bytes[..0x1800]);
}

#[test]
fn a_page_cannot_hold_two_pages_of_the_file() {
    let other_place = program().loads(vec![
        load(RX, 0, 0x40_0000, 0x1000, 0x1000),
        load(RW, 0, 0x40_2000, 0x400, 0x400),
        load(RW, 0x1400, 0x40_2400, 0x400, 0x400),
    ]);
    assert_eq!(
        error(&other_place),
        ElfError::SharedPage {
            number: 2,
            address: GuestVirt::new(0x40_2400)
        }
    );
    // Zeros that the file's bytes would cover.
    let zeros = program().loads(vec![
        load(RX, 0, 0x40_0000, 0x1000, 0x1000),
        load(RW, 0x1000, 0x40_2000, 0x100, 0x400),
        load(RW, 0x1400, 0x40_2400, 0x400, 0x400),
    ]);
    assert!(matches!(
        error(&zeros),
        ElfError::SharedPage { number: 2, .. }
    ));
}

#[test]
fn zeros_may_begin_in_the_last_page_of_the_data() {
    let craft = |flags| {
        program().loads(vec![
            load(RX, 0, 0x40_0000, 0x1000, 0x1000),
            load(RW, 0x1000, 0x40_2000, 0x400, 0x400),
            load(flags, 0x1400, 0x40_2400, 0, 0x2000),
        ])
    };
    let bytes = craft(RW).bytes();
    let elf = parse(&bytes, &STRICT).unwrap();
    check(&elf);
    assert_eq!(
        memory(&elf, 0x40_2000, 0x400).unwrap(),
        bytes[0x1000..0x1400]
    );
    assert_eq!(memory(&elf, 0x40_2400, 0x2000).unwrap(), [0; 0x2000]);
    assert_eq!(elf.image_end.raw(), 0x40_5000);
    assert!(matches!(
        error(&craft(R)),
        ElfError::SharedPage { number: 2, .. }
    ));
}

#[test]
fn a_position_independent_program_is_moved_as_its_alignment_asks() {
    let bytes = pie().bytes();
    let elf = parse(&bytes, &STRICT).unwrap();
    check(&elf);
    assert_eq!(elf.kind, Kind::StaticPie);
    assert_eq!(elf.segments[0].address.raw(), PIE_BASE);
    assert_eq!(elf.entry.raw(), PIE_BASE + 0x800);
    assert_eq!(elf.phdr.raw(), PIE_BASE + 0x40);
    // Linked elsewhere: still at the base. Aligned to 1 GiB: at the first such address.
    for (shift, align, place) in [(0x10_0000, 0x1000, PIE_BASE), (0, 1 << 30, 1 << 30)] {
        let mut craft = pie().set(0, ALIGN, align);
        craft.entry += shift;
        for header in &mut craft.headers {
            header[VADDR] += shift;
        }
        let bytes = craft.bytes();
        let elf = parse(&bytes, &STRICT).unwrap();
        assert_eq!(elf.segments[0].address.raw(), place);
        assert_eq!(elf.bias % align, 0);
    }
}
