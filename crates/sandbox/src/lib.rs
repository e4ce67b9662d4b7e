//! Micro-VMs that run ordinary Linux programs under KVM: boot, freeze, fork, run, reset.
//!
//! Knows no HTTP, no Varnish, no key-value stores.

mod address;
mod arith;
mod deadline;
mod fault;
mod hypercalls;
mod kvm;
mod layout;
pub mod memory;

pub use address::{GuestPhys, GuestVirt, PAGE_SIZE};
pub use fault::Fault;
pub use hypercalls::{Action, Hypercalls, VmCall};
pub use kvm::{Facts, Host, HostError};
pub use kvm_bindings::kvm_regs as Regs;
pub use memory::{AccessError, AccessKind, MapError, Memory, Piece, PieceMut, Place, Protection};
