//! What a request may cost: one KVM_RUN, no other ioctl, no exception, no system call.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod common;

use common::{Program, config, soon};
use guests::Compiler;

#[test]
fn in_steady_state_a_request_costs_one_kvm_run_and_nothing_else() {
    let program = Program::boot("hello");
    let mut guest = program.fork();
    for _ in 0..10 {
        guest.ask_until("/", "", soon()).unwrap();
        guest.vm.reset().unwrap();
    }
    let before = guest.vm.counters();
    for _ in 0..100 {
        guest.ask_until("/", "", soon()).unwrap();
        guest.vm.reset().unwrap();
    }
    let after = guest.vm.counters();
    // A request that the scheduler lets wait is interrupted to look at its memory.
    let interruptions = after.interruptions - before.interruptions;
    assert_eq!(after.kvm_runs - before.kvm_runs - interruptions, 100);
    assert_eq!(after.ioctls, before.ioctls);
    assert_eq!(after.exceptions, before.exceptions);
    assert_eq!(after.system_calls, before.system_calls);
    assert_eq!(after.hypercalls - before.hypercalls, 100);
    assert_eq!(after.full_resets, before.full_resets);
    let pages = (after.dirty_pages - before.dirty_pages) / 100;
    assert!(pages <= 16, "hello dirties {pages} pages");
}

#[test]
fn clocks_are_read_without_leaving_the_guest() {
    // Each C library finds the vDSO in its own way. "/" also reads the clock of CPU time and one
    // that does not exist, which is up to the host; and musl always asks it for the resolution.
    clocks_of(Compiler::Gcc, 2);
    clocks_of(Compiler::GccStaticPie, 2);
    clocks_of(Compiler::MuslGcc, 3);
}

fn clocks_of(compiler: Compiler, calls: u64) {
    let file = std::fs::read(guests::compile_with("time", compiler, &[])).unwrap();
    let program = Program::boot_file(&file, &config("time")).unwrap();
    let mut guest = program.fork();
    guest.ask("/", "").unwrap();
    let before = guest.vm.counters();
    let million = guest.ask("/cost", "").unwrap();
    assert_eq!(
        guest.vm.counters().system_calls,
        before.system_calls,
        "{compiler:?}: {million}"
    );
    let first = guest.ask("/", "").unwrap();
    assert_eq!(
        guest.vm.counters().system_calls,
        before.system_calls + calls,
        "{compiler:?}: {first}"
    );
    assert_ne!(guest.ask("/", "").unwrap(), first, "time passes");
}
