//! `make install` and `make uninstall`, into a folder of the test's own, with what this very build
//! has made.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

const VMODS: &str = "/usr/lib/somewhere/vmods";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A fresh folder, gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("tinykvm-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Module and manual page side by side, as `make build` leaves them.
fn build(to: &Path) {
    let here = env::current_exe().unwrap();
    let library = here.parent().unwrap().join("libvmod_tinykvm.so");
    fs::copy(&library, to.join("libvmod_tinykvm.so")).unwrap();
    let man = Command::new(root().join("scripts/man.sh"))
        .arg(Path::new(env!("OUT_DIR")).join("vmod_tinykvm.man.rst"))
        .arg(to.join("vmod_tinykvm.3"))
        .output()
        .unwrap();
    assert!(man.status.success(), "{man:?}");
}

fn make(what: &str, built: &Path, destdir: &Path) -> Output {
    Command::new("make")
        .current_dir(root())
        .args(["--no-print-directory", what])
        .env("BUILT", built)
        .env("DESTDIR", destdir)
        .env("PREFIX", "/opt/tinykvm")
        .env("VMODDIR", VMODS)
        .output()
        .unwrap()
}

fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let path = entry.path();
                let inside = path.strip_prefix(folder).unwrap();
                found.insert(format!("/{}", inside.display()));
            }
        }
    }
    found
}

#[test]
fn what_is_installed_is_complete_and_is_gone_after_uninstall() {
    let (built, destination) = (Folder::new("built"), Folder::new("installed"));
    build(&built.0);
    let done = make("install", &built.0, &destination.0);
    assert!(done.status.success(), "{done:?}");

    let mut expected: BTreeSet<String> = files(&root().join("vcl"))
        .union(&files(&root().join("examples")))
        .filter_map(|path| path.rsplit('/').next())
        .map(|name| format!("/opt/tinykvm/share/doc/libvmod-tinykvm/examples/{name}"))
        .collect();
    for example in ["hello.vcl", "metrics.vcl", "hello.c", "counter.c"] {
        assert!(
            expected
                .iter()
                .any(|path| path.ends_with(&format!("/{example}")))
        );
    }
    expected.insert(format!("{VMODS}/libvmod_tinykvm.so"));
    expected.insert("/opt/tinykvm/share/man/man3/vmod_tinykvm.3".to_owned());
    expected.insert("/opt/tinykvm/include/tinykvm/kvm_api.h".to_owned());
    assert_eq!(files(&destination.0), expected);

    // Files of others in the same folders stay.
    let other = destination.0.join("opt/tinykvm/share/man/man3/other.3");
    fs::write(&other, "").unwrap();
    let done = make("uninstall", &built.0, &destination.0);
    assert!(done.status.success(), "{done:?}");
    let left = BTreeSet::from(["/opt/tinykvm/share/man/man3/other.3".to_owned()]);
    assert_eq!(files(&destination.0), left);
}

#[test]
fn without_a_build_nothing_is_installed_and_the_message_says_what_to_do() {
    let (built, destination) = (Folder::new("unbuilt"), Folder::new("empty"));
    let done = make("install", &built.0, &destination.0);
    assert!(!done.status.success());
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("is not there: make build"), "{said}");
    assert!(files(&destination.0).is_empty());
}

#[test]
fn the_manual_page_has_every_function_of_the_interface() {
    let built = Folder::new("manual");
    build(&built.0);
    let page = fs::read_to_string(built.0.join("vmod_tinykvm.3")).unwrap();
    let title = page.lines().find(|line| line.starts_with(".TH ")).unwrap();
    assert!(title.contains("VMOD_TINYKVM"), "{title}");
    let interface = fs::read_to_string(root().join("vmod/vmod_tinykvm.vcc")).unwrap();
    let functions: Vec<&str> = interface
        .lines()
        .filter_map(|line| line.strip_prefix("$Function "))
        .filter_map(|line| line.split_once('(')?.0.split_whitespace().last())
        .collect();
    assert!(functions.len() >= 12, "{functions:?}");
    for function in functions {
        assert!(page.contains(function), "{function}");
    }
}
