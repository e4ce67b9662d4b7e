//! The free slots of an instance, and a queue of bounded length and patience when none is free. The
//! slot with the warmest caches serves next: the last one that came back on this CPU, else the last
//! one.
//!
//! Guards: a slot is in the pool once or in one reservation; a slot that comes back goes to who
//! has waited longest, never to who just arrived; after `close` nobody waits.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Why there was no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Busy {
    /// None came back in time.
    TimedOut,
    /// Enough callers wait already.
    QueueFull,
    /// The instance has no slots and gets none any more.
    Closed,
}

pub(crate) struct Pool<T> {
    shelf: Mutex<Shelf<T>>,
    returned: Condvar,
    max_waiting: usize,
}

struct Shelf<T> {
    /// In the order in which they came back.
    free: Vec<Shelved<T>>,
    /// Callers in the queue, those included that a slot was promised to.
    waiting: usize,
    /// Slots of `free` that belong to callers who have been woken but have not run yet.
    promised: usize,
    closed: bool,
}

struct Shelved<T> {
    slot: T,
    cpu: Cpu,
}

/// The number of a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cpu(libc::c_int);

impl Cpu {
    fn here() -> Self {
        // SAFETY: takes nothing. It costs some nanoseconds (rseq, or the vDSO).
        Self(unsafe { libc::sched_getcpu() })
    }
}

impl<T> Pool<T> {
    /// A pool that never allocates while it holds at most `capacity` slots.
    pub(crate) fn new(capacity: usize, max_waiting: usize) -> Self {
        let shelf = Shelf {
            free: Vec::with_capacity(capacity),
            waiting: 0,
            promised: 0,
            closed: false,
        };
        Self {
            shelf: Mutex::new(shelf),
            returned: Condvar::new(),
            max_waiting,
        }
    }

    /// The slot with the warmest caches, without waiting and without overtaking anyone.
    pub(crate) fn try_take(&self) -> Option<T> {
        let here = Cpu::here();
        self.shelf.lock().take_unpromised(here)
    }

    /// A slot now, or the next one that comes back within `patience`.
    pub(crate) fn take(&self, patience: Duration) -> Result<T, Busy> {
        self.take_from_queue_of(self.max_waiting, patience)
    }

    /// As `take`, for who has waited before, for the program to start or in the queue of a pool that
    /// was closed: it is let in however many wait already.
    pub(crate) fn take_after_waiting(&self, patience: Duration) -> Result<T, Busy> {
        self.take_from_queue_of(usize::MAX, patience)
    }

    fn take_from_queue_of(&self, max_waiting: usize, patience: Duration) -> Result<T, Busy> {
        let mut shelf = self.shelf.lock();
        if let Some(slot) = shelf.take_unpromised(Cpu::here()) {
            return Ok(slot);
        }
        if shelf.closed {
            return Err(Busy::Closed);
        }
        if shelf.waiting >= max_waiting {
            return Err(Busy::QueueFull);
        }
        let deadline = Instant::now() + patience;
        shelf.waiting += 1;
        let timed_out = self.returned.wait_until(&mut shelf, deadline).timed_out();
        shelf.waiting -= 1;
        if shelf.closed {
            return Err(Busy::Closed);
        }
        if timed_out {
            // A slot that came between the timeout and the lock was promised to someone else.
            return shelf.take_unpromised(Cpu::here()).ok_or(Busy::TimedOut);
        }
        // parking_lot wakes nobody without a notification, and each one came with a promise.
        shelf.promised = shelf.promised.saturating_sub(1);
        shelf.take(Cpu::here()).ok_or(Busy::TimedOut)
    }

    /// Puts a slot on top. A closed pool takes none and hands it back.
    pub(crate) fn give(&self, slot: T) -> Result<(), T> {
        let cpu = Cpu::here();
        let mut shelf = self.shelf.lock();
        if shelf.closed {
            return Err(slot);
        }
        shelf.free.push(Shelved { slot, cpu });
        if shelf.waiting > shelf.promised && self.returned.notify_one() {
            shelf.promised += 1;
        }
        Ok(())
    }

    /// Ends the waiting of everyone and answers the free slots.
    pub(crate) fn close(&self) -> Vec<T> {
        let mut shelf = self.shelf.lock();
        shelf.closed = true;
        shelf.promised = 0;
        self.returned.notify_all();
        let free = std::mem::take(&mut shelf.free);
        free.into_iter().map(|shelved| shelved.slot).collect()
    }

    /// Slots that nobody uses, and callers in the queue.
    pub(crate) fn depth(&self) -> Depth {
        let shelf = self.shelf.lock();
        Depth {
            free: shelf.free.len(),
            waiting: shelf.waiting,
        }
    }
}

/// How full a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Depth {
    pub(crate) free: usize,
    pub(crate) waiting: usize,
}

impl<T> Shelf<T> {
    /// So many of the last ones are looked at for one of this CPU.
    const NEAR: usize = 16;

    fn take_unpromised(&mut self, here: Cpu) -> Option<T> {
        if self.free.len() > self.promised {
            self.take(here)
        } else {
            None
        }
    }

    fn take(&mut self, here: Cpu) -> Option<T> {
        let mut last = self.free.iter().rev().take(Self::NEAR);
        let above = last.position(|free| free.cpu == here).unwrap_or(0);
        let place = self.free.len().checked_sub(above.saturating_add(1))?;
        Some(self.free.remove(place).slot)
    }
}

