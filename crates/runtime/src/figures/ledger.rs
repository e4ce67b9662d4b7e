//! The figures of all programs of the process, by name, and of the process.
//!
//! Guards: a sum never goes down while something of that name is in use. What an instance has
//! counted outlives it; what a name has counted outlives the name in the process's own sum.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;

use super::{Now, Reading, TABLE};
use crate::instance::Instance;
use crate::outgoing;
use crate::statistics::{
    InstanceCounters, PROCESS, ProgramCounters, SlotCounters, StorageCounters,
};

static LEDGER: LazyLock<Mutex<Ledger>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Ledger {
    accounts: BTreeMap<String, Arc<Account>>,
    /// Of names that nobody uses any more.
    gone: Reading,
}

/// What programs of one name have done. Each of them holds it.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) counters: ProgramCounters,
    instances: Mutex<Instances>,
}

#[derive(Debug, Default)]
struct Instances {
    live: Vec<Live>,
    gone: Reading,
}

#[derive(Debug)]
struct Live {
    instance: Weak<Instance>,
    slots: Vec<Arc<SlotCounters>>,
    counters: Arc<InstanceCounters>,
    storage: Option<Arc<StorageCounters>>,
}

impl Live {
    fn reading(&self) -> Reading {
        let mut reading = Reading {
            instance: self.counters.values(),
            storage: self
                .storage
                .as_ref()
                .map(|storage| storage.values())
                .unwrap_or_default(),
            ..Reading::default()
        };
        for slot in &self.slots {
            reading.slots.add(&slot.values());
        }
        if let Some(instance) = self.instance.upgrade() {
            reading.now = now(&instance);
        } else {
            // Levels of what is no more.
            reading.slots.memory = 0;
        }
        reading
    }
}

/// How things are with an instance.
pub(crate) fn now(instance: &Instance) -> Now {
    let depth = instance.depth();
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    Now {
        queue_length: number(depth.waiting),
        machines: number(instance.slot_counters().len()),
        machines_free: number(depth.free),
        image_bytes: instance.image_bytes(),
    }
}

impl Account {
    fn reading(&self) -> Reading {
        let mut instances = self.instances.lock();
        let Instances { live, gone } = &mut *instances;
        live.retain(|live| {
            let ended = live.instance.strong_count() == 0;
            if ended {
                gone.add(&live.reading());
            }
            !ended
        });
        let mut sum = *gone;
        sum.program = self.counters.values();
        for live in live.iter() {
            sum.add(&live.reading());
        }
        sum
    }
}

impl Ledger {
    /// Lets go of names that nobody uses, and reads the others.
    fn read(&mut self) -> BTreeMap<String, Reading> {
        let Self { accounts, gone } = self;
        accounts.retain(|_, account| {
            // Nobody can take a reference meanwhile: the ledger is locked.
            let unused = Arc::strong_count(account) == 1;
            let reading = account.reading();
            let ended = unused && account.instances.lock().live.is_empty();
            if ended {
                gone.add(&reading);
            }
            !ended
        });
        accounts
            .iter()
            .map(|(name, account)| (name.clone(), account.reading()))
            .collect()
    }
}

/// The account of programs of that name.
pub(crate) fn account(program: &str) -> Arc<Account> {
    let mut ledger = LEDGER.lock();
    let account = ledger
        .accounts
        .entry(program.to_owned())
        .or_insert_with(|| {
            Arc::new(Account {
                counters: ProgramCounters::default(),
                instances: Mutex::default(),
            })
        });
    Arc::clone(account)
}

/// Counts an instance in from now on.
pub(crate) fn open(instance: &Arc<Instance>) {
    let account = account(instance.name());
    // Readings let go of what has ended; where nobody reads, this does.
    let _reading = account.reading();
    account.instances.lock().live.push(Live {
        instance: Arc::downgrade(instance),
        slots: instance.slot_counters().to_vec(),
        counters: Arc::clone(&instance.counters),
        storage: instance
            .storage()
            .map(|storage| Arc::clone(storage.shared().counters())),
    });
}

/// Everything: by program, and of the process with all its programs, present and past.
pub(super) fn read() -> (Reading, BTreeMap<String, Reading>) {
    let (programs, gone) = {
        let mut ledger = LEDGER.lock();
        (ledger.read(), ledger.gone)
    };
    let mut sum = gone;
    for reading in programs.values() {
        sum.add(reading);
    }
    sum.process = PROCESS.values();
    sum.outgoing = outgoing::values();
    (sum, programs)
}

/// The values of one set of `varnishstat` counters, in the order of its description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// `None`: the process.
    pub program: Option<String>,
    pub values: Vec<u64>,
}

/// The process's segment first, then one for each program.
pub fn segments() -> Vec<Segment> {
    let (process, programs) = read();
    let values = |reading: &Reading, of_process: bool| {
        TABLE
            .iter()
            .filter(|figure| !figure.vsc.is_empty() && (of_process || !figure.is_of_process()))
            .map(|figure| figure.vsc_value(reading))
            .collect()
    };
    let mut segments = vec![Segment {
        program: None,
        values: values(&process, true),
    }];
    segments.extend(programs.iter().map(|(name, reading)| Segment {
        program: Some(name.clone()),
        values: values(reading, false),
    }));
    segments
}
