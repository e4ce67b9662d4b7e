//! A program's storage: one more VM, never reset, that keeps what requests share. All that is done
//! in it is done by one thread, in the order in which it came.
//!
//! ```text
//! request VM: storage_call --copy--> queue --> storage VM: function(buffers)
//!             waits until its deadline           storage_return --copy--> answer
//! timers, storage_task --------------^
//! ```
//!
//! Guards: a caller never waits past its own deadline, and what it has begun does not end because
//! it stopped waiting; a storage VM that broke is replaced by one as it was after its start; the
//! VMs never wait for each other in a circle, since storage cannot call.

mod errand;
mod hand_over;
mod queue;
mod room;
mod start;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use sandbox::{GuestVirt, Image};

use crate::hypercalls::{EntryPoints, MemoryLimits};
use crate::statistics::{SlotCounters, StorageCounters};
pub(crate) use errand::{Answer, Call, Inputs};
use errand::{Errand, Work};
pub use hand_over::HandOverError;
use queue::{Next, Queue, Task};
pub(crate) use start::Founding;

/// The longest delay and period of a timer; longer ones are a mistake.
const LONGEST_DELAY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// One instance's storage. Dropping it ends the thread as soon as what runs has ended.
#[derive(Debug)]
pub(crate) struct Storage {
    shared: Arc<Shared>,
}

/// What callers and the storage's thread have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    program: String,
    image: Arc<Image>,
    limits: MemoryLimits,
    /// What the storage's own `main()` registered.
    entry: EntryPoints,
    /// The functions that requests may call; empty: all.
    allowed: Vec<GuestVirt>,
    max_time: Duration,
    max_state: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
    hand_over: OnceLock<hand_over::Callbacks>,
    busy: AtomicBool,
    machine: SlotCounters,
    counters: Arc<StorageCounters>,
}

/// Why a call into the storage has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallError {
    /// It is none of the functions that may be called.
    NotAllowed,
    /// It is no function.
    NoCode,
    /// The caller's own time is over.
    TimedOut,
    /// It failed in the storage VM, which has been reported.
    Failed,
}

impl Storage {
    /// The way into it for everyone but its owner.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Ends the timers of an instance that has been replaced.
    pub(crate) fn retire(&self) {
        self.shared.queue.lock().stop_all_timers();
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        let waiting = self.shared.queue.lock().close();
        self.shared.changed.notify_all();
        drop(waiting);
    }
}

impl Shared {
    /// Calls a function and waits for its result until `deadline`.
    pub(crate) fn call(&self, call: Call, deadline: Instant) -> Result<Answer, CallError> {
        self.check_allowed(call.function)?;
        self.counters.calls.add(1);
        match self.run(Work::Call(call), deadline) {
            Some(Answer::NoCode) => Err(CallError::NoCode),
            Some(Answer::Failed(_)) => {
                self.counters.failed_calls.add(1);
                Err(CallError::Failed)
            }
            Some(answer) => Ok(answer),
            None => {
                self.counters.abandoned_calls.add(1);
                Err(CallError::TimedOut)
            }
        }
    }

    /// Has a function called with `data` soon. False: too many wait.
    pub(crate) fn task(&self, function: GuestVirt, data: Vec<u8>) -> Result<bool, CallError> {
        self.check_allowed(function)?;
        let task = Task {
            function,
            data: data.into(),
        };
        let taken = self.queue.lock().push_task(task, Instant::now());
        self.changed.notify_one();
        if !taken {
            self.counters.refused_tasks.add(1);
        }
        Ok(taken)
    }

    /// Has a function called after `start`, and every `period` from then on. A number above 0, or
    /// nothing where there are too many.
    pub(crate) fn timer(
        &self,
        function: GuestVirt,
        data: Vec<u8>,
        start: Duration,
        period: Option<Duration>,
    ) -> Result<Option<i64>, CallError> {
        self.check_allowed(function)?;
        let timer = self
            .queue
            .lock()
            .set_timer(function, data, start, period, false);
        self.changed.notify_one();
        if timer.is_none() {
            self.counters.refused_tasks.add(1);
        }
        Ok(timer)
    }

