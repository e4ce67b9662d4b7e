//! The VMOD: what VCL says, in; what a program answers, out. Thin: programs, pools and hypercalls
//! are in `crates/runtime`, which knows nothing of Varnish.
//!
//! - `entry`: the VCL functions and the VCL event
//! - `chain`, `to_string`, `synth`, `immediate`: programs in a row, and programs that VCL waits for
//! - `live_update`: new builds of programs
//! - `state`, `task`: what belongs to a loaded VCL, and to one fetch
//! - `counters`: what varnishstat shows
//! - `director`, `exchange`, `body`, `fetch`, `ttl`: one fetch, in that order
//! - `context`, `log`, `guard`: what all of them use
//! - `ffi`: the C side of the seam (`vmod/bridge.h`)
//!
//! Invariants: a pointer from varnishd is checked in an `extern "C"` function and nowhere else. No
//! panic leaves one. Nothing happens at dlopen: the manager and the VCL compiler map this file too.

mod body;
mod chain;
mod context;
mod counters;
mod director;
mod entry;
mod exchange;
mod fetch;
mod ffi;
mod guard;
mod immediate;
mod live_update;
mod log;
mod state;
mod synth;
mod task;
mod to_string;
mod ttl;
