//! The programs that also run on Linux compute what they claim to, so that a guest's answer can be
//! compared with a known one.

#![allow(
    clippy::unwrap_used,
    reason = "the functions that tests share are tests too"
)]

use std::process::Command;

fn output(program: &str) -> String {
    let output = Command::new(guests::native(program))
        .env_remove("KVM_NAME")
        .output()
        .unwrap();
    assert!(output.status.success(), "{program}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn result(program: &str) -> String {
    let text = output(program);
    let result = text
        .lines()
        .find_map(|line| line.strip_prefix("result="))
        .unwrap();
    result.to_owned()
}

#[test]
fn sha256_is_sha256() {
    // As sha256sum prints it for the same 64 MiB.
    assert_eq!(result("sha256"), "6a977cb81a0a90ab");
}

#[test]
fn sort_sorts() {
    assert_eq!(result("sort"), "a6b29c566cecec94");
}

#[test]
fn avx_sums_alike_at_every_width() {
    // The sum over 64 lanes of start + 32,000,000 steps.
    let start: u64 = (1..=64).sum();
    let steps: u64 = (3..=17).step_by(2).sum::<u64>() * 8 * 32_000_000;
    assert_eq!(result("avx"), format!("{:016x}", start + steps));
}

#[test]
fn environment_prints_what_linux_gives() {
    let text = output("environment");
    for line in [
        "argv ends=1",
        "random=1",
        "stack aligned=1",
        "tls=4711 0",
        "constructed=1",
        "float=0.333",
    ] {
        assert!(
            text.lines().any(|it| it == line),
            "{line} is missing in\n{text}"
        );
    }
}
