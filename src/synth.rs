//! `synth()`: the answer of a program as the response that VCL makes itself.

use std::ffi::c_uint;

use runtime::chain::Outcome;

use crate::{
    context::{Context, Place, string},
    entry::{Ctx, Priv, Text, enter},
    exchange::Messages,
    ffi,
    immediate::{self, NoAnswer, Order},
    state::State,
};

const _: () = {
    let _ = [
        ffi::vmod_synth as unsafe extern "C" fn(_, _, _, _, _, _, _) -> _,
        vmod_synth,
    ];
};

/// When there is no answer.
const FAILED: u16 = 500;

#[unsafe(no_mangle)]
unsafe extern "C" fn vmod_synth(
    ctx: Ctx,
    vcl: Priv,
    status: i64,
    program: Text,
    url: Text,
    arg: Text,
    soft_reset: i64,
) -> i64 {
    let body = |ctx: Context<'_>, state: &State| {
        let order = Order {
            function: "synth",
            // SAFETY: a STRING argument.
            program: unsafe { string(program) },
            // SAFETY: a STRING argument.
            url: unsafe { string(url) },
            // SAFETY: a STRING argument.
            argument: unsafe { string(arg) },
            threshold: runtime::chain::Link::NEVER,
            soft_reset: soft_reset != 0,
        };
        if !matches!(ctx.place(), Place::Synth | Place::BackendError) {
            ctx.fail("tinykvm.synth(): only in vcl_synth and vcl_backend_error");
            return 0;
        }
        match immediate::run(ctx, state, &order) {
            Err(NoAnswer::Misuse) => 0,
            Err(NoAnswer::Failed) => answer(ctx, final_status(status, None)),
            Ok(mut outcome) => {
                if let Err(reason) = fill(ctx, &mut outcome) {
                    immediate::complain(ctx, &order, &reason);
                    return answer(ctx, FAILED);
                }
                answer(ctx, final_status(status, Some(&outcome)))
            }
        }
    };
    // SAFETY: called by varnishd as a VCL function.
    unsafe { enter(ctx, vcl, 0, body) }
}

/// VCL's status where it is one, otherwise the program's. What ended a chain before its end is
/// told as it is: an error page with the status of a success helps nobody.
fn final_status(asked: i64, outcome: Option<&Outcome>) -> u16 {
    let answered = outcome.map_or(FAILED, |outcome| outcome.response.status);
    if outcome.is_some_and(|outcome| outcome.broken) {
        return answered;
    }
    match u16::try_from(asked) {
        Ok(asked @ 200..=699) => asked,
        _ => answered,
    }
}

fn answer(ctx: Context<'_>, status: u16) -> i64 {
    // SAFETY: in vcl_synth or vcl_backend_error.
    unsafe { ffi::tk_synth_status(ctx.raw(), c_uint::from(status)) };
    i64::from(status)
}

/// Type and body.
fn fill(ctx: Context<'_>, outcome: &mut Outcome) -> Result<(), String> {
    let mut messages = Messages::new(ctx);
    messages
        .put_content_type(&outcome.response.content_type)
        .map_err(|error| format!("Content-Type: {error}"))?;
    // All of it first: half a body is none.
    outcome
        .detach(&mut messages)
        .map_err(|error| error.to_string())?;
    let body = outcome.held();
    // SAFETY: in vcl_synth or vcl_backend_error; the bytes are copied during the call.
    if unsafe { ffi::tk_synth_body(ctx.raw(), body.as_ptr().cast(), body.len()) } != 0 {
        return Err("no memory for the body".to_owned());
    }
    Ok(())
}
