//! The VCL functions and the VCL event, with the signatures of `vmod_tinykvm.vcc`.

use std::{
    ffi::{c_char, c_int, c_uint},
    fmt::Display,
    ptr, thread,
};

use runtime::chain::{Item, Link};

use crate::{
    context::{Context, Place, strands, string},
    counters, ffi,
    guard::guard,
    log::{self, Tag, line},
    state::{Loaded, State},
    task::{Call, Task, Wish},
};

pub(crate) type Ctx = *const ffi::vrt_ctx;
pub(crate) type Priv = *mut ffi::vmod_priv;
pub(crate) type Text = *const c_char;
pub(crate) type Backend = *const ffi::director;

/// A compile error here means that the interface and these functions have parted.
const _: () = {
    let _ = [
        ffi::vmod_event as unsafe extern "C" fn(_, _, _) -> _,
        vmod_event,
    ];
    let _ = [
        ffi::vmod_library as unsafe extern "C" fn(_, _, _) -> _,
        vmod_library,
    ];
    let _ = [
        ffi::vmod_init_self_requests as unsafe extern "C" fn(_, _, _, _, _) -> _,
        vmod_init_self_requests,
    ];
    let _ = [
        ffi::vmod_configure as unsafe extern "C" fn(_, _, _, _) -> _,
        vmod_configure,
    ];
    let _ = [
        ffi::vmod_start as unsafe extern "C" fn(_, _, _, _, _) -> _,
        vmod_start,
    ];
    let _ = [
        ffi::vmod_program as unsafe extern "C" fn(_, _, _, _, _) -> _,
        vmod_program,
    ];
    let _ = [
        ffi::vmod_main_arguments as unsafe extern "C" fn(_, _, _, _) -> _,
        vmod_main_arguments,
    ];
    let _ = [
        ffi::vmod_invalidate_programs as unsafe extern "C" fn(_, _, _) -> _,
        vmod_invalidate_programs,
    ];
    let _ = [
        ffi::vmod_stats as unsafe extern "C" fn(_, _, _, _) -> _,
        vmod_stats,
    ];
    let _ = [
        ffi::vmod_metrics as unsafe extern "C" fn(_, _, _) -> _,
        vmod_metrics,
    ];
};

pub(crate) const NO: c_uint = 0;
pub(crate) const YES: c_uint = 1;

/// Runs a VCL function: checks what varnishd handed over, and keeps panics in.
///
/// # Safety
/// `ctx` and `vcl` are what varnishd hands to a VCL function of this VMOD, for the time of `'a`.
pub(crate) unsafe fn enter<'a, T>(
    ctx: Ctx,
    vcl: Priv,
    otherwise: T,
    body: impl FnOnce(Context<'a>, &'a State) -> T,
) -> T
where
    T: Copy,
{
    // SAFETY: the caller's promise.
    let Some(ctx) = (unsafe { Context::from_raw(ctx) }) else {
        return otherwise;
    };
    // SAFETY: the caller's promise.
    let Some(state) = (unsafe { State::of(vcl) }) else {
        ctx.fail("tinykvm: this VCL was not set up");
        return otherwise;
    };
    guard(Some(ctx), otherwise, || body(ctx, state))
}

/// `true` in vcl_init; elsewhere a VCL failure that says so.
fn in_init(ctx: Context<'_>, function: &str) -> bool {
    let here = ctx.place() == Place::Init;
    if !here {
        ctx.fail(&format!("tinykvm.{function}(): only in vcl_init"));
    }
    here
}

fn warn(ctx: Context<'_>, warnings: &[impl Display]) {
    for warning in warnings {
        let text = format!("tinykvm: {warning}");
        ctx.tell_loader(&text);
        line(Some(ctx), Tag::Error, &text);
    }
}

/// Runs what needs more stack than a worker has (JSON, regular expressions) on a thread of ours.
pub(crate) fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let started = thread::Builder::new()
            .name("tinykvm-vcl".to_owned())
            .stack_size(1 << 20)
            .spawn_scoped(scope, work)
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        started
            .join()
            .map_err(|_panic| "a bug in the VMOD, please report".to_owned())
    })
}

