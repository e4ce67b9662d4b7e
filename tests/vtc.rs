//! Each `tests/vtc/*.vtc` as a test of its own, run by varnishtest against the library that cargo
//! has built beside this executable. With a library for the Varnish of another Debian
//! (scripts/with-varnish.sh) varnishtest runs in there.
//!
//! A file may use the macros `${vmod}` (the library), `${vmod_path}` (its folder and that of
//! Varnish's own modules), `${vcl}` (the folder of the examples in VCL), `${guest_NAME}`
//! (tests/guests/programs/NAME, compiled), `${example_NAME}` (examples/NAME/NAME.c, compiled),
//! `${hammer}` (tests/hammer), `${free_port}` (a TCP port that nobody uses), and `${xid}`, the header that Varnish calls X-Varnish and Vinyl Cache
//! X-Vinyl.
//! One with a line `# needs: restrict`, or `# needs: no restrict`, is there only for a Varnish whose
//! VCL compiler knows `$Restrict`, or for one whose does not; `# needs: refresh` and `# needs: no
//! refresh` are about `vcl_backend_refresh`.

mod hammer;

use std::{
    env, fs,
    io::{self, Write as _},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some(hammer::ASKED) {
        let (text, code) = match hammer::run() {
            Ok(text) => (text, ExitCode::SUCCESS),
            Err(text) => (text, ExitCode::FAILURE),
        };
        let _said = writeln!(io::stdout(), "{text}");
        return code;
    }
    let arguments = Arguments::from_args();
    let trials = files().into_iter().map(trial).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files() -> Vec<PathBuf> {
    let folder = root().join("tests/vtc");
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "vtc"))
        .filter(|path| is_for_this_varnish(path))
        .collect();
    files.sort();
    files
}

fn is_for_this_varnish(file: &Path) -> bool {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let has = |flag: &str| flag == "1";
    let missing = [
        (!has(env!("VARNISH_RESTRICTS"))).then_some("# needs: restrict"),
        has(env!("VARNISH_RESTRICTS")).then_some("# needs: no restrict"),
        (!has(env!("VARNISH_REFRESHES"))).then_some("# needs: refresh"),
        has(env!("VARNISH_REFRESHES")).then_some("# needs: no refresh"),
    ];
    !text.lines().any(|line| missing.contains(&Some(line)))
}

fn trial(file: PathBuf) -> Trial {
    let name = file
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Trial::ignorable_test(name, move || run(&file))
}

/// Not run: fine on a laptop, a failure in CI.
fn skipped(reason: &str) -> Result<Completion, Failed> {
    if env::var_os("CI").is_some() {
        return Err(reason.into());
    }
    Ok(Completion::ignored_with(reason))
}

fn run(file: &Path) -> Result<Completion, Failed> {
    let text = fs::read_to_string(file)?;
    if !Path::new("/dev/kvm").exists() {
        return skipped("there is no /dev/kvm");
    }

    let mut command = varnishtest();
    // An emulated CPU is some ten times slower.
    let seconds = if env::var_os("TINYKVM_TEST_SLOW").is_some() {
        600
    } else {
        60
    };
    // Its log has all that varnishd logs: 1 MB is not enough for a test that loads it.
    command.arg(format!("-t{seconds}")).arg("-b32M");
    let library = library()?;
    command.arg(format!("-Dvmod={}", library.display()));
    let folder = library.parent().unwrap_or(root()).display();
    command.arg(format!("-Dvmod_path={folder}:{}", env!("VARNISH_VMODDIR")));
    command.arg(format!("-Dxid=x-{}", env!("VARNISH_NAME")));
    command.arg(format!("-Dvcl={}", root().join("vcl").display()));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    command.arg(format!("-Dfree_port={}", listener.local_addr()?.port()));
    drop(listener);
    let own = env::current_exe()?;
    command.arg(format!("-Dhammer={} {}", own.display(), hammer::ASKED));
    for name in names_in(&text, "${guest_") {
        command.arg(format!(
            "-Dguest_{name}={}",
            guests::compile(name).display()
        ));
    }
    for name in names_in(&text, "${example_") {
        let source = fs::read_to_string(root().join(format!("examples/{name}/{name}.c")))?;
        let path = guests::compile_text(
            &format!("example-{name}"),
            &source,
            guests::Compiler::Gcc,
            &[],
        );
        command.arg(format!("-Dexample_{name}={}", path.display()));
    }
    let output = command.arg(file).output().map_err(|e| {
        format!("cannot run varnishtest ({e}): `make setup` installs the Debian package varnish")
    })?;
    match output.status.code() {
        Some(0) => Ok(Completion::Completed),
        Some(77) => skipped("varnishtest skipped it"),
        _ => Err(format!(
            "{}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
        .into()),
    }
}

fn varnishtest() -> Command {
    if env!("VARNISH_ROOT").is_empty() {
        return Command::new("varnishtest");
    }
    let mut command = Command::new(root().join("scripts/in-root.sh"));
    command.arg(env!("VARNISH_ROOT")).arg("varnishtest");
    command
}

/// The library of this very build: cargo puts it where it puts test executables.
fn library() -> Result<PathBuf, Failed> {
    let executable = env::current_exe()?;
    let folder = executable
        .parent()
        .ok_or("the test executable has no folder")?;
    let library = folder.join("libvmod_tinykvm.so");
    if library.is_file() {
        Ok(library)
    } else {
        Err(format!("{} is not there: cargo build", library.display()).into())
    }
}

/// The names in `${prefix_NAME}`.
fn names_in<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    let mut names: Vec<&str> = text
        .split(prefix)
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
        .map(|(name, _)| name)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}
