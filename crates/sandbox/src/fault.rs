//! What a guest can do wrong. A fault costs the guest its current call, nothing else.

use crate::elf::Symbols;
use crate::memory::{AccessError, Stack};

/// Why a guest's call ended without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The deadline of the call passed.
    #[error("timed out")]
    TimedOut,
    /// More memory was used than the program may use.
    #[error("out of memory: {used} bytes in use, the limit is {limit}")]
    OutOfMemory { used: u64, limit: u64 },
    /// The CPU raised an exception.
    #[error("{} at {rip:#x} (address {address:#x}, error code {code:#x})", vector_name(*.vector))]
    Exception {
        vector: u8,
        code: u64,
        address: u64,
        rip: u64,
        rsp: u64,
    },
    /// A stack of the sandbox's was too small.
    #[error(
        "stack overflow at {rip:#x} (the stack of {stack} has {} MiB: put less on it, and what is \
         large on the heap)",
        .bytes >> 20
    )]
    StackOverflow {
        stack: Stack,
        bytes: u64,
        address: u64,
        rip: u64,
        rsp: u64,
    },
    /// The guest passed the host an address that it cannot use itself.
    #[error("bad pointer given to the host: {0}")]
    Access(#[from] AccessError),
    /// The program ended instead of answering.
    #[error("the program exited with status {0}")]
    Exited(i32),
    /// The program was ended by a signal that it sent to itself.
    #[error("the program was killed by signal {0}")]
    Killed(i32),
    /// A hypercall was used in a way that it does not allow.
    #[error("{0}")]
    Misuse(String),
    /// The VM stopped in a way that no program should be able to cause.
    #[error("the virtual CPU stopped: {0}")]
    Machine(String),
}

impl Fault {
    /// The fault as text, with the function that it happened in where the symbols name one.
    pub(crate) fn described_with(&self, symbols: &Symbols) -> String {
        match self {
            Self::Exception { rip, .. } | Self::StackOverflow { rip, .. } => {
                match symbols.name_of(*rip) {
                    Some((name, offset)) => format!("{self}, in {name}+{offset:#x}"),
                    None => self.to_string(),
                }
            }
            _ => self.to_string(),
        }
    }
}

/// The mnemonic and name of an exception vector (Intel SDM volume 3, table 6-1).
fn vector_name(vector: u8) -> &'static str {
    match vector {
        0 => "divide error (#DE)",
        1 => "debug exception (#DB)",
        3 => "breakpoint (#BP)",
        4 => "overflow (#OF)",
        5 => "bound range exceeded (#BR)",
        6 => "invalid opcode (#UD)",
        7 => "device not available (#NM)",
        8 => "double fault (#DF)",
        10 => "invalid TSS (#TS)",
        11 => "segment not present (#NP)",
        12 => "stack-segment fault (#SS)",
        13 => "general protection fault (#GP)",
        14 => "page fault (#PF)",
        16 => "x87 floating-point error (#MF)",
        17 => "alignment check (#AC)",
        19 => "SIMD floating-point exception (#XM)",
        _ => "exception",
    }
}
