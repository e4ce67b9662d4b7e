//! One loaded copy of a program: its frozen image, what it registered, its request VMs.
//!
//! ```text
//! boot main VM -> main() until it waits -> freeze -> fork `concurrency` slots -> serve -> retire
//! ```
//!
//! Guards: of an instance's slots each is in the pool, in a reservation, or counted as missing.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sandbox::{BootError, Fault, Host, HostError, Image, MainVm};

use crate::announce;
use crate::body::{self, BodyError};
use crate::detached::Room;
use crate::exchange::Severity;
use crate::figures;
use crate::hypercalls::{Desk, Entry, EntryPoints, MemoryLimits, Regexes};
use crate::journal;
use crate::launch::{Role, boot_config, memory_limits, run_main};
use crate::outgoing::FetchRule;
use crate::pool::{Busy, Depth, Pool};
use crate::program::Phase;
use crate::recipe::{BinaryKind, Recipe, Threads, Voice};
use crate::runner::{Errand, Runner};
use crate::slot::{Slot, State};
use crate::source::Binaries;
use crate::statistics::{InstanceCounters, SlotCounters};
use crate::storage::{HandOverError, Storage};
use crate::warming::Warmer;

/// How long no fork is tried after one failed.
const FORK_PAUSE: Duration = Duration::from_secs(1);

/// Why a program did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its binary could not be had.
    #[error("{0}")]
    Fetch(String),
    #[error("KVM cannot be used: {0}")]
    Host(#[from] HostError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error("main() did not get to waiting for requests: {told}")]
    Main { fault: Fault, told: String },
    /// Of the storage VM.
    #[error("its storage VM: {0}")]
    Storage(Box<StartError>),
    #[error(
        "its storage program starts at {entry:#x}: mapping storage into request VMs (from 1 GiB \
         on) is not supported; link it below, and use storage_call"
    )]
    RemoteStorage { entry: u64 },
    #[error("main() returned instead of waiting for requests")]
    DidNotWait,
    #[error(
        "main() waits for requests without a callback for them: set_backend_get(), \
         set_backend_post() or set_backend_request() comes before wait_for_requests()"
    )]
    NoCallback,
    #[error("no thread for a request VM: {0}")]
    Thread(io::Error),
    #[error("all its request VMs broke")]
    Lost,
    #[error("a failure of the host ended the start")]
    Panicked,
}

