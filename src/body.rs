//! The request body, from the client or from Varnish's copy of it, straight into guest memory or to
//! whoever else wants it.

use std::{
    ffi::{c_int, c_void},
    slice,
};

use runtime::{BodyError, Exchange, Reservation};

use crate::{context::Context, ffi, guard::guard};

/// Why a request body did not reach the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Undelivered {
    #[error("request body: {0}")]
    Refused(#[from] BodyError),
    #[error("the request body could not be read from the client")]
    Broken,
    #[error("the request body could not be handed over")]
    Bug,
}

/// How the receiving of a body has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    /// Who took it has had enough.
    Stopped,
    Broken,
    Bug,
}

/// Takes a segment; `false` ends the receiving.
struct Sink<'a>(&'a mut dyn FnMut(&[u8]) -> bool);

/// Whether the request has a body, and how long it is if that is known.
pub(crate) fn announced(ctx: Context<'_>) -> Option<Option<u64>> {
    // SAFETY: the context is valid and a director's, which has a busy object.
    if unsafe { ffi::tk_request_has_body(ctx.raw()) } == 0 {
        return None;
    }
    // SAFETY: as above.
    let len = unsafe { ffi::tk_request_length(ctx.raw()) };
    Some(u64::try_from(len).ok())
}

/// Receives the body that was announced.
pub(crate) fn receive(ctx: Context<'_>, take: &mut dyn FnMut(&[u8]) -> bool) -> End {
    let mut sink = Sink(take);
    // SAFETY: a director's context; the sink outlives the call, which alone uses it.
    match unsafe { ffi::tk_request_body(ctx.raw(), (&raw mut sink).cast()) } {
        ffi::TK_BODY_DONE => End::Done,
        ffi::TK_BODY_STOPPED => End::Stopped,
        ffi::TK_BODY_BROKEN => End::Broken,
        _ => End::Bug,
    }
}

/// Hands the body of the request over, if there is one.
pub(crate) fn deliver(
    ctx: Context<'_>,
    reservation: &mut Reservation,
    exchange: &mut dyn Exchange,
) -> Result<(), Undelivered> {
    let Some(len) = announced(ctx) else {
        return Ok(());
    };
    reservation.begin_body(len)?;
    let mut refused = None;
    let end = receive(ctx, &mut |segment| {
        refused = reservation.push_body(segment, exchange).err();
        refused.is_none()
    });
    match (end, refused) {
        (End::Done, None) => {
            exchange.body_ended();
            Ok(reservation.end_body(exchange)?)
        }
        (_, Some(error)) => Err(Undelivered::Refused(error)),
        (End::Broken, None) => Err(Undelivered::Broken),
        _ => Err(Undelivered::Bug),
    }
}

/// One segment of the body. Anything but 0 ends the delivery.
#[unsafe(no_mangle)]
unsafe extern "C" fn tk_rs_push_body(
    sink: *mut c_void,
    segment: *const c_void,
    len: usize,
) -> c_int {
    if segment.is_null() {
        return -1;
    }
    // SAFETY: the sink of `receive`, which waits for the call that we are in.
    let Some(sink) = (unsafe { sink.cast::<Sink<'_>>().as_mut() }) else {
        return -1;
    };
    // SAFETY: varnishd hands `len` bytes over for the time of this call.
    let segment = unsafe { slice::from_raw_parts(segment.cast::<u8>(), len) };
    guard(None, -1, || if (sink.0)(segment) { 0 } else { -1 })
}
