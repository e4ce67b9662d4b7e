//! Something that the storage VM does for someone who waits for it.
//!
//! Guards: whoever waits gets an answer, also where the storage goes away or breaks, and never
//! waits longer than it wants to.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use sandbox::GuestVirt;

use crate::outgoing::Outgoing;

/// What the VM is to do.
#[derive(Debug)]
pub(crate) enum Work {
    /// Call a function with buffers, for a request.
    Call(Call),
    /// Have the program save its state: up to so many bytes.
    Save { function: GuestVirt, max: usize },
    /// Have the program take over a state.
    Restore { function: GuestVirt, state: Vec<u8> },
}

/// A storage function to be called.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) function: GuestVirt,
    pub(crate) inputs: Inputs,
    /// What the caller can take of the result.
    pub(crate) room: u64,
    /// The caller wants to have the result, not only its length.
    pub(crate) wanted: bool,
    /// Where requests go that the function makes.
    pub(crate) outgoing: Outgoing,
}

/// Buffers, one behind the other, each at a multiple of 8 bytes.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    pub(crate) bytes: Vec<u8>,
    /// Where each begins, and its length.
    pub(crate) places: Vec<(usize, usize)>,
}

impl Inputs {
    /// Makes room for another buffer.
    pub(crate) fn add(&mut self, len: usize) -> &mut [u8] {
        let begin = self.bytes.len().next_multiple_of(8);
        self.bytes.resize(begin.saturating_add(len), 0);
        self.places.push((begin, len));
        self.bytes.get_mut(begin..).unwrap_or_default()
    }

    /// One buffer.
    pub(crate) fn one(data: &[u8]) -> Self {
        let mut inputs = Self::default();
        inputs.add(data.len()).copy_from_slice(data);
        inputs
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// What the function returned: how long it said that is, and as much as was wanted.
    Returned { len: u64, data: Vec<u8> },
    /// It failed, which has been reported.
    Failed(String),
    /// There is no such function; the storage has not been touched.
    NoCode,
}

impl Answer {
    fn gone() -> Self {
        Self::Failed("the storage VM is gone".to_owned())
    }
}

/// Work, and who waits for it. Dropping it unfinished tells them that it failed.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(crate) work: Work,
    reply: Arc<Reply>,
    finished: bool,
}

impl Errand {
    pub(crate) fn new(work: Work) -> (Self, Arc<Reply>) {
        let reply = Arc::new(Reply::default());
        let errand = Self {
            work,
            reply: Arc::clone(&reply),
            finished: false,
        };
        (errand, reply)
    }

    /// Tells who waits.
    pub(crate) fn finish(mut self, answer: Answer) {
        self.finished = true;
        self.reply.set(answer);
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        if !self.finished {
            self.reply.set(Answer::gone());
        }
    }
}

/// Where an answer is waited for.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    answer: Mutex<Option<Answer>>,
    come: Condvar,
}

impl Reply {
    fn set(&self, answer: Answer) {
        *self.answer.lock() = Some(answer);
        self.come.notify_one();
    }

    /// The answer, if it comes until `deadline`.
    pub(crate) fn wait(&self, deadline: Instant) -> Option<Answer> {
        let mut answer = self.answer.lock();
        while answer.is_none() {
            if self.come.wait_until(&mut answer, deadline).timed_out() {
                break;
            }
        }
        answer.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn errand() -> (Errand, Arc<Reply>) {
        Errand::new(Work::Save {
            function: GuestVirt::new(0),
            max: 0,
        })
    }

    #[test]
    fn an_errand_that_nobody_finishes_answers_that_it_failed() {
        let (errand, reply) = errand();
        drop(errand);
        let answer = reply.wait(Instant::now());
        assert!(matches!(answer, Some(Answer::Failed(_))), "{answer:?}");
    }

    #[test]
    fn who_waits_gets_the_answer_or_waits_no_longer_than_it_wants() {
        let (errand, reply) = errand();
        assert_eq!(reply.wait(Instant::now()), None);
        let answer = Answer::Returned {
            len: 1,
            data: vec![1],
        };
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| reply.wait(Instant::now() + Duration::from_secs(300)));
            errand.finish(answer.clone());
            assert_eq!(waiting.join().unwrap(), Some(answer));
        });
    }
}
