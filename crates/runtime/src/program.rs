//! A program by its name: loaded on first use, replaced when told to, tried again after a failed
//! start.
//!
//! ```text
//! Unloaded --first use, start--> Loading --> Serving --unload--> Unloaded
//!                                   \--> Failed --start; after a pause that doubles, next use--> Loading
//! any of these --live update--> Serving
//! ```
//!
//! Guards: one thread loads; callers wait for it no longer than their patience, and no more of them
//! than could wait for a VM; an instance that is replaced serves its running requests to the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::body::BodyError;
use crate::exchange::{Deadline, Limit, Severity};
use crate::figures::{self, Account};
use crate::instance::{Instance, StartError};
use crate::journal;
use crate::pool::Busy;
use crate::recipe::{Patience, Source, Threads};
use crate::reload::Reloads;
use crate::reservation::Reservation;
use crate::statistics::ProgramCounters;
use crate::update::Updates;

/// The pause after a first failed start, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Where a program is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nobody has needed it yet, or it was unloaded.
    Unloaded,
    /// Its binary is fetched, its `main()` runs.
    Loading,
    /// It answers requests of ours, to fill its caches.
    Warming,
    /// It waits for requests; request VMs are being made.
    Frozen,
    Serving,
    Failed,
}

impl Phase {
    fn is_loading(self) -> bool {
        matches!(self, Self::Loading | Self::Warming | Self::Frozen)
    }
}

/// Why there is no request VM for a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    #[error("program {program} did not start: {reason}")]
    NotStarted { program: String, reason: Arc<str> },
    #[error("program {program} has been starting for {waited:.1?}, longer than {limit}")]
    StillLoading {
        program: String,
        waited: Duration,
        limit: Limit,
    },
    #[error(
        "program {program}: no request VM became free within {waited:.1?} ({limit}); raise concurrency"
    )]
    TimedOut {
        program: String,
        waited: Duration,
        limit: Limit,
    },
    #[error(
        "program {program}: no request VM became free within {waited:.1?}, longer than the program waits that asked for this; a program that asks for itself needs more concurrency"
    )]
    CallerLeft { program: String, waited: Duration },
    #[error(
        "program {program}: too many requests wait for a request VM (max_queue_length); raise concurrency"
    )]
    QueueFull { program: String },
    #[error(
        "program {program} is starting, and as many requests wait as it takes in when it serves (concurrency and max_queue_length)"
    )]
    TooManyForStart { program: String },
}

/// One named program.
pub struct Program {
    name: String,
    source: Box<dyn Source>,
    threads: Threads,
    patience: Patience,
    account: Arc<Account>,
    /// The next load waits for gdb.
    debug_start: AtomicBool,
    current: RwLock<Option<Arc<Instance>>>,
    life: Mutex<Life>,
    changed: Condvar,
    pub(crate) updates: Updates,
    pub(crate) reloads: Reloads,
}

struct Life {
    phase: Phase,
    /// Counts unloads and live updates, so that a load that was overtaken by one is not used.
    round: u64,
    /// There is a thread that loads.
    loading: bool,
    /// Callers who wait for an instance.
    waiting: usize,
    failures: u32,
    /// After a failed start: why, and when to try again.
    failed: Option<(Arc<str>, Instant)>,
}

impl Program {
    pub fn new(name: &str, source: Box<dyn Source>) -> Arc<Self> {
        Self::with(name, source, Threads::default(), Patience::default())
    }

