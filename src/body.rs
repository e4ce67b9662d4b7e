//! The request body, from the client or from Varnish's copy of it, straight into guest memory.

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

struct Sink<'a> {
    reservation: &'a mut Reservation,
    exchange: &'a mut dyn Exchange,
    refused: Option<BodyError>,
}

/// Hands the body of the request over, if there is one.
pub(crate) fn deliver(
    ctx: Context<'_>,
    reservation: &mut Reservation,
    exchange: &mut dyn Exchange,
) -> Result<(), Undelivered> {
    // SAFETY: the context is valid and a director's, which has a busy object.
    if unsafe { ffi::tk_request_has_body(ctx.raw()) } == 0 {
        return Ok(());
    }
    // SAFETY: as above.
    let len = unsafe { ffi::tk_request_length(ctx.raw()) };
    reservation.begin_body(u64::try_from(len).ok())?;
    let mut sink = Sink {
        reservation,
        exchange,
        refused: None,
    };
    // SAFETY: as above; the sink outlives the call, which alone uses it.
    let end = unsafe { ffi::tk_request_body(ctx.raw(), (&raw mut sink).cast()) };
    match (end, sink.refused) {
        (ffi::TK_BODY_DONE, None) => Ok(()),
        (_, Some(error)) => Err(Undelivered::Refused(error)),
        (ffi::TK_BODY_BROKEN, None) => Err(Undelivered::Broken),
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
    // SAFETY: the sink of `deliver`, which waits for the call that we are in.
    let Some(sink) = (unsafe { sink.cast::<Sink<'_>>().as_mut() }) else {
        return -1;
    };
    // SAFETY: varnishd hands `len` bytes over for the time of this call.
    let segment = unsafe { slice::from_raw_parts(segment.cast::<u8>(), len) };
    guard(None, -1, || {
        match sink.reservation.push_body(segment, sink.exchange) {
            Ok(()) => 0,
            Err(error) => {
                sink.refused = Some(error);
                -1
            }
        }
    })
}
