//! The response body, from the request VM into Varnish's storage: copied once, piece by piece,
//! into the memory that the storage offers. A small one is copied twice, so that its VM is free at once.
//!
//! Guards: the request VM stays as the guest left it until the last byte is copied.

use std::{
    ffi::{c_int, c_void},
    ptr::NonNull,
    slice,
};

use runtime::{
    Exchange, PullError, Reservation, Say, Severity,
    chain::{Outcome, SMALL, TransferError},
};

use crate::{
    context::Context,
    ffi,
    guard::guard,
    log::{self, Tag},
    ttl,
};

/// An answer, and how far its body is handed over.
#[derive(Debug)]
pub(crate) struct Answer {
    outcome: Outcome,
    lifetime: Option<ttl::Plan>,
    /// Bytes that are still to be handed over.
    left: u64,
}

impl Answer {
    /// `len` is 0 for a response that has no body, whatever the guest handed over.
    pub(crate) fn new(outcome: Outcome, lifetime: Option<ttl::Plan>, len: u64) -> Self {
        Self {
            outcome,
            lifetime,
            left: len,
        }
    }

    /// Whether the whole body is there and short. To stream it would be to wake the client twice. It is
    /// copied at once, so that its VM can serve the next request: what comes until the last byte is
    /// stored takes a worker longer than the guest took, sleep included.
    pub(crate) fn is_small(&self) -> bool {
        self.left <= SMALL && !self.outcome.response.streams
    }

    /// Gives the request VM back before the body is delivered, where that costs the client nothing.
    pub(crate) fn free_vm_early(
        &mut self,
        exchange: &mut dyn Exchange,
    ) -> Result<(), TransferError> {
        let quick = |held: &Reservation| held.is_quickly_reset();
        if self.is_small() && self.outcome.reservation.as_ref().is_some_and(quick) {
            return self.free_vm(exchange);
        }
        Ok(())
    }

    /// Gives the request VM back and keeps a copy of what is still to be delivered.
    fn free_vm(&mut self, exchange: &mut dyn Exchange) -> Result<(), TransferError> {
        if self.left == 0 {
            self.outcome.reservation = None;
            return Ok(());
        }
        self.outcome.detach(exchange)
    }

    /// Copies what there is room for, answers how many bytes. Whoever waits for the body sees it come:
    /// each part has its time, all of it has not.
    fn copy(&mut self, to: &mut [u8], say: &mut Say<'_>) -> Result<usize, PullError> {
        let bounded = usize::try_from(self.left).unwrap_or(usize::MAX);
        let room = to.len().min(bounded);
        let len = self
            .outcome
            .pull_and_say(to.get_mut(..room).unwrap_or_default(), None, say)?;
        self.left = self
            .left
            .saturating_sub(u64::try_from(len).unwrap_or(u64::MAX));
        Ok(len)
    }
}

/// An answer in a place of its own: varnishd's fetch filter holds the same pointer.
#[derive(Debug)]
pub(crate) struct Held(NonNull<Answer>);

impl Held {
    pub(crate) fn new(answer: Answer) -> Self {
        Self(NonNull::from(Box::leak(Box::new(answer))))
    }

    pub(crate) fn source(&self) -> *mut c_void {
        self.0.as_ptr().cast()
    }

    /// The program whose VM has the body.
    pub(crate) fn program(&self) -> Option<&str> {
        // SAFETY: made by `new`; the filter does not run while VCL does.
        unsafe { self.0.as_ref() }.outcome.program()
    }

    /// Gives the request VM back and keeps a copy of what is still to be delivered.
    pub(crate) fn detach(&mut self, exchange: &mut dyn Exchange) -> Result<(), TransferError> {
        // SAFETY: made by `new`; the filter does not run while VCL does.
        unsafe { self.0.as_mut() }.free_vm(exchange)
    }

    pub(crate) fn is_delivered(&self) -> bool {
        // SAFETY: made by `new`; the filter does not run while the director does.
        unsafe { self.0.as_ref() }.left == 0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: made by `new`, dropped once; varnishd has closed the filter by then, or never
        // pulls from it again.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// The filter is opened: behind `vcl_backend_response`, before the object is made.
#[unsafe(no_mangle)]
unsafe extern "C" fn tk_rs_body_open(ctx: *const ffi::vrt_ctx, source: *mut c_void) -> c_int {
    // SAFETY: varnishd's context, for the time of this call.
    let Some(ctx) = (unsafe { Context::from_raw(ctx) }) else {
        return -1;
    };
    // SAFETY: what `Held::source` gave, which the task keeps; nobody else uses it now.
    let Some(answer) = (unsafe { source.cast::<Answer>().as_mut() }) else {
        return -1;
    };
    guard(Some(ctx), -1, || {
        if let Some(lifetime) = answer.lifetime.take() {
            lifetime.settle(ctx);
        }
        0
    })
}

/// A fetch whose body is pulled, for its log.
struct Fetch(*const ffi::vfp_ctx);

// SAFETY: the guest may run on another thread than the worker, which waits for it: never two
// threads at once, and a log buffer is not bound to its thread.
unsafe impl Send for Fetch {}
// SAFETY: as above.
unsafe impl Sync for Fetch {}

impl Fetch {
    fn log(&self, tag: Tag, line: &[u8]) {
        // SAFETY: made for the time of one pull, which has not returned.
        unsafe { log::fetch(self.0, tag, line) };
    }
}

/// The storage has room for more of the body.
#[unsafe(no_mangle)]
unsafe extern "C" fn tk_rs_body_pull(
    source: *mut c_void,
    fetch: *const ffi::vfp_ctx,
    to: *mut c_void,
    room: usize,
    written: *mut usize,
) -> c_int {
    // SAFETY: as in `tk_rs_body_open`.
    let Some(answer) = (unsafe { source.cast::<Answer>().as_mut() }) else {
        return ffi::TK_PULL_FAILED;
    };
    // SAFETY: a variable of the calling shim.
    let Some(written) = (unsafe { written.as_mut() }) else {
        return ffi::TK_PULL_FAILED;
    };
    if to.is_null() {
        return ffi::TK_PULL_FAILED;
    }
    // SAFETY: varnishd offers `room` bytes of its storage at `to`, to us alone during this call.
    let to = unsafe { slice::from_raw_parts_mut(to.cast::<u8>(), room) };
    let fetch = Fetch(fetch);
    guard(None, ffi::TK_PULL_FAILED, || {
        let mut say = |severity: Severity, line: &[u8]| fetch.log(severity.into(), line);
        let len = match answer.copy(to, &mut say) {
            Ok(len) => len,
            Err(error) => {
                let text = match (&error, answer.outcome.program()) {
                    (PullError::Over, Some(program)) => format!("{program}: {error}"),
                    _ => error.to_string(),
                };
                fetch.log(Tag::Error, text.as_bytes());
                return ffi::TK_PULL_FAILED;
            }
        };
        *written = len;
        match (answer.left, *written) {
            (0, _) => ffi::TK_PULL_END,
            // Fewer bytes than announced: our own mistake, never a short body.
            (_, 0) if room > 0 => ffi::TK_PULL_FAILED,
            _ => ffi::TK_PULL_MORE,
        }
    })
}
