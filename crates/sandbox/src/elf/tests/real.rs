//! Files by real compilers and linkers.

use super::*;
use guests::Compiler;
use object::read::elf::ProgramHeader as _;

/// Each compiler, with separate and with shared pages for code and data.
fn programs() -> Vec<(String, Vec<u8>)> {
    let mut programs = Vec::new();
    for compiler in Compiler::ALL {
        let name = match compiler {
            Compiler::Gxx | Compiler::Clangxx => "hello_cpp",
            Compiler::Rustc => "hello_rust",
            _ => "hello",
        };
        let shared: &[&str] = if compiler == Compiler::Rustc {
            &["-Clink-arg=-Wl,-z,noseparate-code"]
        } else {
            &["-Wl,-z,noseparate-code"]
        };
        for flags in [&[], shared] {
            let path = guests::compile_with(name, compiler, flags);
            programs.push((
                format!("{compiler:?} {flags:?}"),
                std::fs::read(path).unwrap(),
            ));
        }
    }
    programs
}

#[test]
fn programs_of_every_compiler_are_laid_out_as_their_headers_say() {
    for (name, bytes) in programs() {
        let elf = parse(&bytes, &STRICT).unwrap_or_else(|error| panic!("{name}: {error}"));
        check(&elf);
        assert!(!elf.executable_stack, "{name}");
        let (header, _) = file_header(&bytes).unwrap();
        let headers = program_headers(&bytes, header).unwrap();
        for load in headers.iter().filter(|it| it.p_type(LE) == elf::PT_LOAD) {
            let address = load.p_vaddr(LE) + elf.bias;
            let file = usize::try_from(load.p_filesz(LE)).unwrap();
            let zeros = usize::try_from(load.p_memsz(LE)).unwrap() - file;
            let content = load.data(LE, bytes.as_slice()).unwrap();
            assert!(memory(&elf, address, file).unwrap() == content, "{name}");
            let behind = memory(&elf, address + load.p_filesz(LE), zeros).unwrap();
            assert!(behind.iter().all(|&byte| byte == 0), "{name}");
        }
        let table = usize::try_from(header.e_phoff.get(LE)).unwrap();
        let len = 56 * usize::from(elf.phnum);
        let mapped = memory(&elf, elf.phdr.raw(), len).unwrap();
        assert!(mapped == bytes[table..table + len], "{name}: AT_PHDR");
    }
}

#[test]
fn a_file_may_start_anywhere_in_a_buffer() {
    for (name, bytes) in programs().into_iter().take(2) {
        let expected = parse(&bytes, &STRICT).unwrap();
        let mut shifted = vec![0];
        shifted.extend_from_slice(&bytes);
        assert!(parse(&shifted[1..], &STRICT).unwrap() == expected, "{name}");
    }
}

#[test]
fn what_cannot_run_alone_says_how_to_link_it() {
    let text = "int main(void) { return 0; }";
    // The last -static or -shared wins, so these flags undo the compiler's own.
    let dynamic = guests::compile_text("plain", text, Compiler::GccStaticPie, &["-pie", "-no-pie"]);
    let error = parse(&std::fs::read(dynamic).unwrap(), &STRICT).unwrap_err();
    assert!(
        matches!(&error, ElfError::Dynamic { interpreter } if interpreter.contains("ld-linux")),
        "{error}"
    );
    let flags = ["-shared", "-fPIC"];
    let library = guests::compile_text("plain", text, Compiler::GccStaticPie, &flags);
    let error = parse(&std::fs::read(library).unwrap(), &STRICT).unwrap_err();
    assert!(
        matches!(
            &error,
            ElfError::NeedsLibrary { .. } | ElfError::Entry { .. }
        ),
        "{error}"
    );
    let object = guests::compile_text("plain", text, Compiler::Gcc, &["-c"]);
    let error = parse(&std::fs::read(object).unwrap(), &STRICT).unwrap_err();
    assert!(matches!(error, ElfError::WrongType { .. }), "{error}");
    let omagic = guests::compile_text("plain", text, Compiler::MuslGcc, &["-Wl,--omagic"]);
    let error = parse(&std::fs::read(omagic).unwrap(), &STRICT).unwrap_err();
    assert!(
        matches!(
            error,
            ElfError::WriteExecute { .. } | ElfError::SharedPage { .. }
        ),
        "{error}"
    );
}
