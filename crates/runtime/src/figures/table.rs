//! The table of figures.

use super::{Figure, Kind, Reading};
use Kind::{Bytes, Count, Level, LevelBytes, Time};
use Place::{Both, Machine, Nowhere, Process, Program, Storage, Totals};

/// Where in `stats()` a figure stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nowhere: it is about the process.
    Process,
    /// Nowhere, though it is about programs.
    Nowhere,
    /// In `program`.
    Program,
    /// In each object of `machines` and in `storage`.
    Machine,
    /// In `totals`.
    Totals,
    /// In machines and totals.
    Both,
    /// In `storage`, besides what is in each machine.
    Storage,
}

macro_rules! figures {
    ($($key:literal $place:ident, $vsc:literal, $metric:literal $label:literal, $kind:ident,
        $help:literal, $read:expr;)*) => {
        /// Rows with the same metric stand together.
        pub(crate) static TABLE: &[Figure] = &[
            $(Figure {
                key: $key,
                place: $place,
                vsc: $vsc,
                metric: $metric,
                label: $label,
                kind: $kind,
                help: $help,
                read: $read,
            },)*
        ];
    };
}

/// Guest calls that a fault of the program ended, of any kind.
fn exceptions(r: &Reading) -> u64 {
    r.slots
        .exceptions
        .saturating_add(r.slots.exception_oom)
        .saturating_add(r.slots.exception_mem)
}

