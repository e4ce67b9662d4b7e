//! Rust's view of `vmod/bridge.h`, made by bindgen, and the exported description of the VMOD.

#![allow(
    dead_code,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::indexing_slicing,
    clippy::ptr_as_ptr,
    clippy::missing_safety_doc,
    reason = "generated from C"
)]

use std::{cell::UnsafeCell, mem::MaybeUninit};

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

/// What varnishd looks up in the library. `vmod/data.c` fills it when the library is mapped,
/// before anything can read it.
#[repr(transparent)]
pub struct Description(UnsafeCell<MaybeUninit<vmod_data>>);

// SAFETY: written once, by the loader's thread, before dlopen returns; read by C alone.
unsafe impl Sync for Description {}

#[unsafe(no_mangle)]
static Vmod_tinykvm_Data: Description = Description(UnsafeCell::new(MaybeUninit::zeroed()));

/// Lets `vmod/data.c` see that both sides mean the same structure.
#[unsafe(no_mangle)]
static tk_exported_size: usize = size_of::<vmod_data>();
