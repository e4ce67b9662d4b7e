//! A program with storage that is told to load anew: what runs goes on until its successor has
//! started and taken its state over.
//!
//! Guards: a program that cannot be loaded again keeps its state and goes on; many who ask at once
//! are one load.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use crate::exchange::Severity;
use crate::instance::{Instance, StartError};
use crate::journal;
use crate::program::Program;
use crate::update::{StateMoved, UpdateError};

/// Whether a program is about to be loaded anew.
#[derive(Debug, Default)]
pub(crate) struct Reloads {
    /// A thread waits for its turn: it has not asked for the program's binary yet.
    waits: AtomicBool,
}

impl Program {
    /// Whether state would be lost with what runs.
    pub(crate) fn keeps_state(&self) -> bool {
        self.current()
            .is_some_and(|instance| instance.storage().is_some())
    }

    /// Loads the program anew on a thread of its own. State comes from what runs, or else from
    /// `predecessor`; `then` is done once the new one serves.
    pub(crate) fn reload(
        self: &Arc<Self>,
        predecessor: Option<Arc<Instance>>,
        then: impl FnOnce() + Send + 'static,
    ) {
        if self.reloads.waits.swap(true, Ordering::AcqRel) {
            return;
        }
        let program = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name("tinykvm-reload".to_owned())
            .spawn(move || {
                if program.reload_in_turn(predecessor) {
                    then();
                }
            });
        if let Err(error) = spawned {
            self.reloads.waits.store(false, Ordering::Release);
            self.say_not_reloaded(&StartError::Thread(error));
        }
    }

    fn reload_in_turn(&self, predecessor: Option<Arc<Instance>>) -> bool {
        let turn = self.updates.turn();
        self.reloads.waits.store(false, Ordering::Release);
        let begun = Instant::now();
        let loaded = catch_unwind(AssertUnwindSafe(|| self.start_anew(predecessor)))
            .unwrap_or(Err(UpdateError::Start(StartError::Panicked)));
        drop(turn);
        match &loaded {
            Ok(state) => {
                let state = match state {
                    StateMoved::Nothing => "without state".to_owned(),
                    StateMoved::Bytes(bytes) => format!("with {bytes} bytes of state"),
                    StateMoved::Lost(error) => format!("without state: {error}"),
                };
                let line = format!("loaded anew in {:.1?}, {state}", begun.elapsed());
                journal::say(Severity::Info, self.name(), line.as_bytes());
            }
            Err(error) => self.say_not_reloaded(error),
        }
        loaded.is_ok()
    }

    fn start_anew(&self, predecessor: Option<Arc<Instance>>) -> Result<StateMoved, UpdateError> {
        let recipe = self.source().recipe().map_err(UpdateError::Settings)?;
        let binaries = self.source().binaries().map_err(StartError::Fetch)?;
        let fresh = Instance::start(&recipe, &binaries, self.threads(), &|_phase| {})?;
        let state = match self.current().or(predecessor) {
            Some(old) => self.hand_over(&old, &fresh)?,
            None => StateMoved::Nothing,
        };
        self.updates.moved(&state);
        self.install(fresh);
        Ok(state)
    }

    fn say_not_reloaded(&self, error: &dyn std::fmt::Display) {
        let line = format!("could not be loaded anew, what runs goes on: {error}");
        journal::say(Severity::Error, self.name(), line.as_bytes());
    }
}
