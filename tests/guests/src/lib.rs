//! Compiles the guest programs that tests and benches run.
//!
//! `compile("hello")` builds `programs/hello.c` (or `.cpp`, `.rs`) and returns the path of the ELF
//! file. A program is built once: the file's name carries a hash of all that went into it. Test
//! processes may race, since a finished file appears by rename. A program that does not compile is
//! a panic with the compiler's own words.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// How a program is built. All but `GccStaticPie` make an executable of fixed addresses, unless
/// the compiler thinks otherwise (rustc makes a static PIE).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compiler {
    Gcc,
    GccStaticPie,
    Clang,
    MuslGcc,
    Gxx,
    Clangxx,
    Rustc,
}

impl Compiler {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Gcc,
        Self::GccStaticPie,
        Self::Clang,
        Self::MuslGcc,
        Self::Gxx,
        Self::Clangxx,
        Self::Rustc,
    ];

    /// The command that runs it.
    pub fn command(self) -> &'static str {
        match self {
            Self::Gcc | Self::GccStaticPie => "gcc",
            Self::Clang => "clang",
            Self::MuslGcc => "musl-gcc",
            Self::Gxx => "g++",
            Self::Clangxx => "clang++",
            Self::Rustc => "rustc",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Gcc | Self::MuslGcc | Self::Clang => &["-static", "-O2", "-Wall", "-Wextra"],
            Self::GccStaticPie => &["-static-pie", "-fPIE", "-O2", "-Wall", "-Wextra"],
            Self::Gxx | Self::Clangxx => &["-static", "-O2", "-Wall", "-Wextra", "-std=c++17"],
            Self::Rustc => &["-Ctarget-feature=+crt-static", "-O", "--edition", "2021"],
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Gcc | Self::GccStaticPie | Self::Clang | Self::MuslGcc => "c",
            Self::Gxx | Self::Clangxx => "cpp",
            Self::Rustc => "rs",
        }
    }

    /// What tells two versions of the compiler apart.
    fn version(self) -> Vec<u8> {
        run(Command::new(self.command()).arg("--version")).stdout
    }
}

/// The program of that name, built as users are told to: `gcc -static -O2`, or g++ and rustc for
/// `.cpp` and `.rs`.
pub fn compile(name: &str) -> PathBuf {
    let compiler = [Compiler::Gcc, Compiler::Gxx, Compiler::Rustc]
        .into_iter()
        .find(|compiler| source(name, *compiler).is_file())
        .unwrap_or_else(|| panic!("no {name}.c, .cpp or .rs in {}", programs().display()));
    compile_with(name, compiler, &[])
}

/// The program of that name, built by that compiler with further flags.
pub fn compile_with(name: &str, compiler: Compiler, flags: &[&str]) -> PathBuf {
    build(name, &source(name, compiler), compiler, flags)
}

/// The bytes of `compile(name)`.
pub fn elf(name: &str) -> Vec<u8> {
    let path = compile(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A program that does its work on Linux too and prints the result: the very file that runs as a
/// guest, so that the two can be compared.
pub fn native(name: &str) -> PathBuf {
    compile(name)
}

/// A program of a test's own: its text is kept under `name` beside the built file.
pub fn compile_text(name: &str, text: &str, compiler: Compiler, flags: &[&str]) -> PathBuf {
    let mut hash = DefaultHasher::new();
    text.hash(&mut hash);
    let file = format!("{name}-{:016x}.{}", hash.finish(), compiler.extension());
    let path = output_directory().join(file);
    if !path.is_file() {
        install(&path, |temporary| {
            let mut file = fs::File::create(temporary)?;
            file.write_all(text.as_bytes())
        });
    }
    build(name, &path, compiler, flags)
}

/// Where `kvm_api.h` is.
pub fn include_directory() -> PathBuf {
    repository().join("guest/c/include")
}

/// By how much limits meant to catch a hang must be longer: 1, or more where `TINYKVM_TEST_SLOW`
/// says that the CPU is emulated (scripts/test-hw.sh).
pub fn slowness() -> u32 {
    if std::env::var_os("TINYKVM_TEST_SLOW").is_some() {
        20
    } else {
        1
    }
}

/// xorshift64*: the same numbers in every run.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// `seed` is anything but 0.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }
}

/// The top folder of the project.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where guest programs and their by-products are put.
pub fn output_directory() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository().join("target"), PathBuf::from);
    let directory = target.join("guests");
    fs::create_dir_all(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    directory
}

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs")
}

fn source(name: &str, compiler: Compiler) -> PathBuf {
    programs().join(format!("{name}.{}", compiler.extension()))
}

fn build(name: &str, source: &Path, compiler: Compiler, flags: &[&str]) -> PathBuf {
    let mut hash = DefaultHasher::new();
    (compiler, compiler.flags(), flags, compiler.version()).hash(&mut hash);
    hash_file(source, &mut hash);
    for directory in [include_directory(), programs()] {
        hash_headers(&directory, &mut hash);
    }
    let file = format!("{name}-{}-{:016x}", compiler.command(), hash.finish());
    let path = output_directory().join(file);
    if !path.is_file() {
        install(&path, |temporary| {
            let mut command = Command::new(compiler.command());
            command.args(compiler.flags()).args(flags);
            if compiler != Compiler::Rustc {
                command
                    .arg("-I")
                    .arg(include_directory())
                    .arg("-I")
                    .arg(programs());
            }
            command.arg("-o").arg(temporary).arg(source);
            if compiler.extension() == "c" {
                command.arg("-lm");
            }
            run(&mut command);
            Ok(())
        });
    }
    path
}

fn hash_file(path: &Path, hash: &mut DefaultHasher) {
    fs::read(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .hash(hash);
}

fn hash_headers(directory: &Path, hash: &mut DefaultHasher) {
    let entries =
        fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut headers: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "h"))
        .collect();
    headers.sort();
    for header in headers {
        hash_file(&header, hash);
    }
}

/// Lets `make` write a temporary file that becomes `path` when it is complete.
fn install(path: &Path, make: impl FnOnce(&Path) -> std::io::Result<()>) {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let mut temporary = OsString::from(path);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    // One dot only: rustc names its object files after what stands before the second-last one.
    temporary.push(format!("-{}-{number}.tmp", std::process::id()));
    make(Path::new(&temporary))
        .and_then(|()| fs::rename(&temporary, path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Runs a command that must succeed.
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| {
        panic!(
            "{:?}: {error} (`make setup` installs the compilers)",
            command.get_program()
        )
    });
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
