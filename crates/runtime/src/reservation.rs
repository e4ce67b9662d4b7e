//! One request VM in the hands of one caller, from reserving to the copied body.
//!
//! Guards: a panic of ours while a guest runs costs the slot, not the process; what leaves a
//! reservation has been wiped or is thrown away.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::body::BodyError;
use crate::detached::Room;
use crate::exchange::{Deadline, Exchange, Say, Severity};
use crate::instance::{Instance, Retired};
use crate::journal;
use crate::request_abi::Request;
use crate::response::Response;
use crate::slot::{Slot, State};
use crate::stream::PullError;

/// A request VM held for one request. Dropping it wipes the VM and gives it back: keep it until
/// the body is copied.
#[derive(Debug)]
pub struct Reservation {
    slot: Option<Box<Slot>>,
    instance: Arc<Instance>,
}

impl Reservation {
    pub(crate) fn new(slot: Box<Slot>, instance: Arc<Instance>) -> Self {
        Self {
            slot: Some(slot),
            instance,
        }
    }

    /// The program's name.
    pub fn program(&self) -> &str {
        self.instance.name()
    }

    /// Room for an answer that the VM has no more.
    pub(crate) fn detached(&self) -> &Arc<Room> {
        self.instance.detached()
    }

    /// Says which request the body belongs to that comes next. Not needed without a body.
    pub fn begin(&mut self, request: &Request<'_>) {
        let _poisoned_by_a_panic = self.with_slot(|slot, instance| slot.begin(instance, request));
    }

    /// Says that the request has a body, and how long it is if that is known.
    pub fn begin_body(&mut self, len: Option<u64>) -> Result<(), BodyError> {
        self.with_slot(|slot, instance| slot.begin_body(instance, len))
            .unwrap_or(Err(BodyError::Over))
    }

    /// Hands the next part of the request body over. A program that takes bodies in parts may run.
    pub fn push_body(
        &mut self,
        chunk: &[u8],
        exchange: &mut dyn Exchange,
    ) -> Result<(), BodyError> {
        self.with_slot(|slot, instance| slot.push_body(instance, chunk, exchange))
            .unwrap_or(Err(BodyError::Over))
    }

    /// Says that all of the body is there. A program that takes bodies in parts may run.
    pub fn end_body(&mut self, exchange: &mut dyn Exchange) -> Result<(), BodyError> {
        self.with_slot(|slot, instance| slot.end_stream(instance, exchange))
            .unwrap_or(Err(BodyError::Over))
    }

    /// Lets the program answer. Never fails: the answer may be a plain 500. A reservation serves
    /// one request.
    pub fn handle(&mut self, request: &Request<'_>, exchange: &mut dyn Exchange) -> Response {
        let response = {
            let exchange = &mut *exchange;
            self.with_slot(|slot, instance| match slot.orders() {
                Some(orders) => orders.run(|| slot.serve(instance, request, exchange)),
                None => Some(slot.serve(instance, request, exchange)),
            })
        };
        response.flatten().unwrap_or_else(|| {
            let line = format!(
                "{}: a failure of the host ended the request",
                self.instance.name()
            );
            exchange.log(Severity::Error, line.as_bytes());
            exchange.forget_lifetime();
            Response::failed()
        })
    }

    /// Fills `into` with what comes next of the response body: how much there was, and 0 at its
    /// end. For a body that is made while it is read, this runs the program.
    /// What the program logs goes to the journal.
    pub fn pull(&mut self, into: &mut [u8]) -> Result<usize, PullError> {
        let program = Arc::clone(&self.instance);
        let mut say = |severity, line: &[u8]| journal::say(severity, program.name(), line);
        self.pull_and_say(into, None, &mut say)
    }

    /// As `pull`, with the log where it belongs. Who reads all of the body says when it has to be
    /// there (`whole_by`).
    pub fn pull_and_say(
        &mut self,
        into: &mut [u8],
        whole_by: Option<Deadline>,
        say: &mut Say<'_>,
    ) -> Result<usize, PullError> {
        self.with_slot(|slot, instance| slot.pull(instance, into, whole_by, say))
            .unwrap_or(Err(PullError::Over))
    }

    /// The end of reading all of the body on behalf of `exchange`: it takes no longer than an answer.
    pub(crate) fn whole_by(&self, exchange: &dyn Exchange) -> Deadline {
        exchange.call_deadline(self.instance.max_request_time())
    }

    /// Whether giving the VM back takes next to no time. It may take long where a request wrote much,
    /// and where the program runs on to keep its state.
    pub fn is_quickly_reset(&self) -> bool {
        self.slot
            .as_deref()
            .is_some_and(|slot| slot.is_quickly_reset(&self.instance))
    }

    /// Has the VM reset after this request, also that of a program that keeps its state
    /// (`soft_reset`).
    pub fn reset_afterwards(&mut self) {
        if let Some(slot) = self.slot.as_deref_mut() {
            slot.lasting.end();
        }
    }

    /// Runs code of ours on the slot; a panic in there poisons it.
    fn with_slot<R>(&mut self, work: impl FnOnce(&mut Slot, &Instance) -> R) -> Option<R> {
        let slot = self.slot.as_deref_mut()?;
        match catch_unwind(AssertUnwindSafe(|| work(slot, &self.instance))) {
            Ok(result) => Some(result),
            Err(_reported_by_the_hook) => {
                slot.state = State::Poisoned;
                None
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        match slot.orders() {
            Some(orders) => orders.post(Retired::new(slot, Arc::clone(&self.instance))),
            None => self.instance.take_back(slot),
        }
    }
}
