//! The response body on its way out, in the parts that whoever reads it has room for: copied out of
//! guest memory where the program left it whole, or made by the program part by part.
//!
//! Guards: what is read is the body, from its first byte to the last one announced. A body that
//! stops short of that is an error and never just an end. No part is waited for longer than
//! [`MAX_TIME`], nor past the end that the reader sets to all of the body.

use std::ptr;
use std::time::{Duration, Instant};

use sandbox::{Exit, Fault, GuestVirt};

use crate::exchange::{Deadline, Limit, Say};
use crate::hypercalls::{Producer, Scene, Stage};
use crate::instance::Instance;
use crate::slot::{Slot, State};

/// How long a program may take to make one part.
const MAX_TIME: Duration = Duration::from_secs(2);
/// What it is asked for at most at once, so that it need not hold whatever a storage offers.
const MAX_PART: usize = 1 << 20;

/// Why there is no more of a body, although more was announced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// There is no response to read, or the VM broke.
    #[error("the response is over")]
    Over,
    /// The program failed while it made the body.
    #[error("{program}: the response body ends after {written} of {total} bytes: {told}")]
    Failed {
        program: String,
        written: u64,
        total: u64,
        told: String,
        timed_out: bool,
    },
}

/// How far a response body has been read.
#[derive(Debug, Default)]
pub(crate) struct Outflow {
    /// Bytes that are still to be read.
    left: u64,
    /// The piece of guest memory that comes next, and how much of it is gone.
    piece: usize,
    offset: usize,
}

impl Outflow {
    /// A body of `len` bytes is there to be read.
    pub(crate) fn begin(&mut self, len: u64) {
        self.left = len;
    }

    pub(crate) fn reset(&mut self) {
        let Self {
            left,
            piece,
            offset,
        } = self;
        *left = 0;
        *piece = 0;
        *offset = 0;
    }
}

impl Slot {
    /// Fills `into` with what comes next of the response body: how much there was; 0 at its end.
    /// A program that makes it does so until `whole_by`.
    pub(crate) fn pull(
        &mut self,
        instance: &Instance,
        into: &mut [u8],
        whole_by: Option<Deadline>,
        say: &mut Say<'_>,
    ) -> Result<usize, PullError> {
        if self.outflow.left == 0 || into.is_empty() {
            return Ok(0);
        }
        if self.state != State::Served {
            return Err(PullError::Over);
        }
        let done = match (self.desk.answer.producer(), self.orders()) {
            (None, _) => self.copy_out(into),
            (Some(producer), None) => self.produce(instance, producer, into, whole_by, say)?,
            (Some(producer), Some(orders)) => orders
                .run(|| self.produce(instance, producer, into, whole_by, say))
                .unwrap_or(Err(PullError::Over))?,
        };
        if done == 0 {
            return Err(PullError::Over);
        }
        let pulled = u64::try_from(done).unwrap_or(u64::MAX);
        self.outflow.left = self.outflow.left.saturating_sub(pulled);
        Ok(done)
    }

    fn copy_out(&mut self, into: &mut [u8]) -> usize {
        let Self { desk, outflow, .. } = self;
        let mut rest = into;
        let mut done: usize = 0;
        while let Some(piece) = desk.answer.pieces().get(outflow.piece) {
            let len = piece.len.saturating_sub(outflow.offset).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            let from = piece.ptr.wrapping_add(outflow.offset);
            // SAFETY: `from` is inside a piece of this slot's VM, which keeps it mapped and does not
            // run; `now` is as long as said and no guest memory. Where the piece is memory that other
            // VMs write to as well, any bytes will do.
            unsafe { ptr::copy_nonoverlapping(from, now.as_mut_ptr(), len) };
            rest = later;
            done = done.saturating_add(len);
            outflow.offset = outflow.offset.saturating_add(len);
            if outflow.offset < piece.len {
                break;
            }
            outflow.piece = outflow.piece.saturating_add(1);
            outflow.offset = 0;
        }
        done
    }

    /// Has the program make a part.
    fn produce(
        &mut self,
        instance: &Instance,
        producer: Producer,
        into: &mut [u8],
        whole_by: Option<Deadline>,
        say: &mut Say<'_>,
    ) -> Result<usize, PullError> {
        let total = self.desk.answer.content_length();
        let written = total.saturating_sub(self.outflow.left);
        let now = Instant::now();
        let part = Deadline {
            at: now + MAX_TIME,
            limit: Limit::Part,
        };
        let deadline = part.or_earlier(whole_by);
        // Parts that each come in time do not add up to more.
        let result = if deadline.at <= now {
            Err(Fault::TimedOut)
        } else {
            self.timed(|slot| {
                slot.call_producer(instance, producer, written, into, deadline.at, say)
            })
        };
        match result {
            Ok(len) => Ok(len),
            Err(fault) => {
                self.count_fault(&fault);
                // What a program could not go on with, it is not asked to.
                self.state = match fault {
                    Fault::Machine(_) => State::Poisoned,
                    _ => State::Spent,
                };
                let timed_out = matches!(fault, Fault::TimedOut);
                let mut told = self.vm.image().describe(&fault);
                if timed_out {
                    told = format!("{told} ({})", deadline.limit);
                }
                Err(PullError::Failed {
                    program: instance.name().to_owned(),
                    written,
                    total,
                    told,
                    timed_out,
                })
            }
        }
    }

    fn call_producer(
        &mut self,
        instance: &Instance,
        producer: Producer,
        written: u64,
        into: &mut [u8],
        deadline: Instant,
        say: &mut Say<'_>,
    ) -> Result<usize, Fault> {
        self.counters.invocations.add(1);
        let left = usize::try_from(self.outflow.left).unwrap_or(usize::MAX);
        let max = into.len().min(left).min(MAX_PART);
        let asked = u64::try_from(max).unwrap_or(u64::MAX);
        let total = self.desk.answer.content_length();
        let mut scene = Scene {
            stage: Stage::Streaming(say),
            desk: &mut self.desk,
            limits: instance.limits(),
            storage: instance.storage(),
        };
        let exit = self.vm.call_below(
            producer.stack,
            producer.function,
            &[producer.argument, asked, written, total],
            deadline,
            &mut scene,
        )?;
        let Exit::Returned { rax, rdx } = exit else {
            let message = "the callback of a streaming response did not return";
            return Err(Fault::Misuse(message.to_owned()));
        };
        let len = usize::try_from(rdx).unwrap_or(usize::MAX).min(max);
        if len == 0 {
            let message = "the callback of a streaming response returned no data";
            return Err(Fault::Misuse(message.to_owned()));
        }
        let part = into.get_mut(..len).unwrap_or_default();
        self.vm.memory().read(GuestVirt::new(rax), part)?;
        Ok(len)
    }
}
