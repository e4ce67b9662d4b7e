//! The Linux that a guest sees: system calls answered by the host, one file per family.
//!
//! Everything in a call is the guest's choice. Three rules hold in every family: guest memory is
//! only reached through [`Memory`]'s checked copies, no allocation and no loop is as long as a
//! number the guest passed, and nothing waits beyond the call's deadline. All state lives in
//! [`Process`], which forks and resets with its VM; no host descriptor has an offset that counts.
//!
//! `docs/system-calls.md` says what each call does here; a test compares it with the table.

mod args;
mod descriptors;
mod directories;
mod edits;
mod epoll;
mod fds;
mod files;
mod futex;
mod identity;
mod limits;
mod memory;
mod open;
mod paths;
mod pipes;
mod poll;
mod process;
mod random;
mod signals;
mod sockets;
mod status;
mod table;
mod time;
mod transfer;

#[cfg(test)]
mod tests;

pub use paths::AllowedPath;
pub(crate) use process::{Process, ProcessConfig};

use std::time::Instant;

use crate::memory::{AccessError, AccessKind, MapError, Memory};
use crate::{Fault, Hypercalls, Regs};

/// One system call: the guest's registers and all that it may act on.
pub(crate) struct Call<'a> {
    /// Arguments are in RDI, RSI, RDX, R10, R8, R9.
    pub regs: &'a Regs,
    pub memory: &'a mut Memory,
    pub process: &'a mut Process,
    /// Who takes the text written to descriptors 1 and 2.
    pub output: &'a mut dyn Hypercalls,
    pub fs_base: &'a mut FsBase,
    pub deadline: Instant,
}

impl Call<'_> {
    fn args(&self) -> [u64; 6] {
        let regs = self.regs;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9]
    }
}

/// The segment bases of the guest's thread, as arch_prctl(2) reads and sets them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FsBase {
    pub fs: u64,
    pub gs: u64,
}

/// What a system call did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The guest goes on with this in RAX: a result or a negated errno.
    Return(i64),
    /// The program ended itself.
    Exit(i32),
    /// The program sent itself a signal that ends it.
    Killed(i32),
    /// The call cannot be answered; it costs the guest what it is running.
    Fault(Fault),
}

/// An errno(3) value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Errno(i32);

impl Errno {
    /// What the last host call of this thread failed with.
    fn last() -> Self {
        Self::of(&std::io::Error::last_os_error())
    }

    fn of(error: &std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stop {
    Errno(Errno),
    /// -ENOSYS, said aloud once per program.
    Unsupported,
    End(Outcome),
}

/// What the function behind a call returns: its result, as it goes to RAX.
type Answer = Result<u64, Stop>;

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<AccessError> for Stop {
    fn from(error: AccessError) -> Self {
        Self::Errno(Errno(match error.kind {
            AccessKind::TooLong => libc::ENAMETOOLONG,
            AccessKind::NoRoom => libc::ENOMEM,
            AccessKind::Unmapped | AccessKind::ReadOnly | AccessKind::Fragmented => libc::EFAULT,
        }))
    }
}

impl From<MapError> for Stop {
    fn from(error: MapError) -> Self {
        Self::Errno(Errno(match error {
            MapError::Invalid => libc::EINVAL,
            MapError::NoMemory | MapError::Reserved => libc::ENOMEM,
            MapError::Exists => libc::EEXIST,
            MapError::WriteExecute => libc::EACCES,
        }))
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::End(Outcome::Fault(fault))
    }
}

/// A refusal with this errno.
fn refuse<T>(errno: i32) -> Result<T, Stop> {
    Err(Stop::Errno(Errno(errno)))
}

/// The end of the run: the only thread waits for what nobody can bring about.
fn deadlock<T>(what: &str) -> Result<T, Stop> {
    Err(Fault::Misuse(format!("the program waits forever: {what}")).into())
}

/// What a system call is called, as `openat`; nothing for unknown ones.
pub fn system_call_name(number: u64) -> Option<&'static str> {
    Some(table::find(number)?.name.trim_start_matches("SYS_"))
}

/// Answers one system call.
pub(crate) fn dispatch(call: &mut Call<'_>, number: u64) -> Outcome {
    let answer = match table::find(number) {
        Some(entry) => (entry.function)(call),
        None => Err(Stop::Unsupported),
    };
    match answer {
        Ok(value) => Outcome::Return(args::signed(value)),
        Err(Stop::Errno(Errno(errno))) => Outcome::Return(-i64::from(errno)),
        Err(Stop::Unsupported) => {
            table::report_unsupported(call, number);
            Outcome::Return(-i64::from(libc::ENOSYS))
        }
        Err(Stop::End(outcome)) => outcome,
    }
}
