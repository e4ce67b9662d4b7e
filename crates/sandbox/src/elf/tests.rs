//! What real linkers write is loaded; what is wrong with a file is said exactly.

use super::*;
use crate::address::PAGE_SIZE;
use guests::Compiler;

const STRICT: ParseOptions = ParseOptions {
    executable_heap: false,
};

/// What every accepted file promises to the loader.
fn check(elf: &Elf<'_>) {
    let mut end = crate::layout::USER_BEGIN;
    for segment in &elf.segments {
        assert_eq!(segment.address.page_offset(), 0);
        assert!(segment.mem_len > 0 && segment.mem_len.is_multiple_of(PAGE_SIZE));
        assert!(segment.data.len() as u64 <= segment.mem_len);
        assert!(segment.address.raw() >= end, "segments overlap");
        end = segment.end().raw();
    }
    assert_eq!(end, elf.image_end.raw());
    assert!(end <= crate::layout::USER_END);
    assert!(
        elf.segments
            .iter()
            .any(|segment| { (segment.address..segment.end()).contains(&elf.entry) })
    );
}

#[test]
fn programs_of_every_compiler_are_accepted() {
    for compiler in Compiler::ALL {
        let name = match compiler {
            Compiler::Gxx | Compiler::Clangxx => "hello_cpp",
            Compiler::Rustc => "hello_rust",
            _ => "hello",
        };
        let bytes = std::fs::read(guests::compile_with(name, compiler, &[])).unwrap();
        let elf = parse(&bytes, &STRICT).unwrap_or_else(|error| panic!("{compiler:?}: {error}"));
        check(&elf);
    }
}
