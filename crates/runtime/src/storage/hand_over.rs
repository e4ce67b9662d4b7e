//! State on its way from the storage of one instance to that of the next, by both programs' own
//! callbacks: the old one saves, the new one restores.
//!
//! Guards: whatever the two guests do, this comes to an end, and both VMs can be called afterwards.

use std::time::{Duration, Instant};

use sandbox::GuestVirt;

use super::errand::{Answer, Work};
use super::{Shared, Storage};
use crate::exchange::Severity;
use crate::hypercalls::{Entry, EntryPoints};
use crate::journal;

/// Why state could not be moved from one instance of a program to the next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandOverError {
    /// The callback that saves the state failed.
    #[error("saving the state of the old program: {0}")]
    Save(String),
    /// The callback that takes it failed.
    #[error("restoring the state in the new program: {0}")]
    Restore(String),
}

/// What is called in a storage VM when its instance is replaced, or replaces another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Callbacks {
    save: Option<GuestVirt>,
    restore: Option<GuestVirt>,
}

impl Storage {
    /// Makes the callbacks known that the main VM of requests has registered: they count where the
    /// storage's own `main()` has registered none, and both run the same binary.
    pub(crate) fn learn(&self, requests: Option<&EntryPoints>) {
        let shared = &self.shared;
        let callback = |entry| {
            let own = shared.entry.get(entry);
            let other = requests.and_then(|requests| requests.get(entry));
            own.or(other.filter(|at| shared.image.is_code(*at)))
        };
        let _only_once = shared.hand_over.set(Callbacks {
            save: callback(Entry::LiveUpdate),
            restore: callback(Entry::LiveRestore),
        });
    }

    /// Moves the state to another instance's storage: how many bytes. Nothing where one side has
    /// no callback for it.
    pub(crate) fn hand_over(&self, to: &Self) -> Result<Option<usize>, HandOverError> {
        let (from, to) = (&self.shared, &to.shared);
        let callbacks = |shared: &Shared| shared.hand_over.get().copied();
        let save = callbacks(from).and_then(|it| it.save);
        let restore = callbacks(to).and_then(|it| it.restore);
        let (Some(save), Some(restore)) = (save, restore) else {
            let side = match (save, restore) {
                (None, _) => "the old program has no callback that saves it",
                _ => "the new program has no callback that restores it",
            };
            let line = format!("the state of its storage is not handed over: {side}");
            journal::say(Severity::Info, &from.program, line.as_bytes());
            return Ok(None);
        };
        let max = from.max_state;
        let saved = from.in_time(Work::Save {
            function: save,
            max,
        });
        let state = saved.map_err(HandOverError::Save)?.1;
        let work = Work::Restore {
            function: restore,
            state,
        };
        let restored = to.in_time(work);
        let taken = restored.map_err(HandOverError::Restore)?.0;
        Ok(Some(usize::try_from(taken).unwrap_or(usize::MAX)))
    }
}

impl Shared {
    /// Has work done that no request waits for: after what is running and what waits already.
    fn in_time(&self, work: Work) -> Result<(u64, Vec<u8>), String> {
        let patience = self
            .max_task_time()
            .saturating_mul(4)
            .saturating_add(Duration::from_secs(10));
        match self.run(work, Instant::now() + patience) {
            Some(Answer::Returned { len, data }) => Ok((len, data)),
            Some(Answer::Failed(why)) => Err(why),
            Some(Answer::NoCode) => Err("the callback is no code".to_owned()),
            None => Err(format!("the storage was busy for {patience:?}")),
        }
    }
}
