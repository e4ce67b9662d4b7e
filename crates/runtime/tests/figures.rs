//! What operators see: the keys of `stats()`, and sums that go on when instances end.

mod support;

use runtime::figures::{PROCESS_SEGMENT, PROGRAM_SEGMENT, segments, vsc_source};
use serde_json::Value;
use support::{BOTH, get, program, program_with};

/// Upstream's keys of a request VM, and whether they are whole numbers.
const MACHINE: [(&str, bool); 23] = [
    ("invocations", true),
    ("resets", true),
    ("resets_full", true),
    ("exceptions", true),
    ("exception_oom", true),
    ("exception_mem", true),
    ("timeouts", true),
    ("reservation_time", false),
    ("reset_time", false),
    ("request_cpu_time", false),
    ("exception_cpu_time", false),
    ("input_bytes", true),
    ("output_bytes", true),
    ("status_2xx", true),
    ("status_3xx", true),
    ("status_4xx", true),
    ("status_5xx", true),
    ("vm_address_space", true),
    ("vm_main_memory", true),
    ("vm_bank_capacity", true),
    ("vm_bank_highest", true),
    ("vm_bank_current", true),
    ("tasks_queued", true),
];
/// Those of a machine that `totals` has not.
const NOT_IN_TOTALS: [&str; 8] = [
    "exception_oom",
    "exception_mem",
    "vm_address_space",
    "vm_main_memory",
    "vm_bank_capacity",
    "vm_bank_highest",
    "vm_bank_current",
    "tasks_queued",
];
const PROGRAM: [(&str, bool); 5] = [
    ("binary_size", true),
    ("live_updates", true),
    ("live_update_transfer_bytes", true),
    ("reservation_time", false),
    ("reservation_timeouts", true),
];
const ENTRY_POINTS: [&str; 9] = [
    "on_recv",
    "backend_get",
    "backend_post",
    "backend_method",
    "backend_stream",
    "backend_error",
    "live_update_serialize",
    "live_update_deserialize",
    "socket_pause_resume_api",
];

fn expect(object: &Value, keys: &[(&str, bool)]) {
    for (key, whole) in keys {
        let value = &object[key];
        let right = if *whole {
            value.is_u64()
        } else {
            value.is_f64()
        };
        assert!(right, "{key}: {value:?}");
    }
}

#[test]
fn stats_have_all_keys_of_upstream_with_their_types() {
    for threads in BOTH {
        let hello = program_with("hello", threads, |recipe| recipe.concurrency = 3);
        assert_eq!(get(&hello, "/").status(), 200);
        let stats = hello.statistics().unwrap();
        expect(&stats["program"], &PROGRAM);
        assert!(stats["program"]["binary_type"].is_string());
        for key in ENTRY_POINTS {
            assert!(stats["program"]["entry_points"][key].is_u64(), "{key}");
        }
        let machines = stats["request"]["machines"].as_array().unwrap();
        assert_eq!(machines.len(), 3);
        for machine in machines {
            expect(machine, &MACHINE);
        }
        let totals: Vec<_> = MACHINE
            .into_iter()
            .filter(|(key, _)| !NOT_IN_TOTALS.contains(key))
            .collect();
        expect(&stats["request"]["totals"], &totals);
        for key in NOT_IN_TOTALS {
            assert_eq!(stats["request"]["totals"][key], Value::Null, "{key}");
        }
    }
}

/// A counter as `varnishstat` gets it; `None` for a program that has no counters.
fn counter(program: Option<&str>, name: &str) -> Option<u64> {
    let source = vsc_source(match program {
        Some(_) => PROGRAM_SEGMENT,
        None => PROCESS_SEGMENT,
    });
    let at = source
        .lines()
        .filter_map(|line| line.strip_prefix(".. varnish_vsc::\t"))
        .position(|counter| counter == name)?;
    let segments = segments();
    let segment = segments
        .iter()
        .find(|segment| segment.program.as_deref() == program)?;
    segment.values.get(at).copied()
}

#[test]
fn sums_go_on_when_an_instance_is_replaced_and_end_with_the_program() {
    let paused = program("paused");
    for _ in 0..3 {
        assert_eq!(get(&paused, "/").status(), 200);
    }
    assert_eq!(counter(Some("paused"), "invocations"), Some(3));
    assert_eq!(counter(Some("paused"), "machines"), Some(2));
    assert_ne!(counter(Some("paused"), "image_bytes"), Some(0));
    paused.unload();
    assert_eq!(counter(Some("paused"), "invocations"), Some(3));
    assert_eq!(get(&paused, "/").status(), 200);
    assert_eq!(counter(Some("paused"), "invocations"), Some(4));
    drop(paused);
    // A thread of its own closes the old instance's VMs.
    while counter(Some("paused"), "invocations").is_some() {
        std::thread::yield_now();
    }
}

#[test]
fn the_process_sums_up_all_programs_those_that_are_gone_included() {
    let invocations = || counter(None, "invocations").unwrap();
    let before = invocations();
    let answer = program("answer");
    assert_eq!(get(&answer, "/").status(), 200);
    drop(answer);
    let echo = program("echo");
    assert!(invocations() > before);
    drop(echo);
    assert!(invocations() > before);
}
