//! An image: a program that has started, stands where it waits for requests, and never changes
//! again. Request VMs are forked from it.

use std::ops::Range;
use std::sync::Arc;

use crate::address::PAGE_SIZE;
use crate::elf::Symbols;
use crate::gdb::Debugging;
use crate::kvm::{Facts, Host, HostError};
use crate::linux::{FsBase, Process};
use crate::memory::{Frozen, Protection};
use crate::vm::Vm;
use crate::{Fault, GuestVirt, Regs};

/// A frozen main VM.
#[derive(Debug)]
pub struct Image {
    pub(crate) host: Arc<Host>,
    pub(crate) frozen: Arc<Frozen>,
    pub(crate) process: Process,
    /// As they are behind the call in which the program waits.
    pub(crate) regs: Regs,
    pub(crate) bases: FsBase,
    pub(crate) limits: RequestLimits,
    pub(crate) symbols: Symbols,
    pub(crate) debugging: Debugging,
    pub(crate) bias: u64,
}

/// What each request VM may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Bytes that one request may write, its own data included.
    pub memory: u64,
    /// Bytes that a VM keeps for its next request; what it wrote beyond that is given back to the
    /// host, which makes the next request slower.
    pub keep: u64,
}

impl Image {
    /// A request VM that looks as this image does.
    pub fn fork(self: &Arc<Self>) -> Result<Vm, HostError> {
        Vm::fork(Arc::clone(self))
    }

    /// A VM for state that outlives a request: it is called again and again without a reset, and
    /// may write the files that the main VM may. Memory beyond its limit is refused when it asks
    /// for it.
    pub fn fork_to_last(self: &Arc<Self>) -> Result<Vm, HostError> {
        Vm::fork_to_last(Arc::clone(self))
    }

    /// Bytes of memory that the image takes, once for all its forks.
    pub fn bytes(&self) -> u64 {
        self.frozen.content_bytes()
    }

    /// Guest-physical bytes of each request VM: what its memory slot spans. Most of them are never
    /// touched.
    pub fn span(&self) -> u64 {
        self.frozen.span()
    }

    /// Pages of its own that a VM may keep for its next request.
    pub(crate) fn keep_pages(&self) -> u64 {
        self.limits.keep / PAGE_SIZE
    }

    /// What the program has mapped, in the order of addresses, with rights.
    pub fn mappings(&self) -> impl Iterator<Item = (Range<u64>, Protection)> + '_ {
        self.frozen.mappings()
    }

    /// What the host does where hosts differ.
    pub fn facts(&self) -> &Facts {
        self.host.facts()
    }

    /// Where the program stopped when it was frozen: general registers, after the call in which it
    /// waits for requests.
    pub fn registers(&self) -> &Regs {
        &self.regs
    }

    /// The fault as text, with the function that it happened in where the program has symbols.
    pub fn describe(&self, fault: &Fault) -> String {
        fault.described_with(&self.symbols)
    }

    /// Whether `address` can be a function of the program.
    pub fn is_code(&self, address: GuestVirt) -> bool {
        self.frozen.is_executable(address)
    }
}