// Names in stats() and those of the first nine counters are upstream's.
figures! {
    "" Process, "program_notfound", "tinykvm_unknown_programs_total" "", Count,
        "Calls from VCL with the name of a program that does not exist",
        |r| r.process.program_notfound;
    "" Nowhere, "program_exception", "" "", Count,
        "Guest calls that did not answer: exceptions, no memory, time-outs",
        |r| exceptions(r).saturating_add(r.slots.timeouts);
    "" Nowhere, "program_timeout", "" "", Count,
        "Guest calls that ran out of time",
        |r| r.slots.timeouts;
    "" Nowhere, "program_status_4xx", "" "", Count,
        "Responses with status 400 to 499",
        |r| r.slots.status_4xx;
    "" Nowhere, "program_status_5xx", "" "", Count,
        "Responses with status 500 and above, those made for a program that failed included",
        |r| r.slots.status_5xx;
    "" Process, "cpu_time", "tinykvm_wait_seconds_total" "", Time,
        "Time that VCL waited for answers of programs, queues included, self-requests not",
        |r| r.process.cpu_time;
    "" Process, "fetch_time", "tinykvm_fetch_seconds_total" "", Time,
        "Time in self-requests and in fetches of programs",
        |r| r.outgoing.fetch_time;
    "" Process, "self_requests", "tinykvm_self_requests_total" "", Count,
        "Self-requests",
        |r| r.outgoing.self_requests;
    "" Process, "self_requests_failed", "tinykvm_self_requests_failed_total" "", Count,
        "Self-requests that got no response",
        |r| r.outgoing.self_requests_failed;
    "" Process, "fetches", "tinykvm_fetches_total" "", Count,
        "Requests of programs to other servers",
        |r| r.outgoing.fetches;
    "" Process, "fetches_failed", "tinykvm_fetches_failed_total" "", Count,
        "Requests of programs to other servers that got no response",
        |r| r.outgoing.fetches_failed;

    "invocations" Both, "invocations", "tinykvm_invocations_total" "", Count,
        "Guest calls",
        |r| r.slots.invocations;
    "exceptions" Machine, "", "tinykvm_failures_total" "reason=exception", Count,
        "Guest calls that did not answer",
        |r| r.slots.exceptions;
    "exception_oom" Machine, "", "tinykvm_failures_total" "reason=memory", Count,
        "Guest calls that ended for lack of memory",
        |r| r.slots.exception_oom;
    "exception_mem" Machine, "", "tinykvm_failures_total" "reason=address", Count,
        "Guest calls that ended because the host could not use an address",
        |r| r.slots.exception_mem;
    "timeouts" Both, "", "tinykvm_failures_total" "reason=timeout", Count,
        "Guest calls that ran out of time",
        |r| r.slots.timeouts;
    "exceptions" Totals, "", "" "", Count,
        "Sum of the three kinds of exceptions of the machines",
        exceptions;
    "status_2xx" Both, "status_2xx", "tinykvm_responses_total" "class=2xx", Count,
        "Responses",
        |r| r.slots.status_2xx;
    "status_3xx" Both, "status_3xx", "tinykvm_responses_total" "class=3xx", Count,
        "Responses with status 300 to 399",
        |r| r.slots.status_3xx;
    "status_4xx" Both, "", "tinykvm_responses_total" "class=4xx", Count,
        "Responses with status 400 to 499",
        |r| r.slots.status_4xx;
    "status_5xx" Both, "", "tinykvm_responses_total" "class=5xx", Count,
        "Responses with status 500 and above",
        |r| r.slots.status_5xx;
    "input_bytes" Both, "input_bytes", "tinykvm_input_bytes_total" "", Bytes,
        "Bytes of request bodies",
        |r| r.slots.input_bytes;
    "output_bytes" Both, "output_bytes", "tinykvm_output_bytes_total" "", Bytes,
        "Bytes of response bodies, as announced",
        |r| r.slots.output_bytes;
    "request_cpu_time" Both, "request_cpu_us", "tinykvm_cpu_seconds_total" "result=answer", Time,
        "CPU time of guest calls",
        |r| r.slots.request_cpu_time;
    "exception_cpu_time" Both, "exception_cpu_us", "tinykvm_cpu_seconds_total" "result=failure",
        Time, "CPU time of guest calls that did not answer",
        |r| r.slots.exception_cpu_time;

    "resets" Both, "resets", "tinykvm_resets_total" "", Count,
        "Resets of VMs after requests",
        |r| r.slots.resets;
    "resets_full" Both, "resets_full", "tinykvm_resets_full_total" "", Count,
        "Resets that gave memory back to the host",
        |r| r.slots.resets_full;
    "reset_time" Both, "reset_us", "tinykvm_reset_seconds_total" "", Time,
        "Time in resets",
        |r| r.slots.reset_time;
    "dirty_pages" Both, "dirty_pages", "tinykvm_dirty_pages_total" "", Count,
        "Pages that resets had to restore",
        |r| r.slots.dirty_pages;
    "kvm_runs" Both, "kvm_runs", "tinykvm_kvm_exits_total" "", Count,
        "KVM exits: returns of KVM_RUN; one per request is the least",
        |r| r.slots.kvm_runs;
    "interruptions" Both, "interruptions", "tinykvm_kvm_interruptions_total" "", Count,
        "KVM exits because of a signal: a deadline or a look at the memory",
        |r| r.slots.interruptions;
    "ioctls" Both, "ioctls", "tinykvm_kvm_calls_total" "", Count,
        "Other KVM calls than KVM_RUN; none is usual",
        |r| r.slots.ioctls;
    "system_calls" Both, "system_calls", "tinykvm_system_calls_total" "", Count,
        "Linux system calls of guests; each is an exit",
        |r| r.slots.system_calls;
    "guest_exceptions" Both, "guest_exceptions", "tinykvm_guest_exceptions_total" "", Count,
        "Exceptions of the guest's CPU that reached the host",
        |r| r.slots.guest_exceptions;

    "reservation_time" Both, "reservation_us", "tinykvm_reservation_seconds_total" "", Time,
        "Time that requests waited for a VM",
        |r| r.slots.reservation_time;
    "reservation_time" Program, "", "" "", Time,
        "Time that requests waited for a VM, of all VMs",
        |r| r.slots.reservation_time;
    "reservation_timeouts" Program, "reservation_timeouts",
        "tinykvm_reservation_timeouts_total" "", Count,
        "Requests that got no VM within max_queue_time",
        |r| r.instance.reservation_timeouts;
    "reservation_refused" Program, "reservation_refused",
        "tinykvm_reservation_refused_total" "", Count,
        "Requests that found max_queue_length others waiting, or too many for the start",
        |r| r.program.reservation_refused;
    "queue_length" Program, "queue_length", "tinykvm_queue_length" "", Level,
        "Requests that wait for a VM now",
        |r| r.now.queue_length;
    "machines" Program, "machines", "tinykvm_machines" "", Level,
        "VMs that a program should have: its concurrency",
        |r| r.now.machines;
    "machines_free" Program, "machines_free", "tinykvm_machines_free" "", Level,
        "VMs that are free now",
        |r| r.now.machines_free;
    "machines_made" Program, "machines_made", "tinykvm_machines_made_total" "", Count,
        "VMs made, replacements included",
        |r| r.instance.made;
    "machines_poisoned" Program, "machines_poisoned", "tinykvm_machines_poisoned_total" "", Count,
        "VMs thrown away because they broke",
        |r| r.instance.poisoned;
    "image_bytes" Program, "image_bytes", "tinykvm_image_bytes" "", LevelBytes,
        "Memory of started programs, shared by their VMs",
        |r| r.now.image_bytes;
    "vm_bank_current" Machine, "vm_memory", "tinykvm_vm_memory_bytes" "", LevelBytes,
        "Memory that VMs had of their own at the last reset",
        |r| r.slots.memory;
    "vm_bank_highest" Machine, "", "" "", LevelBytes,
        "The most memory of its own that the VM had at a reset",
        |r| r.slots.memory_highest;

    "calls" Storage, "storage_calls", "tinykvm_storage_calls_total" "", Count,
        "Calls of requests into storage",
        |r| r.storage.calls;
    "failed_calls" Storage, "storage_failed_calls", "tinykvm_storage_failed_calls_total" "", Count,
        "Calls that failed in storage",
        |r| r.storage.failed_calls;
    "abandoned_calls" Storage, "storage_abandoned_calls",
        "tinykvm_storage_abandoned_calls_total" "", Count,
        "Calls whose request ran out of time while it waited for storage",
        |r| r.storage.abandoned_calls;
    "tasks" Storage, "storage_tasks", "tinykvm_storage_tasks_total" "", Count,
        "Tasks that storage has run, timers included",
        |r| r.storage.tasks;
    "refused_tasks" Storage, "storage_refused_tasks", "tinykvm_storage_refused_tasks_total" "",
        Count, "Tasks and timers that were too many",
        |r| r.storage.refused_tasks;
    "restarts" Storage, "storage_restarts", "tinykvm_storage_restarts_total" "", Count,
        "Storage VMs that broke, lost their state and were replaced",
        |r| r.storage.restarts;

    "" Nowhere, "live_updates", "tinykvm_live_updates_total" "", Count,
        "Live updates",
        |r| r.program.live_updates;
    "live_updates_failed" Program, "live_updates_failed", "tinykvm_live_updates_failed_total" "",
        Count, "Live updates that left the old program in service",
        |r| r.program.live_updates_failed;
    "" Nowhere, "live_update_transfer_bytes",
        "tinykvm_live_update_transfer_bytes_total" "", Bytes,
        "Bytes of state that live updates handed over",
        |r| r.program.live_update_transfer_bytes;
}
