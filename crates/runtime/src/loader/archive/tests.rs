use std::io::Write as _;

use super::*;

const PROGRAM: &[u8] = b"\x7fELF the program";
const STORE: &[u8] = b"\x7fELF the storage program";

fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(content.len()).unwrap());
        header.set_mode(0o755);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn packed(bytes: &[u8]) -> [Vec<u8>; 4] {
    [bytes.to_vec(), gzip(bytes), xz(bytes), zstd(bytes)]
}

fn unlucky(bytes: Vec<u8>) -> String {
    open(bytes).unwrap_err().to_string()
}

#[test]
fn an_elf_file_is_a_program_packed_or_not() {
    for bytes in packed(PROGRAM) {
        let binaries = open(bytes).unwrap();
        assert_eq!(binaries.request, PROGRAM);
        assert_eq!(binaries.storage, None);
    }
}

#[test]
fn an_archive_has_a_program_and_maybe_one_for_storage() {
    let both = tar(&[("bin/my-storage", STORE), ("bin/app", PROGRAM)]);
    for bytes in packed(&both) {
        let binaries = open(bytes).unwrap();
        assert_eq!(binaries.request, PROGRAM);
        assert_eq!(binaries.storage.as_deref(), Some(STORE));
    }
    for bytes in packed(&tar(&[("app", PROGRAM)])) {
        assert_eq!(open(bytes).unwrap().storage, None);
    }
}

#[test]
fn archives_of_the_usual_tools_are_read() {
    for bytes in [
        &include_bytes!("samples/gnu.tar.gz")[..],
        include_bytes!("samples/gnu.tar.xz"),
        include_bytes!("samples/pax.tar.zst"),
    ] {
        let binaries = open(bytes.to_vec()).unwrap();
        assert!(binaries.request.starts_with(b"\x7fELF request"));
        assert!(binaries.storage.unwrap().starts_with(b"\x7fELF storage"));
    }
}

#[test]
fn folders_links_and_empty_files_are_passed_over() {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name) in [
        (EntryType::Directory, "dir/"),
        (EntryType::Symlink, "latest"),
        (EntryType::Link, "same"),
        (EntryType::Fifo, "pipe"),
        (EntryType::Regular, "empty"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            header.set_link_name("/etc/passwd").unwrap();
        }
        builder
            .append_data(&mut header, name, std::io::empty())
            .unwrap();
    }
    let none = builder.into_inner().unwrap();
    assert_eq!(unlucky(none.clone()), "the archive has no program");
    let mut all = none[..none.len() - 1024].to_vec();
    all.extend(tar(&[("app", PROGRAM)]));
    assert_eq!(open(all).unwrap().request, PROGRAM);
}

#[test]
fn a_second_program_or_none_is_an_error_that_names_them() {
    assert_eq!(
        unlucky(tar(&[("a", PROGRAM), ("b", PROGRAM)])),
        "the archive has two programs, \"a\" and \"b\"; a second one is for storage, and its name ends in \"storage\""
    );
    assert_eq!(
        unlucky(tar(&[("storage", STORE), ("b/storage", STORE)])),
        "the archive has two programs for storage, \"storage\" and \"b/storage\""
    );
    assert_eq!(
        unlucky(tar(&[("storage", STORE)])),
        "the archive has no program, only \"storage\" for storage"
    );
    assert_eq!(
        unlucky(tar(&[("README", b"read me")])),
        "\"README\" in the archive is no ELF file"
    );
}

#[test]
fn what_is_neither_a_program_nor_an_archive_says_what_it_is() {
    for (bytes, what) in [
        (&b""[..], "nothing"),
        (b"PK\x03\x04....", "a zip archive"),
        (b"<html>", "a text like HTML or XML"),
        (b"BZh9", "something packed by bzip2"),
        (&[0; 4096], "something else"),
    ] {
        let message = unlucky(bytes.to_vec());
        assert!(message.ends_with(&format!("got {what}")), "{message}");
    }
    let message = unlucky(gzip(b"just text"));
    assert!(
        message.ends_with("something else that is packed"),
        "{message}"
    );
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let mut bomb = PROGRAM.to_vec();
    bomb.resize(8 << 20, 0);
    let limit = 1 << 20;
    for bytes in packed(&tar(&[("app", &bomb)])) {
        let error = open_within(bytes, limit).unwrap_err();
        assert!(matches!(error, ArchiveError::TooBig { .. }), "{error}");
    }
    for bytes in packed(&bomb).into_iter().skip(1) {
        let error = open_within(bytes, limit).unwrap_err();
        assert!(matches!(error, ArchiveError::TooBig { .. }), "{error}");
    }
    // Also one that is in an entry that nobody wants, and one behind the last entry.
    let mut tail = tar(&[("app", PROGRAM)]);
    tail.resize(8 << 20, 0);
    for bytes in packed(&tail) {
        let error = open_within(bytes, limit).unwrap_err();
        assert!(matches!(error, ArchiveError::TooBig { .. }), "{error}");
    }
}

