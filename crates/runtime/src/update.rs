//! Live updates: a new build of a program takes the place of the running one under load.
//!
//! ```text
//! wait for one's turn -> start the new instance beside the old -> hand the state over -> swap -> keep
//!            \-> Busy            \-> refused, nothing has changed
//! ```
//!
//! Guards: a program has at most one update under way; the old instance serves until the new one
//! has started completely, and stays if that fails; no request fails because of a swap. State comes
//! from what serves when it is handed over, and nobody replaces that meanwhile.
//!
//! An update that meets an unload comes after it: what it brings serves in the end. Where the last
//! VCL gives the program up meanwhile, the update ends as usual, and its instance goes with it.

use std::borrow::Cow;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::budget::OutOfTime;
use crate::exchange::Severity;
use crate::hypercalls::Entry;
use crate::instance::{Instance, StartError};
use crate::journal;
use crate::loader::archive::ArchiveError;
use crate::program::Program;
use crate::source::Binaries;
use crate::statistics::Counter;
use crate::storage::HandOverError;

/// A live update that has taken place.
#[derive(Debug)]
pub struct Updated {
    pub state: StateMoved,
    pub stored: Stored,
}

/// What became of the state of the instance that was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateMoved {
    /// There was none, or one of the two sides does not take part.
    Nothing,
    /// So many bytes.
    Bytes(usize),
    /// The old program could not save it. Its successor is in service all the same: otherwise
    /// there would be no way to repair such a program.
    Lost(HandOverError),
}

/// Whether the next load of the program finds what a live update has brought.
#[derive(Debug)]
pub enum Stored {
    /// In this file.
    Yes(PathBuf),
    /// It is not meant to be kept.
    No,
    Failed {
        path: PathBuf,
        reason: String,
    },
}

