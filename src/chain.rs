//! `chain()`: programs that run before the one that answers.

use std::ffi::c_uint;

use runtime::{
    chain::{Item, Link, MOST_LINKS, TooLong},
    config::fetch_headers,
};

use crate::{
    context::{Context, Place, string},
    entry::{Ctx, NO, Priv, Text, YES, enter, lossy, on_own_thread},
    ffi,
    state::State,
    task::Task,
};

const _: () = {
    let _ = [
        ffi::vmod_chain as unsafe extern "C" fn(_, _, _, _, _, _) -> _,
        vmod_chain,
    ];
};

#[unsafe(no_mangle)]
unsafe extern "C" fn vmod_chain(
    ctx: Ctx,
    vcl: Priv,
    program: Text,
    arg: Text,
    config: Text,
    threshold: i64,
) -> c_uint {
    let body = |ctx: Context<'_>, state: &State| {
        // SAFETY: a STRING argument.
        let name = unsafe { string(program) };
        // SAFETY: a STRING argument.
        let url = unsafe { string(arg) };
        // SAFETY: a STRING argument.
        let argument = unsafe { string(config) };
        match add(ctx, state, name, url, argument, threshold) {
            Ok(()) => YES,
            Err(reason) => {
                ctx.fail(&format!("tinykvm.chain({}): {reason}", lossy(name)));
                NO
            }
        }
    };
    // SAFETY: called by varnishd as a VCL function.
    unsafe { enter(ctx, vcl, NO, body) }
}

fn add(
    ctx: Context<'_>,
    state: &State,
    name: &[u8],
    url: &[u8],
    argument: &[u8],
    threshold: i64,
) -> Result<(), String> {
    if ctx.place() != Place::BackendFetch {
        return Err("only in vcl_backend_fetch".to_owned());
    }
    // SAFETY: this thread is in a VCL function of the task and nowhere else of ours.
    let task = unsafe { Task::of(ctx) }.ok_or("no workspace: raise workspace_backend")?;
    let chain = task.chain(ctx);
    let item = if name == b"fetch" && url.starts_with(b"/") {
        if !chain.is_empty() {
            return Err("fetch can only be the first item".to_owned());
        }
        let headers = if argument.is_empty() {
            Box::default()
        } else {
            // JSON wants more stack than a worker has.
            let text = lossy(argument);
            on_own_thread(|| fetch_headers(&text))?.map_err(|error| error.to_string())?
        };
        Item::Fetch {
            path: url.into(),
            headers,
        }
    } else {
        Item::Program {
            program: state.vcl.program(name).ok_or("there is no such program")?,
            url: url.into(),
            argument: argument.into(),
        }
    };
    // The place of the program that answers.
    if chain.len().saturating_add(1) >= MOST_LINKS {
        return Err(TooLong.to_string());
    }
    let link = Link { item, threshold };
    chain.push(link).map_err(|error| error.to_string())
}
