//! What waits for the storage VM: calls in the order in which they came, and timers.
//!
//! Guards: who waits longest is served first, timers included, so that neither starves the other;
//! what guests can leave here is bounded in number and in bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbox::GuestVirt;

use super::errand::Errand;

/// Timers that a program has at once.
pub(crate) const MAX_TIMERS: usize = 64;
/// Tasks without a timer that wait at once.
pub(crate) const MAX_TASKS: usize = 1024;
/// What the arguments of all tasks, waiting or on timers, may have together.
pub(crate) const MAX_TASK_BYTES: usize = 64 << 20;

/// A function to be called with data, without anyone waiting for it.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) function: GuestVirt,
    pub(crate) data: Arc<[u8]>,
}

#[derive(Debug)]
struct Timer {
    id: i64,
    task: Task,
    due: Instant,
    period: Option<Duration>,
    /// Set by the storage's own `main()`: it is part of what a restart goes back to.
    lasting: bool,
}

/// What the storage VM is to do next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Something that was waiting since then.
    Errand(Errand, Instant),
    Task(Task),
    /// Nothing before that moment.
    Sleep(Option<Instant>),
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    since: Instant,
    what: What,
}

#[derive(Debug)]
enum What {
    Errand(Errand),
    Task(Task),
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: VecDeque<Waiting>,
    next_number: u64,
    tasks: usize,
    task_bytes: usize,
    timers: Vec<Timer>,
    last_timer: i64,
    most_timers: usize,
    /// Nothing is taken any more.
    closed: bool,
}

impl Queue {
    /// Takes an errand; the number is for `cancel`. A closed queue hands it back.
    pub(crate) fn push(&mut self, errand: Errand, now: Instant) -> Result<u64, Errand> {
        if self.closed {
            return Err(errand);
        }
        Ok(self.wait(What::Errand(errand), now))
    }

    /// Takes an errand back that has not begun. False: it has.
    pub(crate) fn cancel(&mut self, number: u64) -> Option<Errand> {
        let at = self.waiting.iter().position(|it| it.number == number)?;
        match self.waiting.remove(at)?.what {
            What::Errand(errand) => Some(errand),
            What::Task(_) => None,
        }
    }

    /// Takes a task that is to run as soon as it is its turn. False: there are too many.
    pub(crate) fn push_task(&mut self, task: Task, now: Instant) -> bool {
        if self.closed || self.tasks >= MAX_TASKS || !self.fits(&task) {
            return false;
        }
        self.tasks += 1;
        self.task_bytes += task.data.len();
        self.wait(What::Task(task), now);
        true
    }

    /// Takes a task that is to run at `due`, and every `period` from then on. Nothing: too many.
    pub(crate) fn push_timer(
        &mut self,
        task: Task,
        due: Instant,
        period: Option<Duration>,
        lasting: bool,
    ) -> Option<i64> {
        if self.closed || self.timers.len() >= MAX_TIMERS || !self.fits(&task) {
            return None;
        }
        self.last_timer += 1;
        self.task_bytes += task.data.len();
        self.timers.push(Timer {
            id: self.last_timer,
            task,
            due,
            period,
            lasting,
        });
        self.most_timers = self.most_timers.max(self.timers.len());
        Some(self.last_timer)
    }

    /// Ends a timer. False: there is none of that number.
    pub(crate) fn stop_timer(&mut self, id: i64) -> bool {
        self.retain_timers(|timer| timer.id != id)
    }

    /// Ends all timers but those that the start has set.
    pub(crate) fn forget_timers_set_since_the_start(&mut self) {
        self.retain_timers(|timer| timer.lasting);
    }

    /// Ends all timers.
    pub(crate) fn stop_all_timers(&mut self) {
        self.retain_timers(|_| false);
    }

    /// What is to be done now, taken out of the queue.
    pub(crate) fn next(&mut self, now: Instant) -> Next {
        let timer = self
            .timers
            .iter()
            .enumerate()
            .min_by_key(|(_, timer)| timer.due)
            .map(|(at, timer)| (at, timer.due));
        let first = self.waiting.front().map(|waiting| waiting.since);
        match (first, timer) {
            (first, Some((at, due))) if due <= now && first.is_none_or(|since| due <= since) => {
                self.fire(at, now)
            }
            (Some(_), _) => self.pop(),
            (None, timer) => Next::Sleep(timer.map(|(_, due)| due)),
        }
    }

    /// Takes no more, and hands back what waits.
    pub(crate) fn close(&mut self) -> Vec<Errand> {
        self.closed = true;
        self.stop_all_timers();
        self.tasks = 0;
        self.task_bytes = 0;
        self.waiting
            .drain(..)
            .filter_map(|waiting| match waiting.what {
                What::Errand(errand) => Some(errand),
                What::Task(_) => None,
            })
            .collect()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Timers that are set, and the most that ever were at once.
    pub(crate) fn timers(&self) -> (usize, usize) {
        (self.timers.len(), self.most_timers)
    }

    fn fits(&self, task: &Task) -> bool {
        self.task_bytes.saturating_add(task.data.len()) <= MAX_TASK_BYTES
    }

    fn wait(&mut self, what: What, since: Instant) -> u64 {
        self.next_number += 1;
        let number = self.next_number;
        self.waiting.push_back(Waiting {
            number,
            since,
            what,
        });
        number
    }

    fn pop(&mut self) -> Next {
        match self.waiting.pop_front() {
            None => Next::Sleep(None),
            Some(Waiting {
                what: What::Errand(errand),
                since,
                ..
            }) => Next::Errand(errand, since),
            Some(Waiting {
                what: What::Task(task),
                ..
            }) => {
                self.tasks = self.tasks.saturating_sub(1);
                self.task_bytes = self.task_bytes.saturating_sub(task.data.len());
                Next::Task(task)
            }
        }
    }

    fn fire(&mut self, at: usize, now: Instant) -> Next {
        let Some(timer) = self.timers.get_mut(at) else {
            return Next::Sleep(None);
        };
        let task = timer.task.clone();
        match timer.period {
            // Where the VM was busy for longer than a period, what was missed is not made up for.
            Some(period) => {
                timer.due += period;
                if timer.due <= now {
                    timer.due = now + period;
                }
            }
            None => {
                self.task_bytes = self.task_bytes.saturating_sub(task.data.len());
                self.timers.swap_remove(at);
            }
        }
        Next::Task(task)
    }

    /// Whether any went.
    fn retain_timers(&mut self, keep: impl Fn(&Timer) -> bool) -> bool {
        let before = self.timers.len();
        let mut freed = 0;
        self.timers.retain(|timer| {
            let keep = keep(timer);
            if !keep {
                freed += timer.task.data.len();
            }
            keep
        });
        self.task_bytes = self.task_bytes.saturating_sub(freed);
        self.timers.len() < before
    }
}

#[cfg(test)]
mod tests;