    /// Ends a timer. False: there is none of that number.
    pub(crate) fn stop_timer(&self, id: i64) -> bool {
        self.queue.lock().stop_timer(id)
    }

    pub(crate) fn program(&self) -> &str {
        &self.program
    }

    pub(crate) fn limits(&self) -> &MemoryLimits {
        &self.limits
    }

    pub(crate) fn entry(&self) -> &EntryPoints {
        &self.entry
    }

    pub(crate) fn machine(&self) -> &SlotCounters {
        &self.machine
    }

    pub(crate) fn counters(&self) -> &Arc<StorageCounters> {
        &self.counters
    }

    /// How much waits, and how many timers there are and have been at once.
    pub(crate) fn depth(&self) -> Depth {
        let queue = self.queue.lock();
        let (timers, most_timers) = queue.timers();
        Depth {
            waiting: queue.len(),
            timers,
            most_timers,
            busy: self.busy.load(Ordering::Relaxed),
        }
    }

    /// As upstream's: tasks may take half as long again as calls.
    fn max_task_time(&self) -> Duration {
        self.max_time.saturating_add(self.max_time / 2)
    }

    fn check_allowed(&self, function: GuestVirt) -> Result<(), CallError> {
        if self.allowed.is_empty() || self.allowed.contains(&function) {
            Ok(())
        } else {
            Err(CallError::NotAllowed)
        }
    }

    /// Has work done and waits for it until `deadline`. What has not begun by then never does.
    fn run(&self, work: Work, deadline: Instant) -> Option<Answer> {
        let (errand, reply) = Errand::new(work);
        let begun = Instant::now();
        let pushed = self.queue.lock().push(errand, begun);
        let number = match pushed {
            Ok(number) => number,
            Err(errand) => {
                // Which is what tells that the storage is gone.
                drop(errand);
                return reply.wait(begun);
            }
        };
        self.changed.notify_one();
        let answer = reply.wait(deadline);
        if answer.is_none() {
            let cancelled = self.queue.lock().cancel(number);
            drop(cancelled);
        }
        answer
    }

    /// The next thing to do; nothing once the storage is gone.
    fn next(&self) -> Option<Next> {
        let mut queue = self.queue.lock();
        loop {
            if queue.is_closed() {
                return None;
            }
            match queue.next(Instant::now()) {
                Next::Sleep(None) => self.changed.wait(&mut queue),
                Next::Sleep(Some(until)) => {
                    let _timed_out = self.changed.wait_until(&mut queue, until);
                }
                next => return Some(next),
            }
        }
    }
}

impl Queue {
    fn set_timer(
        &mut self,
        function: GuestVirt,
        data: Vec<u8>,
        start: Duration,
        period: Option<Duration>,
        lasting: bool,
    ) -> Option<i64> {
        if start > LONGEST_DELAY || period.is_some_and(|period| period > LONGEST_DELAY) {
            return None;
        }
        let task = Task {
            function,
            data: data.into(),
        };
        self.push_timer(task, Instant::now() + start, period, lasting)
    }
}

/// How full a storage's queue is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Depth {
    pub(crate) waiting: usize,
    pub(crate) timers: usize,
    pub(crate) most_timers: usize,
    pub(crate) busy: bool,
}

/// The storage's thread.
fn work(shared: &Shared, mut room: room::Room) {
    while let Some(next) = shared.next() {
        shared.busy.store(true, Ordering::Relaxed);
        match next {
            Next::Errand(errand, since) => {
                let waited = since.elapsed();
                shared.machine.reservation_time.add_time(waited);
                let answer = room.work(&errand.work);
                errand.finish(answer);
            }
            Next::Task(task) => {
                shared.counters.tasks.add(1);
                room.task(&task);
            }
            Next::Sleep(_) => {}
        }
        // Whoever comes next does not wait for that.
        room.mend();
        shared.busy.store(false, Ordering::Relaxed);
    }
}
