//! A program's storage: one more VM, never reset, that keeps what requests share.

/// Why state could not be moved from one instance of a program to the next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandOverError {
    /// The callback that saves the state failed.
    #[error("saving the state of the old program: {0}")]
    Save(String),
    /// The callback that takes it failed.
    #[error("restoring the state in the new program: {0}")]
    Restore(String),
}

/// One instance's storage VM.
#[derive(Debug)]
pub(crate) struct Storage {}

impl Storage {
    /// Moves the state to another instance's storage: how many bytes. Nothing where one side has
    /// no callback for it.
    #[allow(dead_code, clippy::unused_self, reason = "the VM is to come")]
    pub(crate) fn hand_over(&self, _to: &Self) -> Result<Option<usize>, HandOverError> {
        Ok(None)
    }
}
