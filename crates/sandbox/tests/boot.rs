//! What starts: programs as compilers make them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod common;

use common::{Guest, Program, config};
use guests::Compiler;

fn hello(compiler: Compiler, flags: &[&str]) {
    let file = std::fs::read(guests::compile_with("hello", compiler, flags)).unwrap();
    let program = Program::boot_file(&file, &config("hello")).unwrap();
    let mut guest: Guest = program.fork();
    for _ in 0..3 {
        assert!(guest.ask("/", "").unwrap().contains("Hello"));
    }
}

#[test]
fn programs_by_gcc_start() {
    hello(Compiler::Gcc, &[]);
}

#[test]
fn position_independent_programs_by_gcc_start() {
    hello(Compiler::GccStaticPie, &[]);
}

#[test]
fn programs_by_clang_start() {
    hello(Compiler::Clang, &[]);
}

#[test]
fn programs_by_musl_gcc_start() {
    hello(Compiler::MuslGcc, &[]);
}

#[test]
fn programs_whose_code_and_data_share_pages_of_the_file_start() {
    for compiler in [Compiler::Gcc, Compiler::GccStaticPie, Compiler::MuslGcc] {
        hello(compiler, &["-Wl,-z,noseparate-code"]);
    }
}

#[test]
fn unoptimised_programs_start() {
    hello(Compiler::Gcc, &["-O0"]);
}

#[test]
fn programs_in_cpp_and_rust_start() {
    for name in ["hello_cpp", "hello_rust"] {
        let program = Program::boot(name);
        assert!(
            program.fork().ask("/", "").unwrap().contains("Hello"),
            "{name}"
        );
    }
}

#[test]
fn a_program_prints_while_it_starts() {
    let file = guests::compile_text(
        "prints",
        "#include \"kvm_api.h\"\n#include <stdio.h>\n\
         int main(void) { puts(\"starting\"); fflush(stdout); wait_for_requests(); }",
        Compiler::Gcc,
        &[],
    );
    let program = Program::boot_file(&std::fs::read(file).unwrap(), &config("prints")).unwrap();
    assert_eq!(program.printed, b"starting\n");
}

#[test]
fn arguments_and_environment_arrive_and_survive_requests() {
    let program = Program::boot("environment");
    let mut guest = program.fork();
    let first = guest.ask("/", "").unwrap();
    assert!(first.contains("KVM_NAME=test"), "{first}");
    assert_eq!(guest.ask("/", "").unwrap(), first);
}

#[test]
fn a_fork_sees_the_features_of_the_cpu_whatever_table_kvm_was_given() {
    let file = guests::compile_text(
        "features",
        "#include \"kvm_api.h\"\n#include <cpuid.h>\n#include <stdio.h>\n\
         static void on_get(const char *u, const char *a) {\n\
           unsigned eax, ebx, ecx, edx; char text[32];\n\
           __cpuid_count(7, 0, eax, ebx, ecx, edx);\n\
           int len = snprintf(text, sizeof text, \"%u\", ebx);\n\
           backend_response(200, \"\", 0, text, len); }\n\
         int main(void) { set_backend_get(on_get); wait_for_requests(); }",
        Compiler::Gcc,
        &[],
    );
    let program = Program::boot_file(&std::fs::read(file).unwrap(), &config("features")).unwrap();
    let seen: u32 = program.fork().ask("/", "").unwrap().parse().unwrap();
    let expected = if program.image.facts().native_cpuid {
        std::arch::x86_64::__cpuid_count(7, 0).ebx
    } else {
        let kvm = kvm_ioctls::Kvm::new().unwrap();
        let table = kvm.get_supported_cpuid(256).unwrap();
        let mut entries = table.as_slice().iter();
        let leaf = entries.find(|leaf| (leaf.function, leaf.index) == (7, 0));
        leaf.unwrap().ebx
    };
    assert_eq!(seen, expected);
}

#[test]
fn a_program_that_leaves_no_room_behind_it_is_refused() {
    let file = guests::compile_text(
        "far_up",
        "void _start(void) { for (;;); }",
        guests::Compiler::Gcc,
        &[
            "-nostdlib",
            "-mcmodel=large",
            "-Wl,-Ttext-segment=0x500000000000",
        ],
    );
    let refused = Program::boot_file(&std::fs::read(file).unwrap(), &config("far_up"));
    let error = format!("{:?}", refused.err().unwrap());
    assert!(error.contains("NoMemory"), "{error}");
}
