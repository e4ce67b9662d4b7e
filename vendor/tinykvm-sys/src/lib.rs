//! Placeholder until the first commits of the ABI land.
