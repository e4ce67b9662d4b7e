//! Turns the headers into Rust, the in-guest kernel and the vDSO into bytes.
//!
//! One function per product; each says what it reads, so that cargo rebuilds when it changes.

use std::error::Error;
use std::path::{Path, PathBuf};

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    bindings(&out)?;
    vdso(&out)?;
    kernel()
}

/// include/*.h -> OUT_DIR/abi.rs
fn bindings(out: &Path) -> Outcome {
    println!("cargo:rerun-if-changed=include");
    bindgen::Builder::default()
        .header("include/tinykvm_abi.h")
        .header("include/tinykvm_layout.h")
        .clang_arg("-ffreestanding")
        .use_core()
        .allowlist_type("tinykvm_.*")
        .allowlist_var("TINYKVM_.*")
        .derive_default(true)
        // src/tripwires.rs pins sizes, offsets and numbers, with a message for the reader.
        .layout_tests(false)
        .generate()?
        .write_to_file(out.join("abi.rs"))?;
    Ok(())
}

/// vdso/vdso.c -> OUT_DIR/vdso.so, with nothing in it that would need a loader
fn vdso(out: &Path) -> Outcome {
    println!("cargo:rerun-if-changed=vdso");
    let mut command = cc::Build::new()
        .opt_level(2)
        .debug(false)
        .pic(true)
        .include("include")
        .get_compiler()
        .to_command();
    command
        .args([
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-ffreestanding",
            "-fno-lto",
        ])
        .args([
            "-fvisibility=hidden",
            "-fno-stack-protector",
            "-fcf-protection=none",
        ])
        .args(["-mgeneral-regs-only", "-fasynchronous-unwind-tables"])
        .args([
            "-shared",
            "-nostdlib",
            "-Wl,-T,vdso/vdso.lds",
            "-Wl,-soname,linux-vdso.so.1",
        ])
        .args([
            "-Wl,--hash-style=both",
            "-Wl,--eh-frame-hdr",
            "-Wl,--build-id=none",
        ])
        .args([
            "-Wl,-Bsymbolic",
            "-Wl,-z,max-page-size=4096",
            "-Wl,-z,noexecstack",
            "-Wl,-s",
        ])
        .arg("vdso/vdso.c")
        .arg("-o")
        .arg(out.join("vdso.so"));
    let status = command.status()?;
    if !status.success() {
        return Err(format!("{command:?}: {status}").into());
    }
    Ok(())
}

/// kernel/*.S -> the static library tinykvm_guest_kernel
fn kernel() -> Outcome {
    println!("cargo:rerun-if-changed=kernel");
    let Ok(directory) = Path::new("kernel").read_dir() else {
        return Ok(());
    };
    let mut sources = Vec::new();
    for entry in directory {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "S") {
            sources.push(path);
        }
    }
    if !sources.is_empty() {
        sources.sort();
        cc::Build::new()
            .include("include")
            .files(sources)
            .compile("tinykvm_guest_kernel");
    }
    Ok(())
}
