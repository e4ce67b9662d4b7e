//! No request sees anything of another: neither the one before it in its VM, nor one in another
//! VM, nor what the host knows.

mod common;

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
        let expected = program.fork().ask(url, "1").unwrap();
        assert!(expected.contains(&format!("pages={pages}")), "{expected}");
        // `ask` also compares every byte of the VM with its image.
        for value in ["2", "3"] {
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
    let program = Program::boot("random");
    let (mut one, mut other) = (program.fork(), program.fork());
    let mut seen = std::collections::HashMap::new();
    for _ in 0..8 {
        for guest in [&mut one, &mut other] {
            for line in guest.ask("/", "").unwrap().lines() {
                if let Some((name, value)) = line.split_once('=')
                    && matches!(name, "getrandom" | "at_random" | "auxv")
                {
                    let old = seen.insert(value.to_owned(), name.to_owned());
                    assert_eq!(old, None, "{name} repeats {value}");
                }
            }
        }
    }
    assert!(seen.len() >= 32, "{seen:?}");
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