impl StartError {
    /// Whether another build of the program might have started.
    pub(crate) fn is_the_programs(&self) -> bool {
        match self {
            Self::Boot(error) => !matches!(error, BootError::Host(_)),
            Self::Main { .. }
            | Self::DidNotWait
            | Self::NoCallback
            | Self::RemoteStorage { .. } => true,
            Self::Storage(error) => error.is_the_programs(),
            Self::Fetch(_) | Self::Host(_) | Self::Thread(_) | Self::Lost | Self::Panicked => false,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Instance {
    name: String,
    image: Arc<Image>,
    entry: EntryPoints,
    regexes: Regexes,
    allowed_fetch: Arc<[FetchRule]>,
    storage: Option<Storage>,
    limits: MemoryLimits,
    max_request_time: Duration,
    ephemeral: bool,
    voice: Voice,
    own_threads: bool,
    binary: (BinaryKind, usize),
    pool: Pool<Box<Slot>>,
    missing: Mutex<Missing>,
    forking: AtomicBool,
    detached: Arc<Room>,
    slot_counters: Vec<Arc<SlotCounters>>,
    pub(crate) counters: Arc<InstanceCounters>,
}

/// Slots that the pool should have and has not.
#[derive(Debug)]
struct Missing {
    numbers: Vec<usize>,
    failed_at: Option<Instant>,
}

impl Instance {
    /// Starts a program. Runs as long as its `main()` does, on a thread of ours.
    pub(crate) fn start(
        recipe: &Recipe,
        binaries: &Binaries,
        threads: Threads,
        reached: &dyn Fn(Phase),
    ) -> Result<Arc<Self>, StartError> {
        let host = Host::open()?;
        let elf = binaries.request.as_slice();
        let own_threads = match threads {
            Threads::AsHostLikes => !host.facts().thread_change_is_cheap(),
            Threads::Callers => false,
            Threads::Own => true,
        };
        // First: `main()` of the VM for requests may already call it.
        let storage = match recipe.storage {
            true => Some(Storage::start(&host, recipe, binaries)?),
            false => None,
        };
        let config = boot_config(recipe, Role::Request);
        let limits = memory_limits(&config);
        let boot = || -> Result<_, StartError> {
            let mut main = MainVm::boot(&host, elf, &config)?;
            let (entry, desk) = run_main(&mut main, recipe, &limits, None, storage.as_ref())?;
            Ok((main, entry, desk))
        };
        let (mut main, mut entry, mut desk) = boot()?;
        if let Some(warming) = recipe
            .warmup
            .as_ref()
            .filter(|warming| warming.requests > 0)
        {
            reached(Phase::Warming);
            let mut warmer = Warmer {
                warming,
                entry: &mut entry,
                desk: &mut desk,
                limits: &limits,
                storage: storage.as_ref(),
                max_request_time: recipe.max_request_time,
                max_time: recipe.max_boot_time,
            };
            match warmer.run(&mut main) {
                Ok(count) => {
                    let line = format!("warmed up with {count} requests");
                    journal::say(Severity::Info, &recipe.name, line.as_bytes());
                }
                Err(cold) => {
                    let line = format!("goes without warming up: {cold}");
                    journal::say(Severity::Error, &recipe.name, line.as_bytes());
                    drop(main);
                    (main, entry, desk) = boot()?;
                }
            }
        }
        if main.wants_executable_stack() {
            let line = b"asks for an executable stack and does not get one";
            journal::say(Severity::Info, &recipe.name, line);
        }
        let ephemeral = entry.ephemeral().unwrap_or(recipe.ephemeral);
        let image = main.freeze()?;
        if let Some(storage) = &storage {
            let same_binary = binaries.storage.is_none();
            storage.learn(same_binary.then_some(&entry));
            if same_binary {
                entry.take_over(storage.shared().entry(), |at| image.is_code(at));
            }
        }
        // With a storage VM it may have work all the same.
        if !entry.answers() && storage.is_none() {
            return Err(StartError::NoCallback);
        }
        announce::started(recipe, &image, &entry, ephemeral);
        reached(Phase::Frozen);

        let concurrency = recipe.concurrency.max(1);
        let instance = Arc::new(Self {
            name: recipe.name.clone(),
            image,
            entry,
            regexes: desk.regexes,
            storage,
            allowed_fetch: desk.allowed_fetch,
            limits,
            max_request_time: recipe.max_request_time,
            ephemeral,
            voice: recipe.voice,
            own_threads,
            binary: (BinaryKind::of(elf), elf.len()),
            pool: Pool::new(concurrency, recipe.max_waiting),
            missing: Mutex::new(Missing {
                numbers: (1..concurrency).rev().collect(),
                failed_at: None,
            }),
            forking: AtomicBool::new(false),
            detached: Arc::new(Room::for_one()),
            slot_counters: (0..concurrency).map(|_| Arc::default()).collect(),
            counters: Arc::default(),
        });
        figures::open(&instance);
        // Without a first VM there is no program; further ones may fail and come later.
        let _pool_is_open = instance.pool.give(instance.fork(0)?);
        instance.replenish();
        Ok(instance)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn entry(&self) -> &EntryPoints {
        &self.entry
    }

    pub(crate) fn limits(&self) -> &MemoryLimits {
        &self.limits
    }

    /// Whether request VMs are reset after each request.
    pub(crate) fn is_ephemeral(&self) -> bool {
        self.ephemeral
    }

    pub(crate) fn max_request_time(&self) -> Duration {
        self.max_request_time
    }

    pub(crate) fn storage(&self) -> Option<&Storage> {
        self.storage.as_ref()
    }

    /// Moves the state of this instance's storage to another instance, by both programs' own
    /// callbacks: how many bytes. Nothing where one side has no storage or no callback.
    pub(crate) fn hand_over(&self, to: &Self) -> Result<Option<usize>, HandOverError> {
        match (&self.storage, &to.storage) {
            (Some(from), Some(to)) => from.hand_over(to),
            _ => Ok(None),
        }
    }

    /// Whether a request body may have that length, as far as that is known without a VM.
    pub(crate) fn check_body(&self, len: u64) -> Result<(), BodyError> {
        match self.entry.get(Entry::StreamPost) {
            Some(_) => Ok(()),
            None => body::check(len, self.max_body()).map(drop),
        }
    }

    /// Room for answers that have no VM any more.
    pub(crate) fn detached(&self) -> &Arc<Room> {
        &self.detached
    }

    /// What a request body may have.
    pub(crate) fn max_body(&self) -> u64 {
        self.limits.max_request_memory
    }

    pub(crate) fn binary(&self) -> (BinaryKind, usize) {
        self.binary
    }

    pub(crate) fn slot_counters(&self) -> &[Arc<SlotCounters>] {
        &self.slot_counters
    }

    /// Memory that the image takes, once for all request VMs.
    pub(crate) fn image_bytes(&self) -> u64 {
        self.image.bytes()
    }

    pub(crate) fn depth(&self) -> Depth {
        self.pool.depth()
    }

    /// A slot without waiting.
    pub(crate) fn try_take(&self) -> Option<Box<Slot>> {
        self.pool.try_take()
    }

    /// A slot, after waiting if need be. Who was `let_in` before, to wait for the program or for an
    /// instance that was replaced, has its place in the queue for certain.
    pub(crate) fn take(
        self: &Arc<Self>,
        patience: Duration,
        let_in: bool,
    ) -> Result<Box<Slot>, Busy> {
        self.replace_missing();
        let begun = Instant::now();
        let result = if let_in {
            self.pool.take_after_waiting(patience)
        } else {
            self.pool.take(patience)
        };
        match &result {
            Ok(slot) => slot.counters.reservation_time.add_time(begun.elapsed()),
            Err(Busy::TimedOut) => self.counters.reservation_timeouts.add(1),
            Err(Busy::QueueFull | Busy::Closed) => {}
        }
        result
    }

    /// Wipes a slot whose reservation is over and puts it back, or throws it away and has another
    /// one made.
    pub(crate) fn take_back(self: &Arc<Self>, mut slot: Box<Slot>) {
        let why = match slot.state {
            State::Ready => None,
            State::Poisoned => Some("it broke".to_owned()),
            State::Loaded | State::Served | State::Spent => {
                match catch_unwind(AssertUnwindSafe(|| slot.renew(self))) {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_reported_by_the_hook) => Some("a failure of the host".to_owned()),
                }
            }
        };
        let gone = match why {
            None => match self.pool.give(slot) {
                Ok(()) => return,
                Err(slot) => slot,
            },
            Some(why) => {
                self.counters.poisoned.add(1);
                self.missing.lock().numbers.push(slot.number());
                let line = format!("request VM {} is thrown away: {why}", slot.number());
                journal::say(Severity::Error, &self.name, line.as_bytes());
                slot
            }
        };
        self.replace(Some(gone));
    }

    /// Takes no more requests. Those that wait are told; those that run finish.
    pub(crate) fn retire(&self) {
        drop(self.pool.close());
        if let Some(storage) = &self.storage {
            storage.retire();
        }
    }

    fn fork(&self, number: usize) -> Result<Box<Slot>, StartError> {
        let runner = if self.own_threads {
            let name = format!("tinykvm-vm-{number}");
            Some(Runner::start(&name).map_err(StartError::Thread)?)
        } else {
            None
        };
        // A virtual CPU belongs to the thread that made it as much as to those that run it.
        let vm = match &runner {
            Some(runner) => runner.orders().run(|| self.image.fork()),
            None => Some(self.image.fork()),
        };
        let vm = vm.ok_or(StartError::Panicked)??;
        self.counters.made.add(1);
        let desk = Desk {
            regexes: self.regexes.fork(),
            allowed_fetch: Arc::clone(&self.allowed_fetch),
            voice: self.voice,
            program: self.name.as_str().into(),
            ..Desk::default()
        };
        let counters = self
            .slot_counters
            .get(number)
            .map(Arc::clone)
            .unwrap_or_default();
        Ok(Box::new(Slot::new(number, vm, desk, counters, runner)))
    }

    /// Forks what is missing, on this thread, unless another one is at it.
    fn replenish(&self) {
        let mut go_on = true;
        while go_on && !self.forking.swap(true, Ordering::AcqRel) {
            go_on = self.fork_missing();
            self.forking.store(false, Ordering::Release);
            // Whoever lost a slot in between saw that someone forks and left it to us.
            go_on = go_on && !self.missing.lock().numbers.is_empty();
        }
    }

    /// Whether all that was missing is there.
    fn fork_missing(&self) -> bool {
        loop {
            let Some(number) = self.missing.lock().numbers.pop() else {
                return true;
            };
            let made = catch_unwind(AssertUnwindSafe(|| self.fork(number)));
            match made.unwrap_or(Err(StartError::Panicked)) {
                Ok(slot) => {
                    if self.pool.give(slot).is_err() {
                        return false;
                    }
                }
                Err(error) => {
                    let line = format!("request VM {number} could not be made: {error}");
                    journal::say(Severity::Error, &self.name, line.as_bytes());
                    let mut missing = self.missing.lock();
                    missing.numbers.push(number);
                    missing.failed_at = Some(Instant::now());
                    let none_left = missing.numbers.len() == self.slot_counters.len();
                    drop(missing);
                    if none_left {
                        self.retire();
                    }
                    return false;
                }
            }
        }
    }

    /// Forks what is missing, on a thread of its own. `gone` is dropped there too: closing a VM
    /// is nothing for a thread that serves requests.
    fn replace(self: &Arc<Self>, gone: Option<Box<Slot>>) {
        let instance = Arc::clone(self);
        let work = move || {
            drop(gone);
            instance.replenish();
        };
        let spawned = thread::Builder::new()
            .name("tinykvm-fork".to_owned())
            .spawn(work);
        if let Err(error) = spawned {
            self.missing.lock().failed_at = Some(Instant::now());
            let line = format!("no thread to make request VMs: {error}");
            journal::say(Severity::Error, &self.name, line.as_bytes());
        }
    }

    fn replace_missing(self: &Arc<Self>) {
        let due = {
            let missing = self.missing.lock();
            let paused = missing
                .failed_at
                .is_some_and(|at| at.elapsed() < FORK_PAUSE);
            !missing.numbers.is_empty() && !paused
        };
        if due && !self.forking.load(Ordering::Relaxed) {
            self.replace(None);
        }
    }
}

/// A slot whose reservation is over, on the way to the thread that wipes it.
pub(crate) struct Retired {
    slot: Box<Slot>,
    instance: Arc<Instance>,
}

impl Retired {
    pub(crate) fn new(slot: Box<Slot>, instance: Arc<Instance>) -> Self {
        Self { slot, instance }
    }
}

impl Errand for Retired {
    fn run(self) {
        self.instance.take_back(self.slot);
    }
}