/// Why a program was not updated. The old one goes on as if nothing had been tried.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// Upstream's words.
    #[error("Empty file received")]
    Empty,
    /// Neither an executable nor an archive of one.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("{0}")]
    File(String),
    #[error("another update of the program has been under way for {waited:.1?}")]
    Busy { waited: Duration },
    /// What its settings ask for could not be had.
    #[error("{0}")]
    Settings(String),
    #[error(transparent)]
    Start(#[from] StartError),
    /// The new program could not take the state of the old one.
    #[error(transparent)]
    Restore(HandOverError),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// Nobody waits for it any longer. It goes on.
    #[error("the update is still under way; the log is going to say how it ends")]
    StillUnderWay,
    /// In vcl_init. It goes on if it has begun.
    #[error(transparent)]
    OutOfTime(#[from] OutOfTime),
}

impl UpdateError {
    /// The status of HTTP (RFC 9110) that says whose turn it is to do something about it.
    pub fn status(&self) -> u16 {
        match self {
            Self::Empty => 400,
            Self::Archive(_) | Self::File(_) | Self::Restore(_) => 422,
            Self::Start(error) if error.is_the_programs() => 422,
            Self::Settings(_) | Self::Start(_) | Self::Thread(_) => 500,
            Self::Busy { .. } => 503,
            Self::StillUnderWay | Self::OutOfTime(_) => 504,
        }
    }
}

/// What a program knows of its updates.
#[derive(Debug, Default)]
pub(crate) struct Updates {
    turn: Mutex<()>,
    count: Counter,
    transferred: AtomicI64,
}

/// Until this is dropped nobody else replaces the running instance, or those of two programs.
type Turn<'a> = (MutexGuard<'a, ()>, Option<MutexGuard<'a, ()>>);

impl Updates {
    pub(crate) fn count(&self) -> u64 {
        self.count.get()
    }

    /// What came of the state when the running instance was replaced.
    pub(crate) fn moved(&self, state: &StateMoved) {
        let transferred = match state {
            StateMoved::Nothing => 0,
            StateMoved::Bytes(bytes) => i64::try_from(*bytes).unwrap_or(i64::MAX),
            StateMoved::Lost(_) => -1,
        };
        self.transferred.store(transferred, Ordering::Relaxed);
    }

    /// Bytes of state that the last update has moved, -1 if that failed.
    pub(crate) fn transferred(&self) -> i64 {
        self.transferred.load(Ordering::Relaxed)
    }
}

impl Program {
    /// Replaces the running instance by one that is started from `binaries`, and keeps them for
    /// the next load where the configuration has a place for them. Blocks as long as the start
    /// takes, on a thread of ours.
    pub fn update(&self, binaries: &Binaries) -> Result<Updated, UpdateError> {
        self.update_by(None, || Ok(Cow::Borrowed(binaries)))
    }

    /// As `update`, with binaries that have to be had first. Where this program is not loaded,
    /// state comes from what serves of `predecessor`.
    pub(crate) fn update_by<'a>(
        &self,
        predecessor: Option<&Self>,
        binaries: impl FnOnce() -> Result<Cow<'a, Binaries>, UpdateError>,
    ) -> Result<Updated, UpdateError> {
        let begun = Instant::now();
        let result = binaries().and_then(|binaries| self.update_in_turn(predecessor, &binaries));
        self.tell(begun.elapsed(), &result);
        result
    }

    fn tell(&self, took: Duration, result: &Result<Updated, UpdateError>) {
        match result {
            Ok(updated) => {
                self.counters().live_updates.add(1);
                if let StateMoved::Bytes(bytes) = updated.state {
                    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
                    self.counters().live_update_transfer_bytes.add(bytes);
                }
                let kept = match &updated.stored {
                    Stored::Yes(path) => format!("kept in {}", path.display()),
                    Stored::No => "not kept".to_owned(),
                    Stored::Failed { path, reason } => {
                        let line =
                            format!("live update: cannot write {}: {reason}", path.display());
                        journal::say(Severity::Error, self.name(), line.as_bytes());
                        "not kept".to_owned()
                    }
                };
                let state = match &updated.state {
                    StateMoved::Nothing => String::new(),
                    StateMoved::Bytes(bytes) => format!(", {bytes} bytes of state handed over"),
                    StateMoved::Lost(error) => {
                        let line = format!("live update: the state is lost: {error}");
                        journal::say(Severity::Error, self.name(), line.as_bytes());
                        ", without the state".to_owned()
                    }
                };
                let line = format!("live update in {took:.1?}, {kept}{state}");
                journal::say(Severity::Info, self.name(), line.as_bytes());
            }
            Err(error) => {
                self.counters().live_updates_failed.add(1);
                let line = format!("live update refused, nothing has changed: {error}");
                journal::say(Severity::Error, self.name(), line.as_bytes());
            }
        }
    }

    fn update_in_turn(
        &self,
        predecessor: Option<&Self>,
        binaries: &Binaries,
    ) -> Result<Updated, UpdateError> {
        if binaries.request.is_empty() {
            return Err(UpdateError::Empty);
        }
        let asked = Instant::now();
        let until = asked + self.patience().time;
        let Some(_turn) = self.turn(predecessor, |turn| turn.try_lock_until(until)) else {
            let waited = asked.elapsed();
            return Err(UpdateError::Busy { waited });
        };
        let line = format!("live update: {} bytes", binaries.request.len());
        journal::say(Severity::Info, self.name(), line.as_bytes());
        let recipe = self.source().recipe().map_err(UpdateError::Settings)?;
        let start = || Instance::start(&recipe, binaries, self.threads(), &|_phase| {});
        let fresh: Arc<Instance> =
            catch_unwind(AssertUnwindSafe(start)).unwrap_or(Err(StartError::Panicked))?;
        let state = self.hand_over(predecessor, &fresh)?;
        self.install(fresh);
        self.updates.count.add(1);
        self.updates.moved(&state);
        // In turn, so that what is kept is what came last.
        let stored = self.source().keep(binaries);
        Ok(Updated { state, stored })
    }

    /// One's turn to replace what runs, and to take the state of what runs of `predecessor`. Waits by
    /// `wait` for one of them with neither in hand: two that take each other's state both get there.
    pub(crate) fn turn<'a>(
        &'a self,
        predecessor: Option<&'a Self>,
        wait: impl Fn(&'a Mutex<()>) -> Option<MutexGuard<'a, ()>>,
    ) -> Option<Turn<'a>> {
        let mut first = &self.updates.turn;
        let mut second = match predecessor {
            Some(predecessor) if !ptr::eq(predecessor, self) => &predecessor.updates.turn,
            // Settings that were changed and changed back make a program its own predecessor.
            _ => return wait(first).map(|own| (own, None)),
        };
        loop {
            let waited_for = wait(first)?;
            if let Some(other) = second.try_lock() {
                return Some((waited_for, Some(other)));
            }
            drop(waited_for);
            mem::swap(&mut first, &mut second);
        }
    }

    /// Moves the state from what runs, or else from what runs of `predecessor`, in one's turn with
    /// both. After that the old instance is about to go.
    pub(crate) fn hand_over(
        &self,
        predecessor: Option<&Self>,
        fresh: &Instance,
    ) -> Result<StateMoved, UpdateError> {
        let running = self.current();
        let Some(old) = running.or_else(|| predecessor.and_then(Self::current)) else {
            return Ok(StateMoved::Nothing);
        };
        let moved = catch_unwind(AssertUnwindSafe(|| old.hand_over(fresh)));
        match moved.map_err(|_reported_by_the_hook| StartError::Panicked)? {
            Ok(Some(bytes)) => Ok(StateMoved::Bytes(bytes)),
            Ok(None) => {
                let saves = old.entry().address(Entry::LiveUpdate) != 0;
                if saves && fresh.entry().address(Entry::LiveRestore) != 0 {
                    let line =
                        "live update: callbacks for state are not called without \"storage\"";
                    journal::say(Severity::Info, self.name(), line.as_bytes());
                }
                Ok(StateMoved::Nothing)
            }
            Err(error @ HandOverError::Save(_)) => Ok(StateMoved::Lost(error)),
            Err(error @ HandOverError::Restore(_)) => Err(UpdateError::Restore(error)),
        }
    }
}
