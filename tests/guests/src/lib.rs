//! Compiles the guest programs that tests and benches run.