    /// As `new`, with the choice of threads and the callers' patience.
    pub fn with(
        name: &str,
        source: Box<dyn Source>,
        threads: Threads,
        patience: Patience,
    ) -> Arc<Self> {
        let life = Life {
            phase: Phase::Unloaded,
            round: 0,
            loading: false,
            waiting: 0,
            failures: 0,
            failed: None,
        };
        Arc::new(Self {
            name: name.to_owned(),
            source,
            threads,
            patience,
            account: figures::account(name),
            debug_start: AtomicBool::new(false),
            current: RwLock::new(None),
            life: Mutex::new(life),
            changed: Condvar::new(),
            updates: Updates::default(),
            reloads: Reloads::default(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What programs of this name have done, whichever instance served.
    pub(crate) fn counters(&self) -> &ProgramCounters {
        &self.account.counters
    }

    pub fn phase(&self) -> Phase {
        self.life.lock().phase
    }

    /// Why the last start failed, until one succeeds.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.life
            .lock()
            .failed
            .as_ref()
            .map(|(reason, _)| Arc::clone(reason))
    }

    /// As `start`; the load waits for gdb before the program's first instruction.
    pub fn start_debugged(self: &Arc<Self>) {
        self.debug_start.store(true, Ordering::Relaxed);
        self.start();
    }

    /// Begins to load the program if nobody has, and does not wait for it. After a failure there is no
    /// pause for an order.
    pub fn start(self: &Arc<Self>) {
        let mut life = self.life.lock();
        if matches!(life.phase, Phase::Unloaded | Phase::Failed) {
            self.begin(&mut life);
        }
    }

    /// Drops the loaded instance: running requests finish on it, the next one loads a new one.
    /// One with storage goes on until its successor has started and taken its state over.
    pub fn unload(self: &Arc<Self>) {
        if self.keeps_state() {
            return self.reload(None);
        }
        let old = {
            let mut life = self.life.lock();
            life.round += 1;
            life.failures = 0;
            life.failed = None;
            if matches!(life.phase, Phase::Serving | Phase::Failed) {
                life.phase = Phase::Unloaded;
            }
            self.current.write().take()
        };
        if let Some(old) = old {
            discard(old);
        }
    }

    /// A request VM for one request. Waits for the program to start and for a VM to be free.
    pub fn reserve(self: &Arc<Self>) -> Result<Reservation, ReserveError> {
        self.reserve_before(None)
    }

    /// As `reserve`, for a caller who does not wait beyond `deadline`.
    pub fn reserve_before(
        self: &Arc<Self>,
        deadline: Option<Deadline>,
    ) -> Result<Reservation, ReserveError> {
        match self.try_reserve() {
            Some(reservation) => Ok(reservation),
            None => self.reserve_patiently(deadline),
        }
    }

    /// A request VM, if the program is loaded and one is free.
    pub fn try_reserve(&self) -> Option<Reservation> {
        let instance = self.current.read().clone()?;
        let slot = instance.try_take()?;
        Some(Reservation::new(slot, instance))
    }

    /// Whether the program may get a body of that length, as far as that is known without a VM.
    pub(crate) fn check_body(&self, len: u64) -> Result<(), BodyError> {
        let instance = self.current.read().clone();
        instance.map_or(Ok(()), |instance| instance.check_body(len))
    }

    fn reserve_patiently(
        self: &Arc<Self>,
        callers: Option<Deadline>,
    ) -> Result<Reservation, ReserveError> {
        let begun = Instant::now();
        let deadline = self.patient_until(begun, callers);
        let program = || self.name.clone();
        let mut let_in = false;
        loop {
            let instance = self.instance(begun, deadline, &mut let_in)?;
            let left = deadline.at.saturating_duration_since(Instant::now());
            match instance.take(left, let_in) {
                Ok(slot) => return Ok(Reservation::new(slot, instance)),
                Err(Busy::QueueFull) => {
                    self.counters().reservation_refused.add(1);
                    return Err(ReserveError::QueueFull { program: program() });
                }
                Err(Busy::TimedOut) => {
                    let (program, waited) = (program(), begun.elapsed());
                    return Err(match deadline.limit {
                        Limit::Asker => ReserveError::CallerLeft { program, waited },
                        limit => ReserveError::TimedOut {
                            program,
                            waited,
                            limit,
                        },
                    });
                }
                Err(Busy::Closed) => {
                    let_in = true;
                    self.forget(&instance);
                }
            }
        }
    }

    /// Waits for the program to serve, whether or not one of its VMs is free, and however many
    /// requests wait: this is for vcl_init.
    pub fn await_serving(self: &Arc<Self>, callers: Option<Deadline>) -> Result<(), ReserveError> {
        let begun = Instant::now();
        self.instance(begun, self.patient_until(begun, callers), &mut true)
            .map(drop)
    }

    fn patient_until(&self, begun: Instant, callers: Option<Deadline>) -> Deadline {
        let ours = Deadline {
            at: begun + self.patience.time,
            limit: Limit::MaxQueueTime,
        };
        ours.or_earlier(callers)
    }

    /// The current instance, loaded if need be. Who has to wait for it is `let_in` from then on.
    fn instance(
        self: &Arc<Self>,
        begun: Instant,
        deadline: Deadline,
        let_in: &mut bool,
    ) -> Result<Arc<Instance>, ReserveError> {
        let mut life = self.life.lock();
        loop {
            if let Some(instance) = self.current.read().clone() {
                return Ok(instance);
            }
            match (life.phase, &life.failed) {
                (Phase::Failed, Some((reason, again))) if Instant::now() < *again => {
                    let reason = Arc::clone(reason);
                    return Err(ReserveError::NotStarted {
                        program: self.name.clone(),
                        reason,
                    });
                }
                (phase, _) if phase.is_loading() => {}
                _ => {
                    self.begin(&mut life);
                    continue;
                }
            }
            if !*let_in && life.waiting >= self.patience.callers {
                self.counters().reservation_refused.add(1);
                let program = self.name.clone();
                return Err(ReserveError::TooManyForStart { program });
            }
            *let_in = true;
            life.waiting += 1;
            let waited = self.changed.wait_until(&mut life, deadline.at);
            life.waiting -= 1;
            if waited.timed_out() {
                let (program, waited) = (self.name.clone(), begun.elapsed());
                let limit = deadline.limit;
                return Err(ReserveError::StillLoading {
                    program,
                    waited,
                    limit,
                });
            }
        }
    }

    /// Has a thread load the program.
    fn begin(self: &Arc<Self>, life: &mut Life) {
        life.phase = Phase::Loading;
        // One that was overtaken sees that it is wanted again.
        if std::mem::replace(&mut life.loading, true) {
            return;
        }
        let program = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name("tinykvm-load".to_owned())
            .spawn(move || program.load());
        if let Err(error) = spawned {
            life.loading = false;
            self.fail(life, &StartError::Thread(error));
        }
    }

    fn load(self: Arc<Self>) {
        loop {
            let round = self.life.lock().round;
            let begun = Instant::now();
            let result = catch_unwind(AssertUnwindSafe(|| self.load_once(round)))
                .unwrap_or(Err(StartError::Panicked));
            let mut life = self.life.lock();
            if life.round != round {
                // Unloaded meanwhile: what was loaded may be of yesterday. Or updated: what was
                // loaded is.
                let wanted = life.phase.is_loading();
                life.loading = wanted;
                if wanted {
                    life.phase = Phase::Loading;
                }
                drop(life);
                if let Ok(instance) = result {
                    instance.retire();
                }
                if wanted {
                    continue;
                }
                return;
            }
            life.loading = false;
            match result {
                Ok(instance) => {
                    life.phase = Phase::Serving;
                    life.failures = 0;
                    life.failed = None;
                    *self.current.write() = Some(instance);
                    let line = format!("started in {:.1?}", begun.elapsed());
                    journal::say(Severity::Info, &self.name, line.as_bytes());
                }
                Err(error) => self.fail(&mut life, &error),
            }
            self.changed.notify_all();
            return;
        }
    }

    fn load_once(&self, round: u64) -> Result<Arc<Instance>, StartError> {
        let mut recipe = self.source.recipe().map_err(StartError::Fetch)?;
        recipe.debugging.at_start = self.debug_start.swap(false, Ordering::Relaxed);
        let binaries = self.source.binaries().map_err(StartError::Fetch)?;
        Instance::start(&recipe, &binaries, self.threads, &|phase| {
            let mut life = self.life.lock();
            if life.round == round {
                life.phase = phase;
            }
        })
    }

    fn fail(&self, life: &mut Life, error: &StartError) {
        let pause = FIRST_PAUSE
            .saturating_mul(1 << life.failures.min(6))
            .min(LONGEST_PAUSE);
        life.failures = life.failures.saturating_add(1);
        life.phase = Phase::Failed;
        let reason: Arc<str> = error.to_string().into();
        let line = format!("did not start: {reason}; next attempt in {pause:?} at the earliest");
        journal::say(Severity::Error, &self.name, line.as_bytes());
        life.failed = Some((reason, Instant::now() + pause));
    }

    /// Drops an instance that has lost all its VMs.
    fn forget(&self, lost: &Arc<Instance>) {
        let mut life = self.life.lock();
        let mut current = self.current.write();
        if current
            .as_ref()
            .is_some_and(|instance| Arc::ptr_eq(instance, lost))
        {
            *current = None;
            self.fail(&mut life, &StartError::Lost);
        }
    }

    /// Makes an instance that a live update has started the one that serves, whatever the program
    /// was doing. The old one finishes its requests, and those who waited for one of its VMs get
    /// one of the new.
    pub(crate) fn install(&self, fresh: Arc<Instance>) {
        let old = {
            let mut life = self.life.lock();
            life.round += 1;
            life.phase = Phase::Serving;
            life.failures = 0;
            life.failed = None;
            self.current.write().replace(fresh)
        };
        self.changed.notify_all();
        if let Some(old) = old {
            if let Some(storage) = old.storage() {
                storage.retire();
            }
            discard(old);
        }
    }

    pub(crate) fn source(&self) -> &dyn Source {
        &*self.source
    }

    pub(crate) fn threads(&self) -> Threads {
        self.threads
    }

    pub(crate) fn patience(&self) -> Patience {
        self.patience
    }

    /// The instance that serves, if one does.
    pub(crate) fn current(&self) -> Option<Arc<Instance>> {
        self.current.read().clone()
    }
}

/// Ends an instance on a thread of its own: closing VMs is nothing for a thread with other work.
fn discard(old: Arc<Instance>) {
    let shared = Arc::clone(&old);
    let spawned = thread::Builder::new()
        .name("tinykvm-drop".to_owned())
        .spawn(move || {
            shared.retire();
            drop(shared);
        });
    if spawned.is_err() {
        old.retire();
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
