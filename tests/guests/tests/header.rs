//! `kvm_api.h` is one file that every compiler takes, and it says what `tinykvm_abi.h` says.

#![allow(
    clippy::unwrap_used,
    reason = "the functions that tests share are tests too"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

/// A folder for the products of one test.
fn folder(test: &str) -> PathBuf {
    let path = guests::output_directory().join(format!("header-{test}-{}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

/// Runs a compiler in tests/guests; its messages when it fails.
fn compile(compiler: &str, args: &[&str], out: &Path) -> Result<(), String> {
    let output = Command::new(compiler)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(args)
        .args(["-I../../guest/c/include", "-o"])
        .arg(out)
        .output()
        .map_err(|error| format!("{compiler}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "{compiler} {args:?}:\n{}",
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

fn run(program: &Path) {
    let output = Command::new(program).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

/// Compiles header/every_name.c in each standard and with each set of flags.
fn every_name(compiler: &str, language: &str, standards: &[&str]) {
    let folder = folder(compiler);
    let out = folder.join("every_name.o");
    for standard in standards {
        for flags in [["-O0", "-g"], ["-O2", "-fno-pie"], ["-O2", "-fPIE"]] {
            let standard = format!("-std={standard}");
            let mut args = vec!["-c", "-x", language, "header/every_name.c", &standard];
            args.extend(WARNINGS);
            args.extend(flags);
            compile(compiler, &args, &out).unwrap();
        }
    }
    let args = ["-static", "-O2", "-x", language, "header/every_name.c"];
    compile(compiler, &args, &folder.join("every_name")).unwrap();
    if compiler != "musl-gcc" {
        let args = [
            "-static-pie",
            "-fPIE",
            "-O2",
            "-x",
            language,
            "header/every_name.c",
        ];
        compile(compiler, &args, &folder.join("every_name_pie")).unwrap();
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn every_upstream_name_compiles_with_gcc() {
    every_name("gcc", "c", &["c99", "c11", "c17", "gnu17", "c2x"]);
}

#[test]
fn every_upstream_name_compiles_with_clang() {
    every_name("clang", "c", &["c99", "c11", "c17", "gnu17", "c2x"]);
}

#[test]
fn every_upstream_name_compiles_with_musl() {
    every_name("musl-gcc", "c", &["c99", "gnu17"]);
}

#[test]
fn every_upstream_name_compiles_with_gxx() {
    every_name(
        "g++",
        "c++",
        &["c++11", "c++14", "c++17", "gnu++17", "c++20"],
    );
}

#[test]
fn every_upstream_name_compiles_with_clangxx() {
    every_name(
        "clang++",
        "c++",
        &["c++11", "c++14", "c++17", "gnu++17", "c++20"],
    );
}

#[test]
fn two_source_files_share_the_calls() {
    let folder = folder("two");
    let out = folder.join("two");
    for flags in [
        &["-O2"][..],
        &["-O0"],
        &["-O2", "-flto"],
        // Forgetting KVM_API_ALREADY_DEFINED is forgiven.
        &["-O2", "-DBOTH_BRING_THE_CALLS"],
    ] {
        for compiler in ["gcc", "clang"] {
            if compiler == "clang" && flags.contains(&"-flto") {
                continue; // needs a linker plugin that is not installed
            }
            let mut args = vec!["-static", "header/first.c", "header/second.c"];
            args.extend(flags);
            args.extend(WARNINGS);
            compile(compiler, &args, &out).unwrap();
        }
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_header_stands_alone() {
    let header = fs::read_to_string(guests::include_directory().join("kvm_api.h")).unwrap();
    let includes: Vec<&str> = header
        .lines()
        .filter(|line| line.trim_start().starts_with("#include"))
        .collect();
    assert!(!includes.is_empty());
    // The header of libc, not files that its users would have to copy along.
    assert!(
        includes
            .iter()
            .all(|line| line.starts_with("#include <std") || *line == "#include <string.h>"),
        "{includes:?}"
    );
}

/// One static assertion for each call of tinykvm_abi.h.
fn numbers() -> String {
    let abi =
        fs::read_to_string(guests::repository().join("vendor/tinykvm-sys/include/tinykvm_abi.h"))
            .unwrap();
    let names: Vec<&str> = abi
        .lines()
        .filter_map(|line| line.strip_prefix("#define TINYKVM_CALL_"))
        .filter_map(|rest| rest.split_whitespace().next())
        // The range, and a call that programs have no name for.
        .filter(|name| !["FIRST", "LAST", "SET_BACKEND"].contains(name))
        .collect();
    assert!(names.len() > 30);
    names.iter().fold(String::new(), |text, name| {
        text + &format!("_Static_assert(KVM_CALL_{name} == TINYKVM_CALL_{name}, \"{name}\");\n")
    })
}

/// Compiles header/drift.c with the header after `change`.
fn drift(folder: &Path, change: (&str, &str)) -> Result<PathBuf, String> {
    let header = fs::read_to_string(guests::include_directory().join("kvm_api.h")).unwrap();
    assert!(
        header.contains(change.0),
        "{} is not in the header",
        change.0
    );
    fs::write(folder.join("kvm_api.h"), header.replace(change.0, change.1)).unwrap();
    fs::write(folder.join("numbers.h"), numbers()).unwrap();
    let include = format!("-I{}", folder.display());
    let out = folder.join("drift");
    let args = [
        "-static",
        "-O2",
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Werror",
        &include,
        "-I../../vendor/tinykvm-sys/include",
        "header/drift.c",
    ];
    compile("gcc", &args, &out)?;
    Ok(out)
}

#[test]
fn the_header_says_what_the_abi_says() {
    let folder = folder("drift");
    run(&drift(&folder, ("", "")).unwrap());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn drift_between_header_and_abi_is_found() {
    let folder = folder("drifted");
    for change in [
        (
            "#define KVM_CALL_LOG 0x7f000",
            "#define KVM_CALL_LOG 0x7f001",
        ),
        ("#define KVM_CALL_FETCH 0x20000\n", ""),
        (
            "uint16_t num_headers;\n\tuint16_t info_flags;",
            "uint16_t info_flags, num_headers;",
        ),
        ("\tuint64_t reserved1[2];\n", "\tuint64_t reserved1[3];\n"),
        ("bool cached;", "int cached;"),
        ("BEREQ = 0", "BEREQ = 4"),
        ("char ctype[128]", "char ctype[136]"),
    ] {
        let message = drift(&folder, change).expect_err(change.0);
        assert!(message.contains("error"), "{message}");
    }
    // A call whose machine code is another's compiles; running it tells.
    let swapped = (
        "KVM_CALL_(sys_log, KVM_CALL_LOG)",
        "KVM_CALL_(sys_log, KVM_CALL_FETCH)",
    );
    let program = drift(&folder, swapped).unwrap();
    let output = Command::new(program).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("sys_log: wrong code\n"));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn every_callback_goes_to_its_slot() {
    let folder = folder("slots");
    let out = folder.join("slots");
    let args = [
        "-O2",
        "-I../../vendor/tinykvm-sys/include",
        "header/slots.c",
    ];
    compile("gcc", &args, &out).unwrap();
    run(&out);
    fs::remove_dir_all(folder).unwrap();
}
