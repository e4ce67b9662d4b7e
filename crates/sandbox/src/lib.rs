//! Micro-VMs that run ordinary Linux programs under KVM: boot, freeze, fork, run, reset.
//!
//! Knows no HTTP, no Varnish, no key-value stores.

mod address;
mod arith;
mod boot;
mod clock;
mod deadline;
mod descriptors;
pub mod elf;
mod entry;
mod fault;
pub mod gdb;
mod hypercalls;
mod image;
mod kvm;
mod layout;
mod linux;
mod machine;
pub mod memory;
mod start;
mod vm;

pub use address::{GuestPhys, GuestVirt, PAGE_SIZE};
pub use boot::{BootConfig, BootError, MainVm};
pub use descriptors::descriptors_are_scarce;
pub use fault::Fault;
pub use hypercalls::{Action, Hypercalls, VmCall};
pub use image::{Image, RequestLimits};
pub use kvm::{Facts, Host, HostError};
pub use kvm_bindings::kvm_regs as Regs;
pub use linux::{AllowedPath, system_call_name};
pub use machine::{Counters, Exit};
pub use memory::{
    AccessError, AccessKind, MapError, Memory, Piece, PieceMut, Place, Protection, Region, Stack,
    Use, Wiped,
};
pub use start::StartError;
pub use vm::Vm;
