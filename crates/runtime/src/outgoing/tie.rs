//! Between a transfer and whoever waits for it.
//!
//! Guards: a transfer ends when its owner leaves, also one that waits for a silent server. What it
//! holds (a thread, permits) would otherwise be held until its deadline for nobody.

use std::sync::Arc;

use curl::multi::MultiWaker;
use parking_lot::Mutex;

#[derive(Default)]
struct Tie {
    left: bool,
    waker: Option<MultiWaker>,
}

/// With the one who waits. Dropped, it ends the transfer.
#[derive(Default)]
pub(super) struct Owner(Arc<Mutex<Tie>>);

/// With the transfer.
pub(super) struct Owned(Arc<Mutex<Tie>>);

impl Owner {
    pub(super) fn tie(&self) -> Owned {
        Owned(Arc::clone(&self.0))
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let mut tie = self.0.lock();
        tie.left = true;
        // With the lock held: what it wakes may not go away meanwhile, which libcurl asks for.
        if let Some(waker) = &tie.waker {
            let _gone = waker.wakeup();
        }
    }
}

impl Owned {
    /// What wakes the transfer, until this is dropped.
    pub(super) fn wakes(&self, waker: MultiWaker) {
        self.0.lock().waker = Some(waker);
    }

    pub(super) fn has_left(&self) -> bool {
        self.0.lock().left
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.lock().waker = None;
    }
}
