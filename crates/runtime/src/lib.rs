//! Programs: configuration, life cycle, pools of request VMs, hypercalls, registry.

mod body;
pub mod config;
mod exchange;
mod fields;
mod hypercalls;
mod instance;
pub mod journal;
pub mod loader;
pub mod outgoing;
mod pool;
mod program;
mod random;
mod recipe;
mod recorded;
mod registry;
mod report;
mod request_abi;
mod reservation;
mod response;
mod runner;
mod serve;
mod slot;
mod source;
mod statistics;
mod vcl;
mod warming;

pub use body::BodyError;
pub use exchange::{Cacheability, Exchange, FieldError, Severity, Side};
pub use instance::StartError;
pub use program::{Phase, Program, ReserveError};
pub use recipe::{Recipe, Source, Threads, Warming};
pub use recorded::Recorded;
pub use request_abi::Request;
pub use reservation::Reservation;
pub use response::{ContentType, Response};
pub use vcl::Vcl;
