//! The bytes of programs and the text of libraries.

/// Why nothing was loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {}
