//! A request body on its way to a program that takes it in parts: each is written to the same place
//! in guest memory, over the one before, and the program's callback is told.
//!
//! ```text
//! begin --push--> collecting --a full segment, or the end--> callback --returned its length--> collecting
//!                                                             |\--answered: the rest of the body is dropped
//!                                                             \--anything else: the request is over
//! ```
//!
//! Guards: what was collected is in guest memory only. The program gets every byte once and in
//! order, or the request fails.

use sandbox::{Exit, Fault, GuestVirt};

use crate::body::BodyError;
use crate::exchange::{Exchange, Limit};
use crate::hypercalls::Entry;
use crate::instance::Instance;
use crate::request_abi::{Request, Strings};
use crate::serve::{Ended, STREAM_POST};
use crate::slot::{Slot, State};

/// Bytes that a program gets at once: as many as fit into the request area beside the request, so
/// that they cost no mapping. A call costs as much as copying some 100 KiB.
const SEGMENT: u64 = 64 << 10;

/// A body that goes to the program in parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inflow {
    strings: Strings,
    place: Option<Place>,
    /// Bytes in the segment that is being filled.
    filled: u64,
    /// Bytes that the program has been told of.
    told: u64,
    /// The program did not wait for the rest.
    answered: bool,
}

/// What lies where in guest memory.
#[derive(Debug, Clone, Copy)]
struct Place {
    texts: GuestVirt,
    segment: GuestVirt,
}

impl Slot {
    /// Says which request the body belongs to that may come next.
    pub(crate) fn begin(&mut self, instance: &Instance, request: &Request<'_>) {
        if instance.entry().get(Entry::StreamPost).is_some() && self.state == State::Ready {
            self.inflow = Some(Inflow {
                strings: self.layout.strings(request),
                place: None,
                filled: 0,
                told: 0,
                answered: false,
            });
        }
    }

    /// Whether the program has answered before all of the body was there.
    pub(crate) fn answered_early(&self) -> bool {
        self.inflow.is_some_and(|inflow| inflow.answered)
    }

    /// Takes a part of the body.
    pub(crate) fn stream_in(
        &mut self,
        instance: &Instance,
        function: GuestVirt,
        chunk: &[u8],
        exchange: &mut dyn Exchange,
    ) -> Result<(), BodyError> {
        let mut inflow = self.inflow.ok_or(BodyError::NotBegun)?;
        let place = match inflow.place {
            Some(place) => place,
            None => self.place()?,
        };
        inflow.place = Some(place);
        self.inflow = Some(inflow);
        let mut rest = chunk;
        while !rest.is_empty() && !self.answered_early() {
            let filled = self.inflow.map_or(0, |inflow| inflow.filled);
            let room = usize::try_from(SEGMENT.saturating_sub(filled)).unwrap_or(0);
            let (now, later) = rest.split_at(room.min(rest.len()));
            let to = GuestVirt::new(place.segment.raw().saturating_add(filled));
            self.vm.memory_mut().write(to, now)?;
            rest = later;
            let filled = filled.saturating_add(u64::try_from(now.len()).unwrap_or(0));
            if let Some(inflow) = &mut self.inflow {
                inflow.filled = filled;
            }
            if filled == SEGMENT {
                self.tell(instance, function, exchange)?;
            }
        }
        let len = u64::try_from(chunk.len()).unwrap_or(0);
        self.body_of(instance).0.passed(len);
        Ok(())
    }

    /// There is no more of the body: the program gets what has been collected.
    pub(crate) fn end_stream(
        &mut self,
        instance: &Instance,
        exchange: &mut dyn Exchange,
    ) -> Result<(), BodyError> {
        match (self.inflow, instance.entry().get(Entry::StreamPost)) {
            (Some(inflow), Some(function)) if inflow.filled > 0 && !inflow.answered => {
                self.tell(instance, function, exchange)
            }
            _ => Ok(()),
        }
    }

    /// Makes room for the texts that every call gets, and for segments.
    fn place(&mut self) -> Result<Place, BodyError> {
        let len = u64::try_from(self.layout.bytes().len()).unwrap_or(u64::MAX);
        Ok(Place {
            texts: self.vm.request_alloc(len)?,
            segment: self.vm.request_alloc(SEGMENT)?,
        })
    }

    /// Has the program take what has been collected.
    fn tell(
        &mut self,
        instance: &Instance,
        function: GuestVirt,
        exchange: &mut dyn Exchange,
    ) -> Result<(), BodyError> {
        let result = self.timed(|slot| match slot.orders() {
            None => slot.call_taker(instance, function, exchange),
            Some(orders) => orders
                .run(|| slot.call_taker(instance, function, exchange))
                .unwrap_or(Err(BodyError::Over)),
        });
        if result.is_err() {
            self.tell_cost(instance, STREAM_POST, Ended::Failed, exchange);
            if self.state != State::Poisoned {
                self.state = State::Spent;
            }
        }
        result
    }

    fn call_taker(
        &mut self,
        instance: &Instance,
        function: GuestVirt,
        exchange: &mut dyn Exchange,
    ) -> Result<(), BodyError> {
        let mut inflow = self.inflow.ok_or(BodyError::NotBegun)?;
        let Place { texts, segment } = inflow.place.ok_or(BodyError::NotBegun)?;
        let len = inflow.filled;
        // Anew for each call: they are the program's to write over.
        self.vm.memory_mut().write(texts, self.layout.bytes())?;
        let texts = inflow.strings.at(texts);
        let arguments = [
            texts.url,
            texts.argument,
            texts.content_type,
            segment.raw(),
            len,
            inflow.told,
        ];
        let deadline = exchange.call_deadline(instance.max_request_time());
        self.leave_waiting()
            .map_err(|fault| self.taker_failed(&fault, deadline.limit))?;
        let exit = self
            .run(instance, exchange, |vm, scene| {
                vm.call(function, &arguments, deadline.at, scene)
            })
            .map_err(|fault| self.taker_failed(&fault, deadline.limit))?;
        match exit {
            Exit::Returned { rax, .. } if rax == len => {}
            Exit::Returned { rax, .. } => {
                let returned = rax.cast_signed();
                return Err(BodyError::NotTaken { returned, len });
            }
            Exit::Stopped(_) if self.desk.answer.status().is_some() => inflow.answered = true,
            Exit::Stopped(_) => {
                let message = "the program stopped while it took the body";
                let fault = Fault::Misuse(message.to_owned());
                return Err(self.taker_failed(&fault, deadline.limit));
            }
        }
        inflow.told = inflow.told.saturating_add(len);
        inflow.filled = 0;
        self.inflow = Some(inflow);
        Ok(())
    }

    fn taker_failed(&mut self, fault: &Fault, limit: Limit) -> BodyError {
        self.count_fault(fault);
        if matches!(fault, Fault::Machine(_)) {
            self.state = State::Poisoned;
        }
        BodyError::Failed {
            told: self.vm.image().describe(fault),
            out_of_time: matches!(fault, Fault::TimedOut).then_some(limit),
        }
    }
}
