//! What a VM asks of the code around it.

use std::time::Instant;

use crate::{Fault, Memory, Regs};

/// The guest at the moment of a hypercall.
#[derive(Debug)]
pub struct VmCall<'a> {
    /// The guest's registers: arguments in RDI, RSI, RDX, RCX, R8, R9, the result goes to RAX.
    pub regs: &'a mut Regs,
    /// The guest's memory.
    pub memory: &'a mut Memory,
    /// When the guest's time is over: a handler that may take long looks at it.
    pub deadline: Instant,
    /// Whether [`Action::Break`] waits for a debugger.
    pub debuggable: bool,
}

/// What happens after a hypercall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The guest runs on.
    Continue,
    /// The run ends here; the guest can be continued later.
    Stop,
    /// The guest runs on, after a look with a debugger if its settings allow one.
    Break,
    /// The run ends with this fault.
    Fault(Fault),
}

/// The services behind hypercalls, and where a program's output goes.
pub trait Hypercalls {
    /// Answers hypercall `number`.
    fn hypercall(&mut self, vm: &mut VmCall<'_>, number: u32) -> Action;

    /// Whether hypercall `number` ends the guest's call and waits for nothing: then its CPU time can be
    /// had for less.
    fn ends_call(&self, _number: u32) -> bool {
        false
    }

    /// Takes what the program wrote to its standard output (1) or error (2). How much that may be
    /// is limited by the caller.
    fn output(&mut self, stream: u8, text: &[u8]);

    /// Hears of a system call that was answered: its number, its arguments, the result. Nobody has to
    /// listen.
    fn system_call(&mut self, _number: u64, _arguments: [u64; 6], _result: i64) {}

    /// Takes a remark of the sandbox for the program's author: what it does about a debugger. Nobody
    /// has to listen.
    fn notice(&mut self, _text: &str) {}
}
