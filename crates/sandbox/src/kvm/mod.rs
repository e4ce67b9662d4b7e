//! Everything that talks to /dev/kvm, and nothing else does: the host, what it can do, virtual CPUs.

mod host;
mod probe;
mod system;
mod vcpu;

pub use host::{Facts, Host, HostError};
pub(crate) use probe::host_tsc;
pub(crate) use system::{INTERRUPTS_ON, install, write_return_frame};
pub(crate) use vcpu::{Event, Vcpu};
