//! Dependencies run downwards only. Cargo keeps the crates apart; this keeps Cargo.toml, and the
//! modules inside a crate, to the picture in docs/design.md.

mod tree;

use std::collections::BTreeMap;

use tree::{read, repository, rust_files};

/// Each crate of the project and what it may use of the project, tests and benches aside.
const CRATES: [(&str, &str, &[&str]); 4] = [
    ("vendor/tinykvm-sys", "tinykvm-sys", &[]),
    ("crates/sandbox", "sandbox", &["tinykvm-sys"]),
    ("crates/runtime", "runtime", &["sandbox", "tinykvm-sys"]),
    ("", "libvmod-tinykvm", &["runtime"]),
];

/// Folders, and the modules of their own crate that they must not know.
const BLIND: [(&str, &[&str]); 3] = [
    (
        "crates/sandbox/src/memory",
        &["kvm", "linux", "machine", "vm", "image", "boot", "deadline"],
    ),
    (
        "crates/sandbox/src/linux",
        &["kvm", "machine", "vm", "image", "boot"],
    ),
    (
        "crates/sandbox/src/kvm",
        &["linux", "machine", "vm", "image", "boot"],
    ),
];

#[test]
fn crates_use_only_what_lies_below_them() {
    for (folder, name, allowed) in CRATES {
        let manifest = read(&repository().join(folder).join("Cargo.toml"));
        for section in ["dependencies", "build-dependencies"] {
            for dependency in dependencies(&manifest, section) {
                let ours = CRATES.iter().any(|(_, other, _)| *other == dependency);
                assert!(
                    !ours || allowed.contains(&dependency.as_str()),
                    "{name} must not depend on {dependency}: see docs/design.md"
                );
                assert_ne!(
                    dependency, "guests",
                    "{name}: only tests may use test programs"
                );
            }
        }
    }
}

#[test]
fn modules_of_the_sandbox_use_only_what_lies_below_them() {
    for (folder, forbidden) in BLIND {
        let files = rust_files(&repository().join(folder));
        assert!(!files.is_empty(), "{folder} has moved: change this table");
        for file in files {
            let text = read(&file);
            for module in forbidden {
                let path = format!("crate::{module}::");
                assert!(
                    !text.contains(&path),
                    "{} must not use {path}",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn only_the_kvm_modules_make_kvm_calls() {
    let kvm = repository().join("crates/sandbox/src/kvm");
    for folder in ["crates/sandbox/src", "crates/runtime/src", "src"] {
        for file in rust_files(&repository().join(folder)) {
            assert!(
                file.starts_with(&kvm) || !read(&file).contains("kvm_ioctls"),
                "{}: KVM calls belong into crates/sandbox/src/kvm, where they are counted",
                file.display()
            );
        }
    }
}

/// The names in a section of a manifest.
fn dependencies(manifest: &str, section: &str) -> Vec<String> {
    let mut sections: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut current = "";
    for line in manifest.lines() {
        if let Some(header) = line.strip_prefix('[') {
            current = header.trim_end_matches(']');
        } else if let Some((name, _)) = line.split_once(['.', ' ', '=']) {
            sections.entry(current).or_default().push(name.to_owned());
        }
    }
    sections.remove(section).unwrap_or_default()
}
