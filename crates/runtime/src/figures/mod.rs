//! Figures for operators: what is counted, under which name each way of looking shows it, and the
//! sums over instances.
//!
//! `table` is the only place with names and help texts. `stats()`, the counters of `varnishstat`,
//! the Prometheus text and the tables of `docs/operations.md` are made from it.

mod describe;
mod ledger;
mod prometheus;
mod table;

use crate::statistics::{
    InstanceValues, OutgoingValues, ProcessValues, ProgramValues, SlotValues, StorageValues,
};

pub use describe::{PROCESS_SEGMENT, PROGRAM_SEGMENT, documentation, vsc_source};
pub(crate) use ledger::{Account, account, now, open};
pub use ledger::{Segment, segments};
pub(crate) use prometheus::text;
pub(crate) use table::{Place, TABLE};

/// Everything that figures are read from, at one moment: of a slot, a program or the process.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) process: ProcessValues,
    pub(crate) outgoing: OutgoingValues,
    pub(crate) program: ProgramValues,
    pub(crate) instance: InstanceValues,
    pub(crate) slots: SlotValues,
    pub(crate) storage: StorageValues,
    pub(crate) now: Now,
}

/// What is so now, and is no sum over time.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) queue_length: u64,
    pub(crate) machines: u64,
    pub(crate) machines_free: u64,
    pub(crate) image_bytes: u64,
}

impl Reading {
    fn add(&mut self, other: &Self) {
        let Self {
            process,
            outgoing,
            program,
            instance,
            slots,
            storage,
            now,
        } = other;
        self.process.add(process);
        self.outgoing.add(outgoing);
        self.program.add(program);
        self.instance.add(instance);
        self.slots.add(slots);
        self.storage.add(storage);
        self.now.add(now);
    }
}

impl Now {
    fn add(&mut self, other: &Self) {
        let Self {
            queue_length,
            machines,
            machines_free,
            image_bytes,
        } = other;
        self.queue_length = self.queue_length.saturating_add(*queue_length);
        self.machines = self.machines.saturating_add(*machines);
        self.machines_free = self.machines_free.saturating_add(*machines_free);
        self.image_bytes = self.image_bytes.saturating_add(*image_bytes);
    }
}

/// What kind of number a figure is. Times are read in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Count,
    Bytes,
    Time,
    Level,
    LevelBytes,
}

impl Kind {
    pub(crate) fn is_level(self) -> bool {
        matches!(self, Self::Level | Self::LevelBytes)
    }
}

/// One figure and its names. An empty name: this way of looking does not show it.
#[derive(Debug)]
pub(crate) struct Figure {
    /// The key in `stats()`, and where.
    pub(crate) key: &'static str,
    pub(crate) place: Place,
    /// The counter of `varnishstat`.
    pub(crate) vsc: &'static str,
    /// The Prometheus metric, and a label that tells it from others of the same name.
    pub(crate) metric: &'static str,
    pub(crate) label: &'static str,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
    pub(crate) read: fn(&Reading) -> u64,
}

impl Figure {
    pub(crate) fn is_time(&self) -> bool {
        self.kind == Kind::Time
    }

    /// Whether the figure is about the process and not about programs.
    pub(crate) fn is_of_process(&self) -> bool {
        self.place == Place::Process
    }

    /// The value as `varnishstat` shows it: times whole seconds, or what the name ends in.
    fn vsc_value(&self, reading: &Reading) -> u64 {
        let value = (self.read)(reading);
        match self.kind {
            Kind::Time if self.vsc.ends_with("_us") => value / 1_000,
            Kind::Time => value / 1_000_000_000,
            _ => value,
        }
    }
}

#[cfg(test)]
mod tests;
