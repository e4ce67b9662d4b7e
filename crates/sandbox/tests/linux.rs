//! Ordinary programs get from the emulated system calls what Linux gives them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod common;

use std::process::Command;

use common::{Program, config};
use guests::Compiler;
use sandbox::AllowedPath;

/// Runs one file natively and in request VMs, and compares what it says.
fn same_as_on_linux(compiler: Compiler) {
    let folder =
        guests::output_directory().join(format!("libc-{}-{compiler:?}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("text"), "0123456789").unwrap();
    let folder = folder.canonicalize().unwrap();
    let file = guests::compile_with("libc", compiler, &[]);

    let native = Command::new(&file).arg(&folder).output().unwrap();
    let expected = String::from_utf8(native.stdout).unwrap();

    let name = folder.to_str().unwrap().as_bytes().to_vec();
    let mut config = config("libc");
    config.args.push(name.clone());
    config.paths = vec![AllowedPath {
        guest: name,
        host: folder.clone(),
        prefix: true,
        ..AllowedPath::default()
    }];
    let program = Program::boot_file(&std::fs::read(&file).unwrap(), &config).unwrap();
    let mut guest = program.fork();
    for _ in 0..2 {
        assert_eq!(guest.ask("/", "").unwrap(), expected);
    }
    assert_eq!(String::from_utf8_lossy(&guest.recorder.printed), "");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn programs_with_glibc_get_what_linux_gives_them() {
    same_as_on_linux(Compiler::Gcc);
}

#[test]
fn programs_with_musl_get_what_linux_gives_them() {
    same_as_on_linux(Compiler::MuslGcc);
}
