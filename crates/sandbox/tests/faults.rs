//! A guest that does wrong loses its request, gets told why, and its VM serves the next one.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod common;

use std::time::{Duration, Instant};

use common::{Program, soon};
use sandbox::{Fault, Stack};

/// Each URL with the vector it must end in.
const EXCEPTIONS: [(&str, u8); 9] = [
    ("/null", 14),
    ("/ud2", 6),
    ("/div0", 0),
    ("/hlt", 13),
    ("/cli", 13),
    ("/port/3f8", 13),
    ("/stack-code", 14),
    ("/data-code", 14),
    ("/write-text", 14),
];

#[test]
fn exceptions_are_reported_and_cost_only_their_request() {
    let program = Program::boot("hostile");
    let mut guest = program.fork();
    for (url, expected) in EXCEPTIONS {
        match guest.ask_until(url, "", soon()) {
            Err(Fault::Exception { vector, rip, .. }) => {
                assert_eq!(vector, expected, "{url}");
                assert_ne!(rip, 0, "{url}");
            }
            other => panic!("{url}: {other:?}"),
        }
        guest.vm.reset().unwrap();
        guest.ask("/", "").unwrap();
    }
}

#[test]
fn a_fault_names_the_function_it_happened_in() {
    let program = Program::boot("hostile");
    let mut guest = program.fork();
    let fault = guest.ask("/ud2", "").unwrap_err();
    let text = program.image.describe(&fault);
    assert!(text.starts_with("invalid opcode (#UD) at 0x"), "{text}");
    assert!(text.contains(", in "), "{text}");
}

#[test]
fn a_stack_overflow_is_called_one_and_the_size_of_the_stack_is_told() {
    let program = Program::boot("hostile");
    let mut guest = program.fork();
    for url in ["/overflow", "/frame"] {
        let fault = guest.ask(url, "").unwrap_err();
        assert!(
            matches!(
                fault,
                Fault::StackOverflow {
                    stack: Stack::Callback,
                    bytes: 0x40_0000,
                    ..
                }
            ),
            "{url}: {fault:?}"
        );
        let text = program.image.describe(&fault);
        assert!(text.starts_with("stack overflow at 0x"), "{text}");
        assert!(
            text.contains("(the stack of a callback has 4 MiB: "),
            "{text}"
        );
        let name = url.trim_start_matches('/');
        assert!(text.contains(&format!(", in {name}+0x")), "{text}");
        guest.ask("/", "").unwrap();
    }
}

#[test]
fn a_wild_pointer_below_the_stack_and_a_stack_of_the_programs_own_are_page_faults() {
    let program = Program::boot("hostile");
    let mut guest = program.fork();
    for url in ["/below", "/own-stack"] {
        let end = guest.ask(url, "");
        assert!(
            matches!(end, Err(Fault::Exception { vector: 14, .. })),
            "{url}: {end:?}"
        );
    }
    guest.ask("/", "").unwrap();
}

#[test]
fn the_sandboxs_own_pages_are_out_of_reach() {
    let program = Program::boot("hostile");
    let mut guest = program.fork();
    for address in [
        "0",
        "1000",
        "10000",
        "11000",
        "12000",
        "13ff8",
        "ffff800000000000",
    ] {
        for what in ["read", "write", "jump"] {
            // A jump to the system call entry is a system call, as on any host where SYSCALL faults.
            if what == "jump" && address == "12000" {
                continue;
            }
            let end = guest.ask(&format!("/{what}/{address}"), "");
            assert!(
                matches!(end, Err(Fault::Exception { .. })),
                "{what} {address}: {end:?}"
            );
        }
    }
    for address in ["18000", "19000", "1a000", "1d000"] {
        let end = guest.ask(&format!("/write/{address}"), "");
        assert!(
            matches!(end, Err(Fault::Exception { vector: 14, .. })),
            "{address}: {end:?}"
        );
    }
    guest.ask("/", "").unwrap();
}

#[test]
fn a_loop_ends_at_its_deadline_and_not_before_and_the_next_request_is_not_hit() {
    let program = Program::boot("hostile");
    let mut guest = program.fork();
    for _ in 0..20 {
        let started = Instant::now();
        let limit = Duration::from_millis(30);
        let end = guest.ask_until("/loop", "", started + limit);
        assert_eq!(end, Err(Fault::TimedOut));
        assert!(started.elapsed() >= limit, "{:?}", started.elapsed());
        guest.vm.reset().unwrap();
        guest.ask("/", "").unwrap();
    }
}

#[test]
fn a_request_cut_off_while_it_faults_leaves_no_exception_for_the_next_one() {
    // Touches fresh pages as fast as it can, so that most kicks come in the middle of a page fault.
    let program = Program::boot("dirty");
    let mut guest = program.fork();
    let expected = program.fork().ask("/1", "1").unwrap();
    for delay in 0..200 {
        let by = Instant::now() + Duration::from_micros(500 + 37 * delay);
        let _ = guest.ask_until("/20000", "1", by);
        guest.vm.reset().unwrap();
        assert_eq!(
            guest.ask_until("/1", "1", soon()).unwrap().1,
            expected.as_bytes()
        );
        guest.vm.reset().unwrap();
    }
}

#[test]
fn exits_and_signals_end_the_request_with_their_number() {
    let program = Program::boot("hostile");
    let mut guest = program.fork();
    assert_eq!(guest.ask("/exit/7", ""), Err(Fault::Exited(7)));
    assert_eq!(guest.ask("/abort", ""), Err(Fault::Killed(6)));
    assert_eq!(guest.ask("/kill/f", ""), Err(Fault::Killed(15)));
    guest.ask("/", "").unwrap();
}

#[test]
fn memory_is_limited_and_the_limit_is_named() {
    let program = Program::boot("hostile");
    let mut guest = program.fork();
    for url in ["/memory", "/malloc"] {
        match guest.ask_until(url, "", soon()) {
            Err(Fault::OutOfMemory { used, limit }) => assert!(used > limit),
            // malloc says no before the limit is reached; the program answers or crashes on it.
            Ok(_) | Err(Fault::Exception { .. } | Fault::Killed(_)) => {}
            other => panic!("{url}: {other:?}"),
        }
        guest.vm.reset().unwrap();
        assert_eq!(guest.vm.differences(), []);
        guest.ask("/", "").unwrap();
    }
}

#[test]
fn every_system_call_with_wild_arguments_leaves_the_vm_usable() {
    let program = Program::boot("hostile");
    let mut guest = program.fork();
    for number in 0..470 {
        for value in ["0", "ffffffffffffffff", "13000", "7fffffffffff"] {
            let values = [value; 6].join("/");
            let by = Instant::now() + Duration::from_millis(200);
            let _ = guest.ask_until(&format!("/syscall/{number:x}/{values}"), "", by);
            guest.vm.reset().unwrap();
        }
    }
    assert_eq!(guest.vm.differences(), []);
    guest.ask("/", "").unwrap();
}

#[test]
fn a_program_that_loops_while_it_starts_is_stopped() {
    let file = guests::compile_text(
        "never_waits",
        "int main(void) { for (;;) __asm__ volatile(\"\"); }",
        guests::Compiler::Gcc,
        &[],
    );
    let host = sandbox::Host::open().unwrap();
    let file = std::fs::read(file).unwrap();
    let mut main = sandbox::MainVm::boot(&host, &file, &common::config("never_waits")).unwrap();
    let by = Instant::now() + Duration::from_millis(500);
    assert_eq!(
        main.run(by, &mut common::Recorder::default()),
        Err(Fault::TimedOut)
    );
}
