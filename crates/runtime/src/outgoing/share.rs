//! How much of the crew one program may have.
//!
//! Guards: one program never takes the threads that others need. Counted is what has not ended,
//! whether somebody waits for it or not: a look-up of a name has an end of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::FetchError;
use super::crew::MOST_THREADS;

/// Requests of one program, to this Varnish and to others.
pub(super) const MOST: usize = MOST_THREADS / 4;

/// By name: all instances of a program, and its storage, count as one.
static RUNNING: Mutex<BTreeMap<Arc<str>, usize>> = Mutex::new(BTreeMap::new());

/// A program's right to one transfer. Counted until it is dropped.
#[derive(Debug)]
pub(super) struct Share(Arc<str>);

impl Share {
    pub(super) fn of(program: &Arc<str>) -> Result<Self, FetchError> {
        let mut running = RUNNING.lock();
        let own = running.entry(Arc::clone(program)).or_default();
        if *own >= MOST {
            return Err(FetchError::Crowded(MOST));
        }
        *own = own.saturating_add(1);
        Ok(Self(Arc::clone(program)))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut running = RUNNING.lock();
        if let Some(own) = running.get_mut(&self.0) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                running.remove(&self.0);
            }
        }
    }
}
