//! `to_string()`: the answer of a program as a text in VCL.

use std::ffi::c_char;

use runtime::{Exchange, chain::Outcome};

use crate::{
    context::{Context, string},
    entry::{Ctx, Priv, Text, enter},
    exchange::Messages,
    ffi,
    immediate::{self, NoAnswer, Order},
    state::State,
};

const _: () = {
    let _ = [
        ffi::vmod_to_string as unsafe extern "C" fn(_, _, _, _, _, _, _, _) -> _,
        vmod_to_string,
    ];
};

#[unsafe(no_mangle)]
unsafe extern "C" fn vmod_to_string(
    ctx: Ctx,
    vcl: Priv,
    program: Text,
    url: Text,
    arg: Text,
    on_error: Text,
    threshold: i64,
    soft_reset: i64,
) -> Text {
    let body = |ctx: Context<'_>, state: &State| {
        let order = Order {
            function: "to_string",
            // SAFETY: a STRING argument.
            program: unsafe { string(program) },
            // SAFETY: a STRING argument.
            url: unsafe { string(url) },
            // SAFETY: a STRING argument.
            argument: unsafe { string(arg) },
            threshold,
            soft_reset: soft_reset != 0,
        };
        match immediate::run(ctx, state, &order) {
            Err(NoAnswer::Misuse) => std::ptr::null(),
            Err(NoAnswer::Failed) => on_error,
            Ok(outcome) if outcome.broken => on_error,
            Ok(mut outcome) => match copy(ctx, &mut outcome) {
                Ok(text) => text,
                Err(reason) => {
                    immediate::complain(ctx, &order, &reason);
                    on_error
                }
            },
        }
    };
    // SAFETY: called by varnishd as a VCL function.
    unsafe { enter(ctx, vcl, std::ptr::null(), body) }
}

/// The body on the task's workspace, with a NUL behind it.
fn copy(ctx: Context<'_>, outcome: &mut Outcome) -> Result<*const c_char, String> {
    let wanted = outcome.response.content_length;
    let room = usize::try_from(wanted)
        .ok()
        .and_then(|len| ctx.workspace_room(len))
        .ok_or_else(|| {
            format!("no workspace for {wanted} bytes: raise workspace_client or workspace_backend")
        })?;
    let mut messages = Messages::new(ctx);
    let whole_by = outcome.whole_by(&messages);
    let mut say = |severity, text: &[u8]| messages.log(severity, text);
    let mut filled = 0;
    while let Some(rest) = room.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match outcome
            .pull_and_say(rest, whole_by, &mut say)
            .map_err(|error| error.to_string())?
        {
            0 => return Err("the response is shorter than it said".to_owned()),
            count => filled = filled.saturating_add(count),
        }
    }
    Ok(room.as_ptr().cast())
}
