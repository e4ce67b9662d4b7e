//! The stacks that the sandbox gives a program, and how it is seen that one was too small.
//!
//! ```text
//! guest-virtual
//!   mapped | guard, 16 MiB or more, nothing mapped | stack, growing down | ...
//! ```
//!
//! A function with a large frame reaches far below the stack at once. The guard is as large as frames
//! reasonably are, so that such a function ends there and not in the program's own data.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::Memory;
use crate::address::GuestVirt;

/// What is left free below a stack. Only addresses: it takes no memory.
pub(crate) const GUARD: u64 = 16 << 20;
/// What a function may use below its stack pointer without saying so.
const RED_ZONE: u64 = 128;

/// A stack that the sandbox made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// The one `main()` runs on.
    Main,
    /// The one of everything that is called in a fork.
    Callback,
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Main => "main()",
            Self::Callback => "a callback",
        })
    }
}

/// Where a function may have its stack that is called while another one stands at `rsp`: below all
/// that this one uses, aligned as before a CALL.
pub(crate) fn below(rsp: u64) -> u64 {
    rsp.saturating_sub(RED_ZONE) & !15
}

/// Where they lie; empty where there is none yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Stacks {
    pub(super) main: Range<u64>,
    pub(super) callback: Range<u64>,
}

impl Memory {
    /// Tells where the loader has put the stack of `main()`.
    pub(crate) fn set_main_stack(&mut self, range: Range<GuestVirt>) {
        let space = Arc::make_mut(&mut self.space);
        space.stacks.main = range.start.raw()..range.end.raw();
    }

    /// The stack, with its size, whose end a program has passed that had its stack pointer at
    /// `rsp` and could not use `address`. A stack that the program made itself is none of ours.
    pub(crate) fn overflown_stack(&self, address: u64, rsp: u64) -> Option<(Stack, u64)> {
        let space = &*self.space;
        let passed = |stack: &Range<u64>| {
            let lowest = rsp.saturating_sub(RED_ZONE);
            // With a mapping between it and the stack, the pointer came there in another way.
            lowest < stack.start
                && (lowest..stack.start).contains(&address)
                && space.areas.is_free(lowest..stack.start)
        };
        [
            (Stack::Callback, &space.stacks.callback),
            (Stack::Main, &space.stacks.main),
        ]
        .into_iter()
        .find(|(_, range)| passed(range))
        .map(|(stack, range)| (stack, range.end.saturating_sub(range.start)))
    }
}
