//! What `stats()` tells about a program: upstream's keys and some more.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::hypercalls::Entry;
use crate::instance::Instance;
use crate::program::Program;
use crate::statistics::SlotValues;
use crate::update::Updates;

impl Program {
    /// The statistics of the loaded instance; nothing where there is none.
    pub fn statistics(&self) -> Option<Value> {
        let instance = self.current()?;
        let slots: Vec<_> = instance
            .slot_counters()
            .iter()
            .map(|counters| counters.values())
            .collect();
        let mut sum = SlotValues::default();
        for slot in &slots {
            sum.add(slot);
        }
        let limits = instance.limits();
        let machines: Vec<_> = slots
            .iter()
            .map(|slot| {
                let mut machine = both(slot);
                machine.extend(one_machine(slot));
                machine.insert("vm_address_space".to_owned(), json!(limits.address_space));
                machine.insert("vm_main_memory".to_owned(), json!(limits.max_memory));
                machine.insert(
                    "vm_bank_capacity".to_owned(),
                    json!(limits.max_request_memory),
                );
                Value::Object(machine)
            })
            .collect();
        let mut totals = both(&sum);
        let exceptions = sum.exceptions + sum.exception_oom + sum.exception_mem;
        totals.insert("exceptions".to_owned(), json!(exceptions));
        Some(sorted(json!({
            "program": program(&instance, &sum, &self.updates),
            "request": { "machines": machines, "totals": totals },
        })))
    }
}

fn program(instance: &Instance, sum: &SlotValues, updates: &Updates) -> Value {
    let (kind, size) = instance.binary();
    let (values, depth, entry) = (
        instance.counters.values(),
        instance.depth(),
        instance.entry(),
    );
    json!({
        "binary_type": kind.name(),
        "binary_size": size,
        "entry_points": {
            "on_recv": entry.address(Entry::Recv),
            "backend_get": entry.address(Entry::Get),
            "backend_post": entry.address(Entry::Post),
            "backend_method": entry.address(Entry::Request),
            "backend_stream": entry.address(Entry::StreamPost),
            "backend_error": entry.address(Entry::Error),
            "live_update_serialize": entry.address(Entry::LiveUpdate),
            "live_update_deserialize": entry.address(Entry::LiveRestore),
            "socket_pause_resume_api": entry.address(Entry::SocketPause),
        },
        "live_updates": updates.count(),
        "live_update_transfer_bytes": updates.transferred(),
        "reservation_time": seconds(sum.reservation_time),
        "reservation_timeouts": values.reservation_timeouts,
        "reservation_refused": values.reservation_refused,
        "machines_poisoned": values.poisoned,
        "machines_made": values.made,
        "machines_free": depth.free,
        "queue_length": depth.waiting,
    })
}

/// What a machine and the totals have in common.
fn both(slot: &SlotValues) -> Map<String, Value> {
    let value = json!({
        "invocations": slot.invocations,
        "resets": slot.resets,
        "resets_full": slot.resets_full,
        "exceptions": slot.exceptions,
        "timeouts": slot.timeouts,
        "reservation_time": seconds(slot.reservation_time),
        "reset_time": seconds(slot.reset_time),
        "request_cpu_time": seconds(slot.request_cpu_time),
        "exception_cpu_time": seconds(slot.exception_cpu_time),
        "input_bytes": slot.input_bytes,
        "output_bytes": slot.output_bytes,
        "status_2xx": slot.status_2xx,
        "status_3xx": slot.status_3xx,
        "status_4xx": slot.status_4xx,
        "status_5xx": slot.status_5xx,
        "kvm_runs": slot.kvm_runs,
        "interruptions": slot.interruptions,
        "ioctls": slot.ioctls,
        "system_calls": slot.system_calls,
        "guest_exceptions": slot.guest_exceptions,
        "dirty_pages": slot.dirty_pages,
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn one_machine(slot: &SlotValues) -> [(String, Value); 2] {
    [
        ("exception_oom".to_owned(), json!(slot.exception_oom)),
        ("exception_mem".to_owned(), json!(slot.exception_mem)),
    ]
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

/// Upstream sorts keys alphabetically.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(
                entries
                    .into_iter()
                    .map(|(key, value)| (key, sorted(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}
