//! Every guest program compiles, and compiling twice gives the same file.

use guests::{Compiler, compile, compile_with};

#[test]
fn every_program_compiles() {
    let programs = guests::repository().join("tests/guests/programs");
    let mut count = 0;
    for entry in std::fs::read_dir(programs).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "h") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(compile(&name).is_file());
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn every_compiler_builds_hello() {
    for compiler in Compiler::ALL {
        let name = match compiler {
            Compiler::Gxx | Compiler::Clangxx => "hello_cpp",
            Compiler::Rustc => "hello_rust",
            _ => "hello",
        };
        let elf = std::fs::read(compile_with(name, compiler, &[])).unwrap();
        assert_eq!(elf[..4], *b"\x7fELF", "{compiler:?}");
        let kind = u16::from_le_bytes([elf[16], elf[17]]);
        let position_independent = matches!(compiler, Compiler::GccStaticPie | Compiler::Rustc);
        assert_eq!(
            kind,
            if position_independent { 3 } else { 2 },
            "{compiler:?}"
        );
    }
}

#[test]
fn a_program_is_compiled_once() {
    let first = compile("hello");
    let made = std::fs::metadata(&first).unwrap().modified().unwrap();
    assert_eq!(compile("hello"), first);
    assert_eq!(std::fs::metadata(&first).unwrap().modified().unwrap(), made);
    assert_ne!(compile_with("hello", Compiler::Gcc, &["-O0"]), first);
}

#[test]
#[should_panic(expected = "unknown type name")]
fn a_program_that_does_not_compile_shows_why() {
    guests::compile_text("broken", "nonsense x;", Compiler::Gcc, &[]);
}

#[test]
fn the_examples_compile_as_their_guide_says() {
    let repository = guests::repository();
    let out = guests::output_directory().join(format!("example-{}", std::process::id()));
    for compiler in ["gcc", "clang", "musl-gcc"] {
        let status = std::process::Command::new(compiler)
            .current_dir(&repository)
            .args([
                "-static",
                "-O2",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-I",
                "guest/c/include",
            ])
            .args(["examples/hello/hello.c", "-o"])
            .arg(&out)
            .status()
            .unwrap();
        assert!(status.success(), "{compiler}");
    }
    std::fs::remove_file(out).unwrap();
}
