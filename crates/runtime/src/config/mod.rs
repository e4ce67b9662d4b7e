//! The JSON configuration: text in, data types out, with errors that say which key of which
//! program is wrong, what was expected and what stood there.
//!
//! Guards: nothing here touches a file, the network or a VM; whatever the text is, the answer is a
//! configuration or an error. What a key is called, which values it takes, what it means and
//! whether it has an effect stands once, in the tables of `keys.rs`; `docs/configuration.md` is
//! compared with them.

mod document;
mod error;
mod expand;
mod headers;
mod keys;
mod nearest;
mod program;
mod reference;
mod settings;
mod shapes;
mod strip;
mod table;
#[cfg(test)]
mod tests;

pub use document::{Document, Groups, apply, define};
pub use error::{ConfigError, Owner, Warning};
pub use expand::Expansion;
pub use headers::{HeadersError, fetch_headers};
pub use program::{ProgramConfig, Secret};
pub use reference::reference;
pub use settings::{Access, Download, PathRule, Remapping, Server, Settings, UNLIMITED, Warmup};
