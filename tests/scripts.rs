//! What the scripts say when something is wrong.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::Path;
use std::process::Command;
use std::{env, fs};

#[test]
fn a_vcl_that_fails_at_its_start_is_shown_with_varnishds_own_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let work = env::temp_dir().join(format!("tinykvm-scripts-{}", std::process::id()));
    fs::create_dir_all(work.join("release")).unwrap();
    let here = env::current_exe().unwrap();
    let library = "libvmod_tinykvm.so";
    fs::copy(
        here.parent().unwrap().join(library),
        work.join("release").join(library),
    )
    .unwrap();
    let vcl = work.join("bad.vcl");
    let text = "vcl 4.1;\nimport tinykvm;\nbackend default none;\n\
        sub vcl_init { tinykvm.configure(\"p\", \"\"\"{ \"filename\": \"/p\", \"concurrency\": 0 }\"\"\"); }\n";
    fs::write(&vcl, text).unwrap();
    let script =
        "set -euo pipefail; source scripts/varnishd.sh; jail=(-j none); start_varnishd \"$1\"";
    let done = Command::new("bash")
        .args(["-c", script, "test"])
        .arg(&vcl)
        .current_dir(root)
        .env("CARGO_TARGET_DIR", &work)
        .output()
        .unwrap();
    fs::remove_dir_all(&work).unwrap();
    assert!(!done.status.success());
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        said.contains(
            "program \"p\": setting \"concurrency\": expected a number from 1 to 255, got 0"
        ),
        "{said}"
    );
}