pub(crate) fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// What an error with a picture of the pattern says in its last line; a log line is one line.
fn one_line(error: &str) -> &str {
    error.lines().last().unwrap_or_default()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmod_event(ctx: Ctx, vcl: Priv, event: ffi::vcl_event_e::Type) -> c_int {
    // SAFETY: varnishd's context, for the time of this call.
    let Some(ctx) = (unsafe { Context::from_raw(ctx) }) else {
        return 1;
    };
    guard(Some(ctx), 1, || {
        if event == ffi::vcl_event_e::VCL_EVENT_LOAD {
            log::listen();
            counters::open();
            // SAFETY: the PRIV_VCL of a VCL that is being loaded.
            let slot = unsafe { ffi::tk_vcl(vcl) };
            // SAFETY: part of the PRIV_VCL, and nobody else sees it before the load is done.
            if let Some(slot) = unsafe { slot.as_mut() } {
                State::install(slot);
            }
            return 0;
        }
        // SAFETY: the PRIV_VCL of a VCL that is loaded.
        if let Some(state) = unsafe { State::of(vcl) } {
            match event {
                ffi::vcl_event_e::VCL_EVENT_WARM => state.vcl.warm(),
                ffi::vcl_event_e::VCL_EVENT_COLD => state.vcl.cool(),
                ffi::vcl_event_e::VCL_EVENT_DISCARD => counters::close(),
                _ => {}
            }
        }
        0
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmod_library(ctx: Ctx, vcl: Priv, uri: Text) -> c_uint {
    let body = |ctx, state: &State| {
        if !in_init(ctx, "library") {
            return NO;
        }
        // SAFETY: a STRING argument.
        let uri = lossy(unsafe { string(uri) });
        let shown = runtime::loader::shown(&uri);
        match on_own_thread(|| state.vcl.library(&uri)) {
            Ok(Ok(warnings)) => {
                warn(ctx, &warnings);
                YES
            }
            Ok(Err(error)) if error.is_fetch() => {
                warn(ctx, &[format!("library(): {error}")]);
                NO
            }
            Ok(Err(error)) => {
                ctx.fail(&format!("tinykvm.library({shown}): {error}"));
                NO
            }
            Err(error) => {
                ctx.fail(&format!("tinykvm.library({shown}): {error}"));
                NO
            }
        }
    };
    // SAFETY: called by varnishd as a VCL function.
    unsafe { enter(ctx, vcl, NO, body) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmod_init_self_requests(
    ctx: Ctx,
    vcl: Priv,
    unix_socket: Text,
    http_prefix: Text,
    max_concurrent_requests: i64,
) -> c_uint {
    let body = |ctx, state: &State| {
        if !in_init(ctx, "init_self_requests") {
            return NO;
        }
        // SAFETY: a STRING argument.
        let socket = lossy(unsafe { string(unix_socket) });
        // SAFETY: a STRING argument.
        let prefix = lossy(unsafe { string(http_prefix) });
        let most = max_concurrent_requests;
        match state.vcl.init_self_requests(&socket, &prefix, most) {
            Ok(()) => YES,
            Err(error) => {
                ctx.fail(&format!("tinykvm.init_self_requests(): {error}"));
                NO
            }
        }
    };
    // SAFETY: called by varnishd as a VCL function.
    unsafe { enter(ctx, vcl, NO, body) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmod_configure(ctx: Ctx, vcl: Priv, program: Text, json: Text) -> c_uint {
    let body = |ctx, state: &State| {
        if !in_init(ctx, "configure") {
            return NO;
        }
        // SAFETY: a STRING argument.
        let program = lossy(unsafe { string(program) });
        // SAFETY: a STRING argument.
        let json = lossy(unsafe { string(json) });
        let done = on_own_thread(|| state.vcl.configure(&program, &json));
        match done.and_then(|result| result.map_err(|error| error.to_string())) {
            Ok(warnings) => {
                warn(ctx, &warnings);
                YES
            }
            Err(error) => {
                ctx.fail(&format!("tinykvm.configure({program}): {error}"));
                NO
            }
        }
    };
    // SAFETY: called by varnishd as a VCL function.
    unsafe { enter(ctx, vcl, NO, body) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmod_start(
    ctx: Ctx,
    vcl: Priv,
    program: Text,
    asynchronous: c_uint,
    debug: c_uint,
) -> c_uint {
    let body = |ctx, state: &State| {
        if !in_init(ctx, "start") {
            return NO;
        }
        // SAFETY: a STRING argument.
        let name = unsafe { string(program) };
        let result = match state.vcl.program(name) {
            None => Err("there is no such program".to_owned()),
            Some(program) => {
                if debug == 0 {
                    program.start();
                } else {
                    program.start_debugged();
                }
                let waited = (asynchronous == 0).then(|| state.vcl.await_start(&program));
                waited.unwrap_or(Ok(())).map_err(|error| error.to_string())
            }
        };
        if let Err(error) = &result {
            ctx.fail(&format!("tinykvm.start({}): {error}", lossy(name)));
        }
        c_uint::from(result.is_ok())
    };
    // SAFETY: called by varnishd as a VCL function.
    unsafe { enter(ctx, vcl, NO, body) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmod_program(
    ctx: Ctx,
    vcl: Priv,
    program: Text,
    arg: Text,
    config: Text,
) -> Backend {
    let body = |ctx: Context<'_>, state: &State| {
        // SAFETY: a STRING argument.
        let name = unsafe { string(program) };
        // SAFETY: a STRING argument.
        let url = unsafe { string(arg) };
        // SAFETY: a STRING argument.
        let argument = unsafe { string(config) };
        match use_program(ctx, state, name, url, argument) {
            Ok(backend) => backend,
            Err(reason) => {
                ctx.fail(&format!("tinykvm.program({}): {reason}", lossy(name)));
                ptr::null()
            }
        }
    };
    // SAFETY: called by varnishd as a VCL function.
    unsafe { enter(ctx, vcl, ptr::null(), body) }
}

fn use_program(
    ctx: Context<'_>,
    state: &State,
    name: &[u8],
    url: &[u8],
    argument: &[u8],
) -> Result<Backend, &'static str> {
    if ctx.place() != Place::BackendFetch {
        return Err("only in vcl_backend_fetch");
    }
    let program = state.vcl.program(name).ok_or("there is no such program")?;
    // SAFETY: this thread is in a VCL function of the task and nowhere else of ours.
    let task = unsafe { Task::of(ctx) }.ok_or("no workspace: raise workspace_backend")?;
    let nth = task.uses(name);
    if nth >= State::MOST_DIRECTORS {
        return Err("called too often for one fetch");
    }
    let mut chain = task.take_chain(ctx);
    let link = Link {
        item: Item::Program {
            program,
            url: url.into(),
            argument: argument.into(),
        },
        threshold: Link::NEVER,
    };
    // chain() leaves a place for it.
    chain
        .push(link)
        .map_err(|_too_long| "the chain is too long")?;
    let director = state
        .director(ctx, name, nth)
        .ok_or("the VCL is being cooled or discarded")?;
    task.remember(Call {
        director,
        wish: Wish::Answer(chain),
        // SAFETY: it is remembered for this task, which runs this VCL.
        vcl: unsafe { Loaded::new(state) },
    });
    Ok(director.raw())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmod_main_arguments(
    ctx: Ctx,
    vcl: Priv,
    program: Text,
    arguments: *const ffi::strands,
) -> c_uint {
    let body = |ctx, state: &State| {
        // SAFETY: a STRING argument.
        let program = lossy(unsafe { string(program) });
        // SAFETY: a STRANDS argument.
        let arguments: Vec<Vec<u8>> = unsafe { strands(arguments) }.map(<[u8]>::to_vec).collect();
        if arguments.is_empty() {
            let text = format!("tinykvm.main_arguments({program}): there are no arguments");
            line(Some(ctx), Tag::Log, &text);
            return NO;
        }
        match state.vcl.main_arguments(&program, arguments) {
            Ok(()) => YES,
            Err(error) => {
                ctx.fail(&format!("tinykvm.main_arguments({program}): {error}"));
                NO
            }
        }
    };
    // SAFETY: called by varnishd as a VCL function.
    unsafe { enter(ctx, vcl, NO, body) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmod_invalidate_programs(ctx: Ctx, vcl: Priv, regex: Text) -> i64 {
    let body = |ctx, state: &State| {
        // SAFETY: a STRING argument.
        let regex = lossy(unsafe { string(regex) });
        let done = on_own_thread(|| state.vcl.invalidate(&regex));
        match done.and_then(|result| result.map_err(|error| error.to_string())) {
            Ok(count) => i64::try_from(count).unwrap_or(i64::MAX),
            Err(error) => {
                let text = format!("tinykvm.invalidate_programs({regex}): {}", one_line(&error));
                line(Some(ctx), Tag::VclError, &text);
                0
            }
        }
    };
    // SAFETY: called by varnishd as a VCL function.
    unsafe { enter(ctx, vcl, 0, body) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmod_stats(ctx: Ctx, vcl: Priv, pattern: Text, indentation: i64) -> Text {
    let body = |ctx: Context<'_>, state: &State| {
        // SAFETY: a STRING argument.
        let pattern = lossy(unsafe { string(pattern) });
        let indentation = indentation.clamp(-1, 16);
        text_about(ctx, "stats", &pattern, || {
            state.vcl.stats(&pattern, indentation)
        })
    };
    // SAFETY: called by varnishd as a VCL function.
    unsafe { enter(ctx, vcl, ptr::null(), body) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmod_metrics(ctx: Ctx, vcl: Priv, pattern: Text) -> Text {
    let body = |ctx: Context<'_>, state: &State| {
        // SAFETY: a STRING argument.
        let pattern = lossy(unsafe { string(pattern) });
        text_about(ctx, "metrics", &pattern, || state.vcl.metrics(&pattern))
    };
    // SAFETY: called by varnishd as a VCL function.
    unsafe { enter(ctx, vcl, ptr::null(), body) }
}

/// A text about the programs that match a pattern. Where it is larger than the workspace the task
/// keeps it.
fn text_about<E: Display>(
    ctx: Context<'_>,
    function: &str,
    pattern: &str,
    make: impl FnOnce() -> Result<String, E> + Send,
) -> Text {
    let made =
        on_own_thread(|| make().map_err(|error| error.to_string())).and_then(|result| result);
    let text = match made {
        Ok(text) => text,
        Err(error) => {
            let reason = one_line(&error);
            ctx.fail(&format!("tinykvm.{function}({pattern}): {reason}"));
            return ptr::null();
        }
    };
    let copy = ctx.workspace_copy(&text);
    if !copy.is_null() {
        return copy;
    }
    // SAFETY: this thread is in a VCL function of the task and nowhere else of ours.
    if let Some(task) = unsafe { Task::of(ctx) } {
        return task.keep(text);
    }
    ctx.fail(&format!("tinykvm.{function}(): no workspace"));
    ptr::null()
}
