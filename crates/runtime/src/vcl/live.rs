//! Live updates as VCL asks for them: by name, with a key, from uploaded bytes or from a file.
//!
//! Guards: nothing of an update needs the VCL once it has begun: it may be discarded meanwhile.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use super::{Held, Table, Vcl};
use crate::budget::{self, Budget, Unanswered};
use crate::config::ProgramConfig;
use crate::instance::StartError;
use crate::loader::{self, archive};
use crate::program::Program;
use crate::update::{UpdateError, Updated};

/// A program in the hands of who wants to update it.
#[derive(Debug, Clone)]
pub struct Updatable {
    table: Arc<RwLock<Table>>,
    config: ProgramConfig,
    /// Of that configuration.
    program: Arc<Program>,
    /// What serves until the update, where the settings have changed since it was loaded.
    outdated: Option<Arc<Program>>,
}

/// Why nobody may update a program from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("there is no such program")]
    Unknown,
    #[error("the program has no \"key\"")]
    NoKey,
    #[error("that is not the program's key")]
    WrongKey,
}

impl Vcl {
    /// The program of that name, for who knows its key.
    pub fn updatable_with(&self, name: &[u8], key: &[u8]) -> Result<Updatable, Denied> {
        // Who only tries keys must not keep others from the table.
        {
            let table = self.table.read();
            let config = &table.entries.get(name).ok_or(Denied::Unknown)?.config;
            if config.key.is_empty() {
                return Err(Denied::NoKey);
            }
            if !config.key.matches(key) {
                return Err(Denied::WrongKey);
            }
        }
        self.updatable(name).ok_or(Denied::Unknown)
    }

    /// The program of that name, for who wants to update it.
    pub fn updatable(&self, name: &[u8]) -> Option<Updatable> {
        let mut table = self.table.write();
        let entry = table.entries.get_mut(name)?;
        let outdated = entry.held.take_if(|held| held.outdated);
        let program = entry.obtain();
        let updatable = Updatable {
            table: Arc::clone(&self.table),
            config: entry.config.clone(),
            program,
            outdated: outdated.as_ref().map(|held| Arc::clone(&held.program)),
        };
        if outdated.is_some() {
            // It goes on until the update has succeeded.
            entry.held = outdated;
        }
        Some(updatable)
    }
}

impl Updatable {
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// After this time an update has ended, or something is wrong: it has waited for its turn,
    /// fetched, started a storage, started, been warmed up in vain, started again, and moved its
    /// state, each as long as it may take.
    pub fn max_time(&self) -> Duration {
        let settings = &self.config.settings;
        let fetch = match settings.download.as_slice() {
            [] => Duration::ZERO,
            _ => Duration::from_secs(120),
        };
        let starts = settings.max_boot_time.saturating_mul(4);
        let state = match settings.storage {
            true => settings.max_storage_time.saturating_mul(12),
            false => Duration::ZERO,
        };
        [settings.max_queue_time, fetch, starts, state]
            .into_iter()
            .fold(Duration::from_secs(30), Duration::saturating_add)
    }

    /// Updates the program by what was uploaded: an ELF file or an archive. Blocks, and needs a
    /// stack of ordinary size.
    pub fn update(&self, upload: Vec<u8>) -> Result<Updated, UpdateError> {
        self.update_by(|| {
            if upload.is_empty() {
                return Err(UpdateError::Empty);
            }
            Ok(Cow::Owned(archive::open(upload)?))
        })
    }

    /// Updates the program by what is in a file: as `update`.
    pub fn update_from(&self, path: &Path) -> Result<Updated, UpdateError> {
        self.update_by(|| {
            let bytes = loader::read(path).map_err(|error| UpdateError::File(error.to_string()))?;
            if bytes.is_empty() {
                return Err(UpdateError::Empty);
            }
            Ok(Cow::Owned(archive::open(bytes)?))
        })
    }

    /// Has a thread of ours do an update and waits for it, but not longer than `most`. For callers
    /// with little stack.
    pub fn within(
        &self,
        most: Duration,
        update: impl FnOnce(&Self) -> Result<Updated, UpdateError> + Send + 'static,
    ) -> Result<Updated, UpdateError> {
        let own = self.clone();
        let work = move || {
            let result = update(&own);
            // Before the answer: who has it may count what is left.
            drop(own);
            result
        };
        budget::within(most, "tinykvm-update", work).unwrap_or_else(|end| {
            Err(match end {
                Unanswered::Late => UpdateError::StillUnderWay,
                Unanswered::Panicked => StartError::Panicked.into(),
                Unanswered::Thread(error) => UpdateError::Thread(error),
            })
        })
    }

    /// As `within`, for vcl_init: as long as the update may take, and the budget lasts.
    pub fn within_budget(
        &self,
        budget: &Budget,
        update: impl FnOnce(&Self) -> Result<Updated, UpdateError> + Send + 'static,
    ) -> Result<Updated, UpdateError> {
        let (most, left) = (self.max_time(), budget.left());
        if left >= most {
            return self.within(most, update);
        }
        let awaited = format!("the update of program {}", self.name());
        if left.is_zero() {
            return Err(budget.exceeded_by(awaited).into());
        }
        self.within(left, update).map_err(|error| match error {
            UpdateError::StillUnderWay => {
                let awaited = format!("{awaited}, which goes on");
                budget.exceeded_by(awaited).into()
            }
            error => error,
        })
    }

    fn update_by(
        &self,
        binaries: impl FnOnce() -> Result<Cow<'static, crate::Binaries>, UpdateError>,
    ) -> Result<Updated, UpdateError> {
        let predecessor = self.outdated.as_ref().and_then(|program| program.current());
        let updated = self.program.update_by(predecessor, binaries)?;
        if let Some(outdated) = &self.outdated {
            drop(self.exchange(outdated));
        }
        Ok(updated)
    }

    /// Loads the program with its new settings, on a thread of its own; what serves until then hands
    /// its state over.
    pub(super) fn reload(self) {
        let predecessor = self.outdated.as_ref().and_then(|program| program.current());
        let program = Arc::clone(&self.program);
        program.reload(predecessor, move || {
            if let Some(outdated) = &self.outdated {
                drop(self.exchange(outdated));
            }
        });
    }

    /// Puts the program of the new settings in the place of the one that served until now.
    fn exchange(&self, outdated: &Arc<Program>) -> Option<Held> {
        let mut table = self.table.write();
        let entry = table.entries.get_mut(self.config.name.as_bytes())?;
        let serving = entry.held.as_ref()?;
        if !Arc::ptr_eq(&serving.program, outdated) {
            return None;
        }
        entry.held.replace(Held {
            program: Arc::clone(&self.program),
            outdated: entry.config != self.config,
        })
    }
}
