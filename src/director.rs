//! One fetch: reserve a request VM, hand the request over, run the guest, announce the answer.
//!
//! Guards: whatever fails here fails this fetch, with a line that says why. VRT_fail() is not for
//! directors: there is no VCL to end.

use std::ffi::c_int;

use runtime::{
    Cacheability, Exchange, Reservation, Side,
    chain::{ChainError, Opening, TransferError},
};

use crate::{
    body::{self, Undelivered},
    context::Context,
    exchange::Messages,
    fetch::{Answer, Held},
    ffi,
    guard::guard,
    log::{Tag, line},
    state::Director,
    task::{Call, Task, Wish},
    ttl,
};

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    NoAnswer(#[from] ChainError<Undelivered>),
    #[error(
        "program {program}: no room for the response headers: raise workspace_backend or http_max_hdr"
    )]
    Workspace { program: String },
    #[error("program {program}: {error}")]
    Body {
        program: String,
        error: TransferError,
    },
    #[error(
        "program {program}: a 304 that is not for the cache, which this Varnish cannot merge: \
         answer 200, or let it be cacheable"
    )]
    Unmergeable { program: String },
    #[error("program {program} is sick: backend.set_health says so")]
    Sick { program: String },
}

/// `gethdrs` of the director: 0 when the response headers are in beresp.
#[unsafe(no_mangle)]
unsafe extern "C" fn tk_rs_get_headers(
    ctx: *const ffi::vrt_ctx,
    director: *const ffi::director,
) -> c_int {
    // SAFETY: varnishd's context, for the time of this call.
    let Some(ctx) = (unsafe { Context::from_raw(ctx) }) else {
        return -1;
    };
    guard(Some(ctx), -1, || {
        // SAFETY: this thread is in the task's director and nowhere else of ours.
        let Some(task) = (unsafe { Task::of(ctx) }) else {
            line(
                Some(ctx),
                Tag::FetchError,
                "tinykvm: no workspace for the task",
            );
            return -1;
        };
        // Of an earlier attempt. It may be the VM that this attempt is going to need.
        task.answer = None;
        let Some(call) = task.call(Director::new(director)) else {
            line(
                Some(ctx),
                Tag::FetchError,
                "tinykvm: this backend is not from this task: call tinykvm.program() again \
                 after a rollback",
            );
            return -1;
        };
        // SAFETY: a valid context and the director that it is for.
        let healthy = unsafe { ffi::tk_director_healthy(ctx.raw(), director) } != 0;
        let mut uncacheable = ttl::Mark::default();
        let outcome = if healthy {
            answer(ctx, call, &mut uncacheable)
        } else {
            Err(Failure::Sick {
                program: call.name().to_owned(),
            })
        };
        task.uncacheable = uncacheable;
        match outcome {
            Ok(held) => {
                task.answer = Some(held);
                0
            }
            Err(failure) => {
                // There will be no `finish`.
                task.uncacheable.undo(ctx);
                line(Some(ctx), Tag::FetchError, &format!("tinykvm: {failure}"));
                -1
            }
        }
    })
}

/// `finish` of the director: varnishd is done with headers and body.
#[unsafe(no_mangle)]
unsafe extern "C" fn tk_rs_finish(ctx: *const ffi::vrt_ctx, _director: *const ffi::director) {
    // SAFETY: varnishd's context, for the time of this call.
    let Some(ctx) = (unsafe { Context::from_raw(ctx) }) else {
        return;
    };
    guard(Some(ctx), (), || {
        // SAFETY: a valid context of a backend task.
        unsafe { ffi::tk_fetch_finished(ctx.raw()) };
        // SAFETY: as in `tk_rs_get_headers`.
        if let Some(task) = unsafe { Task::of(ctx) } {
            // Nobody waits for an answer that was not wanted: its VM is free at once.
            task.answer = task.answer.take().filter(Held::is_delivered);
            task.uncacheable.end(ctx);
        }
    });
}

fn answer(ctx: Context<'_>, call: &Call, uncacheable: &mut ttl::Mark) -> Result<Held, Failure> {
    let mut messages = Messages::new(ctx).of_vcl(&call.vcl.get().vcl);
    // With a body it begins behind that, as with any backend: clients take their time.
    if body::announced(ctx).is_none() {
        messages.await_first_byte();
    }
    let method = messages.request_method();
    let opening = Opening {
        method,
        content_type: messages
            .value(Side::Request, b"Content-Type")
            .unwrap_or_default(),
        last_method: None,
    };
    let mut body = |reservation: &mut Reservation, exchange: &mut dyn Exchange| {
        body::deliver(ctx, reservation, exchange)
    };
    let outcome = match &call.wish {
        Wish::Answer(chain) => chain.run(opening, &mut body, &mut messages)?,
        Wish::Update(upload) => {
            messages.set_cacheable(Cacheability::NEVER);
            upload.run(ctx)
        }
    };
    let response = &outcome.response;
    let no_room = || Failure::Workspace {
        program: call.name().to_owned(),
    };

    // How long the body is, is known here and not to the guest's headers.
    messages.unset_own(b"Transfer-Encoding");
    messages
        .put_content_type(&response.content_type)
        .map_err(|_| no_room())?;
    if ttl::is_unmergeable(ctx, &messages, response.status) {
        return Err(Failure::Unmergeable {
            program: call.name().to_owned(),
        });
    }
    let lifetime = ttl::Plan::announce(
        ctx,
        &mut messages,
        response.status,
        call.name(),
        uncacheable,
    );

    let bodiless_status = matches!(response.status, 204 | 304);
    let has_body = method != b"HEAD" && !bodiless_status && response.content_length > 0;
    let length = match i64::try_from(response.content_length) {
        Ok(length) if !bodiless_status => length,
        _ => -1,
    };
    let left = if has_body { response.content_length } else { 0 };
    let status = u32::from(response.status);
    let mut digits = itoa::Buffer::new();
    if length >= 0 {
        let put = messages.put_own(b"Content-Length", digits.format(length).as_bytes());
        put.map_err(|_| no_room())?;
    } else {
        messages.unset_own(b"Content-Length");
    }
    let mut answer = Answer::new(outcome, lifetime, left);
    let small = answer.is_small();
    answer
        .free_vm_early(&mut messages)
        .map_err(|error| Failure::Body {
            program: call.name().to_owned(),
            error,
        })?;
    let held = Held::new(answer);
    // SAFETY: a valid context of a backend task; the caller keeps `held` in the task, which
    // outlives the filter.
    let refused = unsafe {
        ffi::tk_respond(
            ctx.raw(),
            status,
            c_int::from(has_body),
            length,
            c_int::from(!(has_body && small)),
            held.source(),
        )
    } != 0;
    if refused { Err(no_room()) } else { Ok(held) }
}
