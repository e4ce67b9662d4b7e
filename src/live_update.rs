//! `live_update()` and `live_update_file()`: new builds of programs, from CI and from files.
//!
//! ```text
//! live_update(): key? --no--> 403          body too big -> 413        bad program -> 422
//!                 \--yes--> receive the body --> start, swap, keep on a thread of ours --> 201
//! ```
//!
//! Guards: not a byte of a body is taken before the key is right, and none beyond the limit; the
//! worker only waits, for a time that has an end: its stack is too small for more.

use std::{
    ffi::{OsStr, c_uint},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    ptr,
};

use runtime::{Denied, StateMoved, Stored, Updatable, UpdateError, Updated, chain::Outcome};

use crate::{
    body::{self, End},
    context::{Context, Place, string},
    entry::{Backend, Ctx, NO, Priv, Text, enter, lossy},
    ffi,
    log::{Tag, line},
    state::{Loaded, State},
    task::{Call, Task, Wish},
};

const _: () = {
    let _ = [
        ffi::vmod_live_update as unsafe extern "C" fn(_, _, _, _, _) -> _,
        vmod_live_update,
    ];
    let _ = [
        ffi::vmod_live_update_file as unsafe extern "C" fn(_, _, _, _) -> _,
        vmod_live_update_file,
    ];
};

/// What is taken where VCL sets no limit.
const MOST: u64 = 1 << 30;

/// What `live_update()` has found out, for when the body comes.
#[derive(Debug)]
pub(crate) struct Upload {
    permit: Result<Updatable, Denied>,
    max_size: u64,
}

/// How an upload has ended.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// Who does not know the key is not told more. The log has the rest.
    #[error("there is no such program, or that is not its key")]
    Denied,
    #[error("the body has more than {limit} bytes (max_size)")]
    TooBig { limit: u64 },
    #[error("the body could not be read")]
    Broken,
    #[error(transparent)]
    Update(#[from] UpdateError),
    #[error("{0}")]
    Ours(String),
}

impl Refusal {
    fn status(&self) -> u16 {
        match self {
            Self::Denied => 403,
            Self::TooBig { .. } => 413,
            Self::Broken => 400,
            Self::Update(error) => error.status(),
            Self::Ours(_) => 500,
        }
    }
}

impl Upload {
    /// What the directors for uploads are called.
    pub(crate) const NAME: &str = "live_update";

    /// Receives the body and updates the program by it. The answer is for whoever has posted it.
    // Inlined it would make the frame of every fetch larger than a page.
    #[inline(never)]
    pub(crate) fn run(&self, ctx: Context<'_>) -> Outcome {
        let (status, text) = match self.update(ctx) {
            Ok(updated) => (201, report(&updated)),
            Err(refusal) => (refusal.status(), format!("{refusal}\n")),
        };
        // Why someone is not admitted was said where VCL asked, and not to him.
        if let Ok(program) = &self.permit {
            let tag = if status == 201 { Tag::Log } else { Tag::Error };
            let said = text.trim_ascii_end().replace('\n', "; ");
            let name = program.name();
            line(
                Some(ctx),
                tag,
                &format!("tinykvm.live_update({name}): {status} {said}"),
            );
        }
        Outcome::said(status, b"text/plain; charset=utf-8", text.into_bytes())
    }

    fn update(&self, ctx: Context<'_>) -> Result<Updated, Refusal> {
        let updatable = self.permit.as_ref().map_err(|_denied| Refusal::Denied)?;
        let upload = collect(ctx, self.max_size)?;
        let most = updatable.max_time();
        Ok(updatable.within(most, move |updatable| updatable.update(upload))?)
    }
}

/// Upstream's words where it has any.
fn report(updated: &Updated) -> String {
    let mut text = match &updated.stored {
        Stored::Yes(_) => "Update successful (stored)\n".to_owned(),
        Stored::No => "Update successful (not stored)\n".to_owned(),
        Stored::Failed { path, reason } => {
            format!("Could not write '{}': {reason}\n", path.display())
        }
    };
    if let StateMoved::Lost(error) = &updated.state {
        text.push_str(&format!("The state of the old program is lost: {error}\n"));
    }
    text
}

