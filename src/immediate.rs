//! Programs that run while VCL waits for them: what `to_string()` and `synth()` have in common.
//!
//! Guards: the worker's stack is small, so everything of size is on the heap or in the guest. No
//! request VM is held while another one is waited for, the one included whose answer
//! `vcl_backend_response` is about to see.

use runtime::{
    Exchange, Reservation,
    chain::{Chain, ChainError, Item, Link, Opening, Outcome},
};

use crate::{
    context::{Context, Place},
    exchange::Messages,
    log::{Tag, line},
    state::State,
    task::Task,
    ttl,
};

/// The method that the last program sees.
const METHOD: &[u8] = b"GET";

/// What VCL asks for.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) function: &'static str,
    pub(crate) program: &'a [u8],
    pub(crate) url: &'a [u8],
    pub(crate) argument: &'a [u8],
    pub(crate) threshold: i64,
    /// The VM of the last program is reset afterwards, whatever its configuration says.
    pub(crate) soft_reset: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// A VCL failure, which has been said.
    Misuse,
    /// Something that happens; it has been logged.
    Failed,
}

/// Runs the chain that the task has begun, and the program at its end.
pub(crate) fn run(ctx: Context<'_>, state: &State, order: &Order<'_>) -> Result<Outcome, NoAnswer> {
    let misuse = |reason: &str| {
        let name = String::from_utf8_lossy(order.program);
        ctx.fail(&format!("tinykvm.{}({name}): {reason}", order.function));
        NoAnswer::Misuse
    };
    let place = ctx.place();
    let backend = match place {
        Place::BackendFetch | Place::BackendResponse | Place::BackendError => true,
        Place::Synth | Place::Client => false,
        Place::Init | Place::Director | Place::Other => {
            return Err(misuse("only where there is a request"));
        }
    };
    let program = state
        .vcl
        .program(order.program)
        .ok_or_else(|| misuse("there is no such program"))?;

    // Only backend tasks have chains, and answers that are not delivered.
    let mut task = if backend {
        // SAFETY: this thread is in a VCL function of the task and nowhere else of ours.
        let task = unsafe { Task::of(ctx) };
        Some(task.ok_or_else(|| misuse("no workspace: raise workspace_backend"))?)
    } else {
        None
    };
    let mut chain = match &mut task {
        Some(task) => task.take_chain(ctx),
        None => Chain::new(),
    };
    let alone = chain.is_empty();
    let link = Link {
        item: Item::Program {
            program,
            url: order.url.into(),
            argument: order.argument.into(),
        },
        threshold: order.threshold,
    };
    chain
        .push(link)
        .map_err(|error| misuse(&error.to_string()))?;

    let mut messages = Messages::new(ctx).of_vcl(&state.vcl);
    if let Some(answer) = task.and_then(|task| task.answer.as_mut()) {
        messages.give_way(answer);
    }
    let opening = Opening {
        method: if alone {
            METHOD
        } else {
            messages.request_method()
        },
        // There is no body, which alone has a type.
        content_type: b"",
        last_method: Some(METHOD),
    };
    let mut no_body =
        |_: &mut Reservation, _: &mut dyn Exchange| Ok::<(), std::convert::Infallible>(());
    let result: Result<Outcome, ChainError<_>> = chain.run(opening, &mut no_body, &mut messages);
    if result.is_err() {
        messages.forget_lifetime();
    }
    if let Some(how) = messages.cacheability {
        ttl::apply(ctx, how, order.program);
    }
    let mut outcome = result.map_err(|error| {
        complain(ctx, order, &error.to_string());
        NoAnswer::Failed
    })?;
    if let Some(vm) = &mut outcome.reservation
        && order.soft_reset
        && !outcome.broken
    {
        vm.reset_afterwards();
    }
    Ok(outcome)
}

/// A line about an answer that VCL does not get.
pub(crate) fn complain(ctx: Context<'_>, order: &Order<'_>, reason: &str) {
    let name = String::from_utf8_lossy(order.program);
    let text = format!("tinykvm.{}({name}): {reason}", order.function);
    line(Some(ctx), Tag::Error, &text);
}
