//! A program with storage that is told to load anew: what runs goes on until its successor has
//! started and taken its state over.
//!
//! Guards: a program that cannot be loaded again keeps its state and goes on; many who ask at once
//! are one load, and each of them has what it asked for of that load.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use parking_lot::Mutex;

use crate::exchange::Severity;
use crate::instance::{Instance, StartError};
use crate::journal;
use crate::program::Program;
use crate::update::{StateMoved, UpdateError};

/// Whether a program is about to be loaded anew.
#[derive(Default)]
pub(crate) struct Reloads {
    /// There is a thread that waits for its turn: it has not asked for the program's binary yet. It
    /// is going to serve these.
    waits: Mutex<Option<Successions>>,
}

/// One for each who asks: asking again for the same is no second one.
type Successions = BTreeMap<usize, TakePlace>;

/// Puts the program into a place.
type TakePlace = Box<dyn FnOnce() + Send>;

/// A place that a program takes over once it is loaded anew.
pub(crate) struct Succession {
    /// What has state if the program itself is not loaded.
    pub(crate) predecessor: Arc<Program>,
    /// Who asks.
    pub(crate) by: usize,
    pub(crate) take_place: TakePlace,
}

impl Reloads {
    /// Adds to what the next load serves. Whether there is a thread for it already.
    fn join(&self, successor: Option<(usize, TakePlace)>) -> bool {
        let mut waits = self.waits.lock();
        let there = waits.is_some();
        let successions = waits.get_or_insert_default();
        let before = successor.and_then(|(by, take_place)| successions.insert(by, take_place));
        // What goes with it may be the last of a VCL.
        drop(waits);
        drop(before);
        there
    }

    /// Who comes from now on needs another load.
    fn begin(&self) -> Successions {
        self.waits.lock().take().unwrap_or_default()
    }
}

impl Program {
    /// Whether state would be lost with what runs.
    pub(crate) fn keeps_state(&self) -> bool {
        self.current()
            .is_some_and(|instance| instance.storage().is_some())
    }

    /// Loads the program anew on a thread of its own. State comes from what runs, or else from the
    /// predecessor of who asked first.
    pub(crate) fn reload(self: &Arc<Self>, succession: Option<Succession>) {
        let (predecessor, successor) = match succession {
            Some(it) => (Some(it.predecessor), Some((it.by, it.take_place))),
            None => (None, None),
        };
        if self.reloads.join(successor) {
            return;
        }
        let program = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name("tinykvm-reload".to_owned())
            .spawn(move || program.reload_in_turn(predecessor.as_deref()));
        if let Err(error) = spawned {
            drop(self.reloads.begin());
            self.say_not_reloaded(&StartError::Thread(error));
        }
    }

    fn reload_in_turn(&self, predecessor: Option<&Self>) {
        let turn = self.turn(predecessor, |turn| Some(turn.lock()));
        let successions = self.reloads.begin();
        let begun = Instant::now();
        let loaded = catch_unwind(AssertUnwindSafe(|| self.start_anew(predecessor)))
            .unwrap_or(Err(UpdateError::Start(StartError::Panicked)));
        drop(turn);
        match loaded {
            Ok(state) => {
                let state = match state {
                    StateMoved::Nothing => "without state".to_owned(),
                    StateMoved::Bytes(bytes) => format!("with {bytes} bytes of state"),
                    StateMoved::Lost(error) => format!("without state: {error}"),
                };
                let line = format!("loaded anew in {:.1?}, {state}", begun.elapsed());
                journal::say(Severity::Info, self.name(), line.as_bytes());
            }
            Err(error) => return self.say_not_reloaded(&error),
        }
        for take_place in successions.into_values() {
            take_place();
        }
    }

    fn start_anew(&self, predecessor: Option<&Self>) -> Result<StateMoved, UpdateError> {
        let recipe = self.source().recipe().map_err(UpdateError::Settings)?;
        let binaries = self.source().binaries().map_err(StartError::Fetch)?;
        let fresh = Instance::start(&recipe, &binaries, self.threads(), &|_phase| {})?;
        let state = self.hand_over(predecessor, &fresh)?;
        self.updates.moved(&state);
        self.install(fresh);
        Ok(state)
    }

    fn say_not_reloaded(&self, error: &dyn std::fmt::Display) {
        let line = format!("could not be loaded anew, what runs goes on: {error}");
        journal::say(Severity::Error, self.name(), line.as_bytes());
    }
}
