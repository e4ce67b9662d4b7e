//! Programs: configuration, life cycle, pools of request VMs, hypercalls, registry.

mod exchange;
mod fields;
pub mod journal;
mod pool;
mod random;
mod recorded;
mod request_abi;
mod runner;
mod statistics;

pub use exchange::{Cacheability, Exchange, FieldError, Severity, Side};
pub use recorded::Recorded;
pub use request_abi::Request;