#[test]
fn a_header_that_promises_more_than_there_is_reserves_nothing() {
    let mut header = tar::Header::new_gnu();
    header.set_path("app").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(PROGRAM);
    assert_eq!(unlucky(bytes), "the archive ends in the middle of \"app\"");
}

#[test]
fn sparse_files_of_both_kinds_are_refused() {
    let mut header = tar::Header::new_gnu();
    header.set_path("app").unwrap();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 50);
    gnu.sparse[0].offset.copy_from_slice(b"00000000000\0");
    gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(4096, 0);
    assert!(open(bytes).is_err());

    let mut builder = tar::Builder::new(Vec::new());
    let sparse = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.size", b"9999"),
    ];
    builder.append_pax_extensions(sparse).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(u64::try_from(PROGRAM.len()).unwrap());
    builder.append_data(&mut header, "app", PROGRAM).unwrap();
    assert_eq!(
        unlucky(builder.into_inner().unwrap()),
        "\"app\" is stored as a sparse file, which is not supported"
    );
}

#[test]
fn a_long_name_is_read_up_to_a_limit() {
    let long = format!("{}/storage", ["x"; 2000].join("/"));
    let longer = format!("{}/storage", ["x"; 3000].join("/"));
    let binaries = open(tar(&[("app", PROGRAM), (&long, STORE)])).unwrap();
    assert_eq!(binaries.storage.as_deref(), Some(STORE));
    let result = open(tar(&[("app", PROGRAM), (&longer, STORE)]));
    assert!(matches!(result, Err(ArchiveError::LongName)), "{result:?}");
}

#[test]
fn files_in_several_pieces_are_read_to_the_end() {
    let bytes = tar(&[("app", PROGRAM), ("storage", STORE)]);
    let (begin, end) = bytes.split_at(600);
    for pack in [gzip, xz, zstd] {
        let pieces = [pack(begin), pack(end)].concat();
        assert_eq!(open(pieces).unwrap().storage.as_deref(), Some(STORE));
    }
    let skipped = b"\x5a\x2a\x4d\x18\x03\0\0\0abc";
    let pieces = [&skipped[..], &zstd(&bytes), skipped].concat();
    assert_eq!(open(pieces).unwrap().request, PROGRAM);
    assert!(unlucky(b"\x50\x2a\x4d\x18\xff\xff\xff\xffabc".to_vec()).contains("broken"));
}

/// A generator that needs no seed from outside: the test is the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % end
    }
}

#[test]
fn no_change_of_an_archive_costs_more_than_an_error() {
    let rest: Vec<u8> = (0..3000_u32).map(|n| n.to_le_bytes()[0] ^ 0x5a).collect();
    let program = [PROGRAM, &rest].concat();
    let bytes = tar(&[("app", &program), ("dir/storage", STORE)]);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for whole in packed(&bytes) {
        for _ in 0..2000 {
            let mut bytes = whole.clone();
            for _ in 0..=dice.below(4) {
                let at = dice.below(bytes.len());
                bytes[at] = u8::try_from(dice.below(256)).unwrap();
            }
            if dice.below(4) == 0 {
                bytes.truncate(dice.below(bytes.len()));
            }
            if dice.below(4) == 0 {
                let at = dice.below(bytes.len().max(1)).min(bytes.len());
                let piece = bytes.split_off(at);
                bytes.extend_from_within(..at / 2);
                bytes.extend(piece);
            }
            let _an_error_or_not = open_within(bytes, 1 << 20);
        }
    }
}
