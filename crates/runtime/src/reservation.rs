//! One request VM in the hands of one caller, from reserving to the delivered body.
//!
//! Guards: a panic of ours while a guest runs costs the slot, not the process; what leaves a
//! reservation has been wiped or is thrown away.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;

use sandbox::Piece;

use crate::body::BodyError;
use crate::exchange::{Exchange, Severity};
use crate::instance::{Instance, Retired};
use crate::request_abi::Request;
use crate::response::Response;
use crate::slot::{Slot, State};

/// A request VM held for one request. Dropping it wipes the VM and gives it back: keep it until
/// the body is delivered.
#[derive(Debug)]
pub struct Reservation {
    slot: Option<Box<Slot>>,
    instance: Arc<Instance>,
    /// How far the response body is read: the piece, and the byte in it.
    read: (usize, usize),
}

/// Why the rest of a response body cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    #[error("the response body is gone")]
    Gone,
}

impl Reservation {
    pub(crate) fn new(slot: Box<Slot>, instance: Arc<Instance>) -> Self {
        Self {
            slot: Some(slot),
            instance,
            read: (0, 0),
        }
    }

    /// Says that the request has a body, and how long it is if that is known.
    pub fn begin_body(&mut self, len: Option<u64>) -> Result<(), BodyError> {
        let max = self.instance.max_body();
        self.with_slot(|slot| slot.begin_body(len, max))
            .unwrap_or(Err(BodyError::Over))
    }

    /// Puts the next part of the request body into the VM.
    pub fn push_body(&mut self, chunk: &[u8]) -> Result<(), BodyError> {
        let max = self.instance.max_body();
        self.with_slot(|slot| slot.push_body(chunk, max))
            .unwrap_or(Err(BodyError::Over))
    }

    /// Lets the program answer. Never fails: the answer may be a plain 500. A reservation serves
    /// one request.
    pub fn handle(&mut self, request: &Request<'_>, exchange: &mut dyn Exchange) -> Response {
        let instance = Arc::clone(&self.instance);
        let response = {
            let exchange = &mut *exchange;
            self.with_slot(|slot| match slot.orders() {
                Some(orders) => orders.run(|| slot.serve(&instance, request, exchange)),
                None => Some(slot.serve(&instance, request, exchange)),
            })
        };
        response.flatten().unwrap_or_else(|| {
            let line = format!(
                "{}: a failure of the host ended the request",
                instance.name()
            );
            exchange.log(Severity::Error, line.as_bytes());
            Response::failed()
        })
    }

    /// The response body. The pieces are guest memory: they stay valid and unchanged until the
    /// reservation is dropped.
    pub fn body(&self) -> &[Piece] {
        match self.slot.as_deref() {
            Some(slot) if slot.state == State::Served => slot.desk.answer.pieces(),
            _ => &[],
        }
    }

    /// Copies the next bytes of the response body, as many as there is room for, and answers how
    /// many; 0 at the end.
    pub fn pull(&mut self, into: &mut [u8]) -> Result<usize, PullError> {
        let mut done = 0;
        let (mut piece, mut offset) = self.read;
        while let (Some(room), Some(from)) = (into.get_mut(done..), self.body().get(piece)) {
            let len = from.len.saturating_sub(offset).min(room.len());
            // SAFETY: the bytes are inside the piece, which is mapped until the reservation is
            // dropped and does not change while the VM does not run; `room` is no guest memory.
            unsafe {
                ptr::copy_nonoverlapping(from.ptr.wrapping_add(offset), room.as_mut_ptr(), len);
            }
            (done, offset) = (done.saturating_add(len), offset.saturating_add(len));
            if offset < from.len {
                break;
            }
            (piece, offset) = (piece.saturating_add(1), 0);
        }
        self.read = (piece, offset);
        Ok(done)
    }

    /// Runs code of ours on the slot; a panic in there poisons it.
    fn with_slot<R>(&mut self, work: impl FnOnce(&mut Slot) -> R) -> Option<R> {
        let slot = self.slot.as_deref_mut()?;
        match catch_unwind(AssertUnwindSafe(|| work(slot))) {
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
        let orders = slot.orders();
        let retired = Retired::new(slot, Arc::clone(&self.instance));
        match orders {
            Some(orders) => orders.post(retired),
            None => retired.finish(),
        }
    }
}
