//! No request sees anything of another: neither the one before it in its VM, nor one in another
//! VM, nor what the host knows.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod common;

use std::time::{Duration, Instant};

use common::{Program, soon};
use sandbox::{Exit, Fault};

/// Pages and where they are: what `dirty` is asked to overwrite.
const PLACES: [(&str, u64); 8] = [
    ("/1", 1),
    ("/1000", 1000),
    ("/20000", 20_000),
    ("/heap/1", 1),
    ("/heap/1000", 1000),
    ("/mmap/1000", 1000),
    ("/mmap/5000", 5000),
    ("/stack/800", 800),
];

#[test]
fn whatever_pages_a_request_dirties_the_next_one_finds_as_they_were() {
    let program = Program::boot("dirty");
    let mut guest = program.fork();
    for (url, pages) in PLACES {
        for value in ["2", "3", "2"] {
            // What a fresh fork answers. The value matters: unused stack holds traces of it.
            let expected = program.fork().ask(url, value).unwrap();
            assert!(expected.contains(&format!("pages={pages}")), "{expected}");
            // `ask` also compares every byte of the VM with its image.
            assert_eq!(guest.ask(url, value).unwrap(), expected, "{url}");
        }
    }
}

#[test]
fn a_request_that_changes_all_its_state_leaves_none_of_it() {
    let program = Program::boot("state");
    let expected = program.fork().ask("/", "").unwrap();
    let mut guest = program.fork();
    for round in 0..5 {
        let found = guest.ask("/", "").unwrap();
        for (was, is) in expected.lines().zip(found.lines()) {
            assert_eq!(was, is, "request {round}");
        }
        assert_eq!(expected.len(), found.len());
    }
}

#[test]
fn state_is_restored_after_a_fault_too() {
    let program = Program::boot("dirty");
    let expected = program.fork().ask("/1000", "1").unwrap();
    let mut guest = program.fork();
    // The request is cut off in the middle of its writes.
    let cut = std::time::Instant::now() + std::time::Duration::from_millis(20);
    let end = guest.ask_until("/20000", "7", cut);
    guest.vm.reset().unwrap();
    assert!(matches!(end, Err(Fault::TimedOut) | Ok(_)), "{end:?}");
    assert_eq!(guest.vm.differences(), []);
    assert_eq!(guest.ask("/1000", "9").unwrap(), expected);
}

#[test]
fn two_vms_of_one_image_do_not_see_each_other() {
    let program = Program::boot("dirty");
    let (mut one, mut other) = (program.fork(), program.fork());
    let expected = program.fork().ask("/1000", "1").unwrap();
    one.ask_until("/1000", "1", soon()).unwrap();
    assert_eq!(other.ask("/1000", "2").unwrap(), expected);
}

#[test]
fn random_numbers_differ_from_request_to_request_and_from_vm_to_vm() {
    let file = guests::compile_text(
        "two_sources",
        r#"
        #include "kvm_api.h"
        #include <sys/auxv.h>
        #include <sys/random.h>
        static void on_get(const char *url, const char *arg)
        {
            static char text[128];
            uint64_t from_call[2];
            const uint64_t *at_random = (const uint64_t *)getauxval(AT_RANDOM);
            getrandom(from_call, sizeof(from_call), 0);
            const int len = snprintf(text, sizeof(text), "%llx%llx %llx%llx",
                (unsigned long long)from_call[0], (unsigned long long)from_call[1],
                (unsigned long long)at_random[0], (unsigned long long)at_random[1]);
            backend_response(200, "text/plain", 10, text, (size_t)len);
        }
        int main(void) { set_backend_get(on_get); wait_for_requests(); }
        "#,
        guests::Compiler::Gcc,
        &[],
    );
    let file = std::fs::read(file).unwrap();
    let program = Program::boot_file(&file, &common::config("two_sources")).unwrap();
    let (mut one, mut other) = (program.fork(), program.fork());
    let mut seen = std::collections::HashSet::new();
    for _ in 0..100 {
        for guest in [&mut one, &mut other] {
            for number in guest.ask("/", "").unwrap().split(' ') {
                assert!(number.len() > 20, "{number} is no 128-bit number");
                assert!(seen.insert(number.to_owned()), "{number} came twice");
            }
        }
    }
}

#[test]
fn a_paused_program_goes_on_from_the_same_point_every_time() {
    let program = Program::boot("paused");
    let mut guest = program.fork();
    for _ in 0..3 {
        let exit = guest.vm.resume_paused(soon(), &mut guest.recorder);
        // Without a request written for it the program may only fault or answer; the point is that
        // it is the same each time and leaves nothing.
        let seen = match exit {
            Ok(Exit::Stopped(_)) | Err(Fault::Exception { .. }) => true,
            other => panic!("{other:?}"),
        };
        assert!(seen);
        guest.vm.reset().unwrap();
        assert_eq!(guest.vm.differences(), []);
    }
}

#[test]
fn a_reload_that_a_reset_owes_is_made_up_for_where_the_entry_was_cut_off() {
    let text = r#"
#include "kvm_api.h"
static int entered;
static void on_get(const char *url, const char *arg)
{
	char text[40];
	entered++;
	const int len = sprintf(text, "%d %ld", entered, *(volatile long *)0x19038);
	backend_response(200, "text/plain", 10, text, len);
}
int main(void) { set_backend_get(on_get); wait_for_requests(); }
"#;
    let file = guests::compile_text("cut_off", text, guests::Compiler::Gcc, &["-Wno-unused"]);
    let mut config = common::config("cut_off");
    // Every reset is a full one, which owes a reload on both kinds of host.
    config.request.keep = 0;
    let program = Program::boot_file(&std::fs::read(file).unwrap(), &config).unwrap();
    let mut guest = program.fork();
    guest.ask_until("/", "", soon()).unwrap();
    // Where it had come out by itself, or shows that it had got to the program, the reload was done.
    let mut cut_off = false;
    let patience = Instant::now() + Duration::from_secs(60) * guests::slowness();
    while !cut_off {
        assert!(Instant::now() < patience, "no entry was cut off");
        guest.vm.reset().unwrap();
        let before = guest.vm.counters();
        let end = guest.ask_until("/", "", Instant::now());
        let after = guest.vm.counters();
        let runs = after.kvm_runs - before.kvm_runs;
        let interruptions = after.interruptions - before.interruptions;
        let (_, answer) = guest.ask_until("/", "", soon()).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        if end == Err(Fault::TimedOut) && (runs, interruptions) == (1, 1) {
            assert!(answer.ends_with(" 1"), "{answer}");
            cut_off = answer == "1 1";
        }
    }
}
