//! What `stats()` tells about a program: upstream's keys and some more. Which figures there are
//! and what they are called stands in `figures/table.rs`.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::figures::{Place, Reading, TABLE, now};
use crate::hypercalls::{Entry, MemoryLimits};
use crate::instance::Instance;
use crate::program::Program;
use crate::statistics::SlotValues;
use crate::storage::Shared;
use crate::update::Updates;

impl Program {
    /// The statistics of the loaded instance; nothing where there is none.
    pub fn statistics(&self) -> Option<Value> {
        let instance = self.current()?;
        let slots: Vec<SlotValues> = instance
            .slot_counters()
            .iter()
            .map(|counters| counters.values())
            .collect();
        let mut reading = Reading {
            program: self.counters().values(),
            instance: instance.counters.values(),
            now: now(&instance),
            ..Reading::default()
        };
        for slot in &slots {
            reading.slots.add(slot);
        }
        let machines: Vec<Value> = slots
            .iter()
            .map(|slot| machine(slot, instance.limits()))
            .collect();
        let mut all = json!({
            "program": program(&instance, &reading, &self.updates),
            "request": {
                "machines": machines,
                "totals": figures(&reading, &[Place::Both, Place::Totals]),
            },
        });
        if let (Some(of_storage), Some(all)) = (instance.storage(), all.as_object_mut()) {
            // Upstream's is an array, too.
            all.insert("storage".to_owned(), json!([storage(of_storage.shared())]));
        }
        Some(sorted(all))
    }
}

fn program(instance: &Instance, reading: &Reading, updates: &Updates) -> Value {
    let (kind, size) = instance.binary();
    let entry = instance.entry();
    let mut all = figures(reading, &[Place::Program]);
    all.insert("binary_type".to_owned(), json!(kind.name()));
    all.insert("binary_size".to_owned(), json!(size));
    all.insert("live_updates".to_owned(), json!(updates.count()));
    let transferred = json!(updates.transferred());
    all.insert("live_update_transfer_bytes".to_owned(), transferred);
    let entry_points = json!({
        "on_recv": entry.address(Entry::Recv),
        "backend_get": entry.address(Entry::Get),
        "backend_post": entry.address(Entry::Post),
        "backend_method": entry.address(Entry::Request),
        "backend_stream": entry.address(Entry::StreamPost),
        "backend_error": entry.address(Entry::Error),
        "live_update_serialize": entry.address(Entry::LiveUpdate),
        "live_update_deserialize": entry.address(Entry::LiveRestore),
        "socket_pause_resume_api": entry.address(Entry::SocketPause),
    });
    all.insert("entry_points".to_owned(), entry_points);
    Value::Object(all)
}

fn storage(storage: &Shared) -> Value {
    let reading = Reading {
        slots: storage.machine().values(),
        storage: storage.counters().values(),
        ..Reading::default()
    };
    let mut machine = of_machine(&reading, storage.limits());
    machine.extend(figures(&reading, &[Place::Storage]));
    let depth = storage.depth();
    for (key, value) in [
        ("tasks_queued", json!(depth.waiting)),
        ("tasks_inschedule", json!(depth.most_timers)),
        ("timers", json!(depth.timers)),
        ("busy", json!(depth.busy)),
    ] {
        machine.insert(key.to_owned(), value);
    }
    Value::Object(machine)
}

fn machine(slot: &SlotValues, limits: &MemoryLimits) -> Value {
    let reading = Reading {
        slots: *slot,
        ..Reading::default()
    };
    Value::Object(of_machine(&reading, limits))
}

/// One VM: a request VM, or the storage VM.
fn of_machine(reading: &Reading, limits: &MemoryLimits) -> Map<String, Value> {
    let mut machine = figures(reading, &[Place::Both, Place::Machine]);
    for (key, value) in [
        ("vm_address_space", limits.address_space),
        ("vm_main_memory", limits.max_memory),
        ("vm_bank_capacity", limits.max_request_memory),
        // Requests queue for the program, not for one of its VMs.
        ("tasks_queued", 0),
    ] {
        machine.insert(key.to_owned(), json!(value));
    }
    machine
}

fn figures(reading: &Reading, places: &[Place]) -> Map<String, Value> {
    TABLE
        .iter()
        .filter(|figure| places.contains(&figure.place))
        .map(|figure| {
            let value = (figure.read)(reading);
            let value = if figure.is_time() {
                json!(Duration::from_nanos(value).as_secs_f64())
            } else {
                json!(value)
            };
            (figure.key.to_owned(), value)
        })
        .collect()
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
