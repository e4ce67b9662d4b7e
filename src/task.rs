//! What belongs to one backend task: which programs VCL asked for, and the answer under way.
//!
//! Guards: the strings, the chain and the request VM of a task are seen by that task alone, and end
//! with it. A director is only a key here, so one that is used after its task or after a rollback
//! finds nothing.

use std::{
    ffi::{CString, c_char, c_void},
    mem,
};

use smallvec::SmallVec;

use runtime::chain::Chain;

use crate::{
    context::Context,
    fetch::Held,
    ffi,
    guard::guard,
    live_update::Upload,
    state::{Director, Loaded},
    ttl,
};

/// What a director is to do.
#[derive(Debug)]
pub(crate) enum Wish {
    /// `program()`: the chain ends with the program that was asked for.
    Answer(Chain),
    /// `live_update()`
    Update(Box<Upload>),
}

/// One call of a function that answers a backend.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) director: Director,
    pub(crate) wish: Wish,
    /// The VCL that asked.
    pub(crate) vcl: Loaded,
}

impl Call {
    /// The name of what answers.
    pub(crate) fn name(&self) -> &str {
        match &self.wish {
            Wish::Answer(chain) => chain.last().map_or("", |link| link.item.name()),
            Wish::Update(_) => Upload::NAME,
        }
    }
}

/// What `chain()` has put into a row and nobody has taken yet.
#[derive(Debug, Default)]
struct Begun {
    chain: Chain,
    /// The attempt of the fetch that it is for: a retry begins anew.
    attempt: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Task {
    /// Most tasks have one, which takes no allocation of its own.
    calls: SmallVec<[Call; 1]>,
    begun: Begun,
    /// Kept until the task ends and not only until the body is handed over: the reset of the
    /// request VM must not delay the client. One that takes no time is done already.
    pub(crate) answer: Option<Held>,
    pub(crate) uncacheable: ttl::Mark,
    /// Texts that VCL was given.
    texts: Vec<CString>,
}

impl Task {
    /// The task's state, made when first asked for. `None` if the workspace has no room.
    ///
    /// # Safety
    /// There is no other reference to the state of this task during `'a`.
    pub(crate) unsafe fn of<'a>(ctx: Context<'a>) -> Option<&'a mut Self> {
        // SAFETY: the context is valid.
        let slot = unsafe { ffi::tk_task(ctx.raw()) };
        // SAFETY: null, or part of a structure of this task that outlives the call.
        let slot = unsafe { slot.as_mut() }?;
        if slot.is_null() {
            *slot = Box::into_raw(Box::<Self>::default()).cast();
        }
        // SAFETY: made above, now or earlier in this task; freed only when the task ends. The
        // caller vouches that nobody else looks.
        unsafe { slot.cast::<Self>().as_mut() }
    }

    /// The chain that this attempt has begun.
    pub(crate) fn chain(&mut self, ctx: Context<'_>) -> &mut Chain {
        // SAFETY: a valid context of a backend task, of which this is the state.
        let attempt = unsafe { ffi::tk_attempt(ctx.raw()) };
        if self.begun.attempt != attempt {
            self.begun = Begun {
                chain: Chain::new(),
                attempt,
            };
        }
        &mut self.begun.chain
    }

    /// The chain that this attempt has begun; from now on there is none.
    pub(crate) fn take_chain(&mut self, ctx: Context<'_>) -> Chain {
        mem::take(self.chain(ctx))
    }

    /// Keeps a text as long as the task. What is behind a NUL is lost to VCL.
    pub(crate) fn keep(&mut self, text: String) -> *const c_char {
        let mut bytes = text.into_bytes();
        bytes.truncate(bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len()));
        let text = CString::new(bytes).unwrap_or_default();
        // Moving a CString does not move its text.
        let at = text.as_ptr();
        self.texts.push(text);
        at
    }

    pub(crate) fn uses(&self, program: &[u8]) -> usize {
        self.calls
            .iter()
            .filter(|call| call.name().as_bytes() == program)
            .count()
    }

    pub(crate) fn remember(&mut self, call: Call) {
        self.calls.push(call);
    }

    pub(crate) fn call(&self, director: Director) -> Option<&Call> {
        self.calls.iter().find(|call| call.director == director)
    }
}

/// The task is over, or was rolled back.
#[unsafe(no_mangle)]
unsafe extern "C" fn tk_rs_task_ended(task: *mut c_void) {
    if task.is_null() {
        return;
    }
    // SAFETY: made by `Task::of`, and varnishd ends a task once.
    let task = unsafe { Box::from_raw(task.cast::<Task>()) };
    guard(None, (), move || drop(task));
}