/// The request body, of at most so many bytes.
fn collect(ctx: Context<'_>, limit: u64) -> Result<Vec<u8>, Refusal> {
    let length = body::announced(ctx).ok_or(UpdateError::Empty)?;
    // What is announced to be too long is not even begun.
    if length.is_some_and(|length| length > limit) {
        return Err(Refusal::TooBig { limit });
    }
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    let mut too_big = false;
    let end = body::receive(ctx, &mut |segment| {
        too_big = segment.len() > most.saturating_sub(bytes.len());
        if too_big || bytes.try_reserve(segment.len()).is_err() {
            return false;
        }
        bytes.extend_from_slice(segment);
        true
    });
    match end {
        End::Done => Ok(bytes),
        End::Broken => Err(Refusal::Broken),
        End::Stopped if too_big => Err(Refusal::TooBig { limit }),
        End::Stopped => Err(Refusal::Ours("no memory for the body".to_owned())),
        End::Bug => Err(Refusal::Ours("the body could not be received".to_owned())),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmod_live_update(
    ctx: Ctx,
    vcl: Priv,
    program: Text,
    key: Text,
    max_size: i64,
) -> Backend {
    let body = |ctx: Context<'_>, state: &State| {
        // SAFETY: a STRING argument.
        let name = unsafe { string(program) };
        // SAFETY: a STRING argument.
        let key = unsafe { string(key) };
        match begin(ctx, state, name, key, max_size) {
            Ok(backend) => backend,
            Err(reason) => {
                ctx.fail(&format!("tinykvm.live_update({}): {reason}", lossy(name)));
                ptr::null()
            }
        }
    };
    // SAFETY: called by varnishd as a VCL function.
    unsafe { enter(ctx, vcl, ptr::null(), body) }
}

fn begin(
    ctx: Context<'_>,
    state: &State,
    name: &[u8],
    key: &[u8],
    max_size: i64,
) -> Result<Backend, &'static str> {
    if ctx.place() != Place::BackendFetch {
        return Err("only in vcl_backend_fetch");
    }
    let permit = state.vcl.updatable_with(name, key);
    if let Err(denied) = &permit {
        let text = format!("tinykvm.live_update({}): {denied}", lossy(name));
        line(Some(ctx), Tag::Error, &text);
    }
    // SAFETY: this thread is in a VCL function of the task and nowhere else of ours.
    let task = unsafe { Task::of(ctx) }.ok_or("no workspace: raise workspace_backend")?;
    let nth = task.uses(Upload::NAME.as_bytes());
    if nth >= State::MOST_DIRECTORS {
        return Err("called too often for one fetch");
    }
    // Not one for each name: names may be a client's.
    let director = state
        .director(ctx, Upload::NAME.as_bytes(), nth)
        .ok_or("the VCL is being cooled or discarded")?;
    let max_size = match u64::try_from(max_size) {
        Ok(limit @ 1..) => limit.min(MOST),
        _ => MOST,
    };
    task.remember(Call {
        director,
        wish: Wish::Update(Box::new(Upload { permit, max_size })),
        // SAFETY: it is remembered for this task, which runs this VCL.
        vcl: unsafe { Loaded::new(state) },
    });
    Ok(director.raw())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmod_live_update_file(
    ctx: Ctx,
    vcl: Priv,
    program: Text,
    filename: Text,
) -> c_uint {
    let body = |ctx: Context<'_>, state: &State| {
        // SAFETY: a STRING argument.
        let name = unsafe { string(program) };
        // SAFETY: a STRING argument.
        let path = PathBuf::from(OsStr::from_bytes(unsafe { string(filename) }));
        let Some(updatable) = state.vcl.updatable(name) else {
            let name = lossy(name);
            ctx.fail(&format!(
                "tinykvm.live_update_file({name}): there is no such program"
            ));
            return NO;
        };
        let update = move |updatable: &Updatable| updatable.update_from(&path);
        let result = if ctx.place() == Place::Init {
            updatable.within_budget(state.vcl.budget(), update)
        } else {
            updatable.within(updatable.max_time(), update)
        };
        if let Err(error) = &result {
            let name = lossy(name);
            let text = format!("tinykvm.live_update_file({name}): {error}");
            line(Some(ctx), Tag::Error, &text);
        }
        c_uint::from(result.is_ok())
    };
    // SAFETY: called by varnishd as a VCL function.
    unsafe { enter(ctx, vcl, NO, body) }
}
