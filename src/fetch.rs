//! The response body, from the request VM into Varnish's storage: copied once, piece by piece,
//! into the memory that the storage offers.
//!
//! Guards: the request VM stays as the guest left it until the last byte is copied.

use std::{
    ffi::{c_int, c_void},
    ptr::{self, NonNull},
};

use runtime::Reservation;

use crate::{context::Context, ffi, guard::guard, ttl};

/// A request VM that has answered, and how far its body is handed over.
#[derive(Debug)]
pub(crate) struct Answer {
    reservation: Reservation,
    lifetime: Option<ttl::Plan>,
    piece: usize,
    offset: usize,
    /// Bytes that are still to be handed over.
    left: u64,
}

impl Answer {
    /// `len` is 0 for a response that has no body, whatever the guest handed over.
    pub(crate) fn new(reservation: Reservation, lifetime: Option<ttl::Plan>, len: u64) -> Self {
        Self {
            reservation,
            lifetime,
            piece: 0,
            offset: 0,
            left: len,
        }
    }

    /// Copies up to `room` bytes to `to`, answers how many.
    ///
    /// # Safety
    /// `to` points to `room` writable bytes that belong to the caller.
    unsafe fn copy(&mut self, to: *mut u8, room: usize) -> usize {
        let mut done = 0;
        while done < room && self.left > 0 {
            let Some(piece) = self.reservation.body().get(self.piece) else {
                break;
            };
            let rest = piece.len.saturating_sub(self.offset);
            let bounded = usize::try_from(self.left).unwrap_or(usize::MAX);
            let len = rest.min(room.saturating_sub(done)).min(bounded);
            let from = piece.ptr.wrapping_add(self.offset);
            let into = to.wrapping_add(done);
            // SAFETY: `from` is inside the piece, which the reservation keeps mapped and whose VM
            // does not run; `into` has `room - done` bytes left and is not guest memory.
            unsafe { ptr::copy_nonoverlapping(from, into, len) };
            done = done.saturating_add(len);
            self.left = self
                .left
                .saturating_sub(u64::try_from(len).unwrap_or(u64::MAX));
            self.offset = self.offset.saturating_add(len);
            if self.offset >= piece.len {
                self.piece = self.piece.saturating_add(1);
                self.offset = 0;
            }
        }
        done
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

/// The storage has room for more of the body.
#[unsafe(no_mangle)]
unsafe extern "C" fn tk_rs_body_pull(
    source: *mut c_void,
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
    guard(None, ffi::TK_PULL_FAILED, || {
        // SAFETY: varnishd offers `room` bytes of its storage at `to`.
        *written = unsafe { answer.copy(to.cast(), room) };
        match (answer.left, *written) {
            (0, _) => ffi::TK_PULL_END,
            // Fewer bytes in pieces than announced: our own mistake, never a short body.
            (_, 0) if room > 0 => ffi::TK_PULL_FAILED,
            _ => ffi::TK_PULL_MORE,
        }
    })
}
