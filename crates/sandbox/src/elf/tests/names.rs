//! Symbols: right for sound programs, harmless for others.

use super::craft::program;
use super::*;
use guests::Compiler;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSymbol};

const TEXT: &str = "__attribute__((noinline)) int twice(int x) { return 2 * x; }\n\
                    int main(int argc, char **argv) { (void)argv; return twice(argc); }";

#[test]
fn functions_have_names_in_programs_of_every_kind() {
    for compiler in [
        Compiler::Gcc,
        Compiler::GccStaticPie,
        Compiler::Clang,
        Compiler::MuslGcc,
    ] {
        let bytes = std::fs::read(guests::compile_text("named", TEXT, compiler, &[])).unwrap();
        let elf = parse(&bytes, &STRICT).unwrap();
        let symbols = Symbols::from_elf(&bytes);
        let entry = symbols.name_of(elf.entry.raw());
        assert_eq!(entry, Some(("_start".into(), 0)), "{compiler:?}");
        let file = ElfFile64::<LE>::parse(bytes.as_slice()).unwrap();
        let main = file.symbol_by_name("main").unwrap();
        let (address, size) = (main.address() + elf.bias, main.size());
        assert_eq!(symbols.name_of(address), Some(("main".into(), 0)));
        assert_eq!(
            symbols.name_of(address + size - 1),
            Some(("main".into(), size - 1))
        );
        let behind = symbols.name_of(address + size).map(|it| it.0);
        assert_ne!(behind, Some("main".into()));
        assert_eq!(symbols.name_of(0), None);
        assert_eq!(symbols.name_of(0x1a000), None);
        assert_eq!(symbols.name_of(u64::MAX), None);
    }
}

#[test]
fn a_stripped_program_has_no_names() {
    let bytes = guests::compile_text("named", TEXT, Compiler::Gcc, &["-s"]);
    let symbols = Symbols::from_elf(&std::fs::read(bytes).unwrap());
    assert!(symbols.is_empty());
    assert_eq!(symbols.name_of(0x40_1000), None);
}

/// A program with a symbol table of these entries and these strings.
fn with_table(symbols: &[(u32, u64, u64)], strings: &[u8]) -> Vec<u8> {
    let mut bytes = program().bytes();
    let table: Vec<u8> = symbols
        .iter()
        .flat_map(|(name, value, size)| {
            let mut entry = name.to_le_bytes().to_vec();
            entry.extend([0x12, 0, 1, 0]); // a global function of section 1
            entry.extend(value.to_le_bytes());
            entry.extend(size.to_le_bytes());
            entry
        })
        .collect();
    let section = |kind: u32, offset: usize, len: usize, link: u32| {
        let mut header = vec![0; 64];
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        header[24..32].copy_from_slice(&offset.to_le_bytes());
        header[32..40].copy_from_slice(&len.to_le_bytes());
        header[40..44].copy_from_slice(&link.to_le_bytes());
        header
    };
    let table_at = bytes.len();
    bytes.extend(&table);
    let strings_at = bytes.len();
    bytes.extend(strings);
    let sections_at = bytes.len() as u64;
    bytes.extend(section(0, 0, 0, 0));
    bytes.extend(section(2, table_at, table.len(), 2));
    bytes.extend(section(3, strings_at, strings.len(), 0));
    bytes[40..48].copy_from_slice(&sections_at.to_le_bytes());
    bytes[58..64].copy_from_slice(&[64, 0, 3, 0, 0, 0]);
    bytes
}

#[test]
fn hostile_tables_give_harmless_names() {
    let long = [b'a'; 5000];
    let strings = [b"\0good\0\x1b[2J\n\0".as_slice(), &long].concat();
    let symbols = Symbols::from_elf(&with_table(
        &[
            (1, 0x40_0100, 0x10),
            (6, 0x40_0200, 0x10),
            (12, 0x40_0300, 0x10),
            (u32::MAX, 0x40_0400, 0x10),
            (0, 0x40_0500, 0x10),
            (1, 0x40_0600, u64::MAX),
            (1, u64::MAX, u64::MAX),
        ],
        &strings,
    ));
    assert_eq!(symbols.name_of(0x40_0108), Some(("good".into(), 8)));
    assert_eq!(symbols.name_of(0x40_0110), None);
    assert_eq!(symbols.name_of(0x40_0200), Some(("?[2J?".into(), 0)));
    assert_eq!(symbols.name_of(0x40_0300).unwrap().0.len(), 255);
    assert_eq!(symbols.name_of(0x40_0400), None);
    assert_eq!(symbols.name_of(0x40_0500), None);
    assert_eq!(symbols.name_of(0x40_0700), Some(("good".into(), 0x100)));
    assert_eq!(symbols.name_of(u64::MAX), Some(("good".into(), 0)));
}

#[test]
fn a_function_of_unknown_size_ends_at_the_next_one() {
    let symbols = Symbols::from_elf(&with_table(
        &[(1, 0x40_0100, 0), (3, 0x40_0800, 0)],
        b"\0a\0b\0",
    ));
    assert_eq!(symbols.name_of(0x40_07ff), Some(("a".into(), 0x6ff)));
    assert_eq!(symbols.name_of(0x40_0800), Some(("b".into(), 0)));
    assert_eq!(symbols.name_of(0x40_0800 + 4096), None);
}