impl<T> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("depth", &self.depth())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};
    use std::thread;

    const LONG: Duration = Duration::from_secs(30);

    fn wait_for_queue<T>(pool: &Pool<T>, waiting: usize) {
        while pool.depth().waiting != waiting {
            thread::yield_now();
        }
    }

    fn shelf_of(free: impl IntoIterator<Item = (usize, i32)>) -> Shelf<usize> {
        let shelved = |(slot, cpu)| Shelved {
            slot,
            cpu: Cpu(cpu),
        };
        Shelf {
            free: free.into_iter().map(shelved).collect(),
            waiting: 0,
            promised: 0,
            closed: false,
        }
    }

    #[test]
    fn the_slot_that_came_back_last_on_this_cpu_goes_out_first() {
        let mut shelf = shelf_of([(1, 0), (2, 1), (3, 0), (4, 1)]);
        let taken: Vec<_> = [0, 0, 1, 1, 0]
            .map(|cpu| shelf.take_unpromised(Cpu(cpu)))
            .into();
        assert_eq!(taken, [Some(3), Some(1), Some(4), Some(2), None]);
    }

    #[test]
    fn without_one_of_this_cpu_the_slot_that_came_back_last_goes_out_first() {
        let mut shelf = shelf_of([(1, 0), (2, 1), (3, 0)]);
        let taken: Vec<_> = [7, 7, 7].map(|cpu| shelf.take_unpromised(Cpu(cpu))).into();
        assert_eq!(taken, [Some(3), Some(2), Some(1)]);
        // One of this CPU lies too deep to be found.
        let mut deep = shelf_of((0..=Shelf::<usize>::NEAR).map(|n| (n, i32::from(n > 0))));
        assert_eq!(deep.take_unpromised(Cpu(0)), Some(Shelf::<usize>::NEAR));
    }

    #[test]
    fn a_caller_that_gets_nothing_gives_up_in_time() {
        let pool = Pool::<u32>::new(1, 10);
        let begun = Instant::now();
        assert_eq!(pool.take(Duration::from_millis(30)), Err(Busy::TimedOut));
        assert!(begun.elapsed() >= Duration::from_millis(30));
        assert_eq!(pool.depth().waiting, 0);
    }

    #[test]
    fn the_queue_has_an_end() {
        let pool = Arc::new(Pool::new(1, 1));
        let waiter = thread::spawn({
            let pool = Arc::clone(&pool);
            move || pool.take(LONG)
        });
        wait_for_queue(&pool, 1);
        assert_eq!(pool.take(LONG), Err(Busy::QueueFull));
        let waited = pool.take_after_waiting(Duration::from_millis(30));
        assert_eq!(waited, Err(Busy::TimedOut));
        pool.give(7).unwrap();
        assert_eq!(waiter.join().unwrap(), Ok(7));
    }

    #[test]
    fn who_waits_longest_is_served_first() {
        let pool = Arc::new(Pool::new(1, 10));
        let (served, order) = mpsc::channel();
        let mut waiters = Vec::new();
        for name in 0..5 {
            let (pool, served) = (Arc::clone(&pool), served.clone());
            let position = usize::try_from(name).unwrap() + 1;
            let queue = Arc::clone(&pool);
            waiters.push(thread::spawn(move || {
                let slot = pool.take(LONG).unwrap();
                served.send(name).unwrap();
                pool.give(slot).unwrap();
            }));
            wait_for_queue(&queue, position);
        }
        pool.give('x').unwrap();
        for waiter in waiters {
            waiter.join().unwrap();
        }
        drop(served);
        assert_eq!(order.iter().collect::<Vec<i32>>(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn closing_ends_all_waiting() {
        let pool = Arc::new(Pool::<u32>::new(1, 10));
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let pool = Arc::clone(&pool);
                thread::spawn(move || pool.take(LONG))
            })
            .collect();
        wait_for_queue(&pool, 3);
        assert!(pool.close().is_empty());
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Err(Busy::Closed));
        }
        assert_eq!(pool.take(LONG), Err(Busy::Closed));
        assert_eq!(pool.give(1), Err(1));
    }

    #[test]
    fn under_load_no_slot_is_lost_and_none_is_in_two_hands() {
        const SLOTS: usize = 3;
        const THREADS: usize = 12;
        let pool = Arc::new(Pool::new(SLOTS, THREADS));
        let in_use: Arc<Vec<AtomicUsize>> =
            Arc::new((0..SLOTS).map(|_| AtomicUsize::new(0)).collect());
        for slot in 0..SLOTS {
            pool.give(slot).unwrap();
        }
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                let (pool, in_use) = (Arc::clone(&pool), Arc::clone(&in_use));
                thread::spawn(move || {
                    let mut taken = 0;
                    for round in 0..2000 {
                        // Some are impatient, so that timeouts and returns cross.
                        let patience = if (number + round) % 7 == 0 {
                            Duration::from_micros(5)
                        } else {
                            LONG
                        };
                        let Ok(slot) = pool.take(patience) else {
                            continue;
                        };
                        assert_eq!(in_use[slot].fetch_add(1, Ordering::SeqCst), 0);
                        taken += 1;
                        in_use[slot].fetch_sub(1, Ordering::SeqCst);
                        pool.give(slot).unwrap();
                    }
                    taken
                })
            })
            .collect();
        let taken: usize = threads.into_iter().map(|t| t.join().unwrap()).sum();
        assert!(taken >= THREADS * 2000 * 6 / 7);
        assert_eq!(
            pool.depth(),
            Depth {
                free: SLOTS,
                waiting: 0
            }
        );
        assert_eq!(pool.shelf.lock().promised, 0);
    }
}
