//! The response body on its way out, in the parts that whoever reads it has room for.
//!
//! Guards: what is read is the body, from its first byte to the last one announced, and never more.

use std::ptr;

use crate::slot::{Slot, State};

/// Why there is no more of a body, although more was announced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// There is no response to read, or the VM broke.
    #[error("the response is over")]
    Over,
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
    pub(crate) fn pull(&mut self, into: &mut [u8]) -> Result<usize, PullError> {
        let Self { desk, outflow, .. } = self;
        if outflow.left == 0 {
            return Ok(0);
        }
        if self.state != State::Served {
            return Err(PullError::Over);
        }
        let mut rest = into;
        let mut done: usize = 0;
        while let Some(piece) = desk.answer.pieces().get(outflow.piece) {
            let len = piece.len.saturating_sub(outflow.offset).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            let from = piece.ptr.wrapping_add(outflow.offset);
            // SAFETY: `from` is inside a piece of this slot's VM, which keeps it mapped and does not
            // run; `now` is as long as said and no guest memory.
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
        let pulled = u64::try_from(done).unwrap_or(u64::MAX);
        outflow.left = outflow.left.saturating_sub(pulled);
        Ok(done)
    }
}
