//! varnishd's context, checked. Guards: whoever holds a `Context` may call the bridge with it.

use std::{
    ffi::{CStr, c_char},
    marker::PhantomData,
    slice,
};

use crate::ffi;

/// A context that varnishd handed to us, for the time of that call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    raw: *const ffi::vrt_ctx,
    call: PhantomData<&'a ffi::vrt_ctx>,
}

/// Where in VCL we are called from, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Init,
    BackendFetch,
    Other,
}

impl<'a> Context<'a> {
    /// # Safety
    /// `raw` is null or points to readable memory of a context's size that outlives `'a`.
    pub(crate) unsafe fn from_raw(raw: *const ffi::vrt_ctx) -> Option<Self> {
        // SAFETY: the caller's promise; the function allows null and checks the magic number.
        let valid = unsafe { ffi::tk_ctx_valid(raw) } != 0;
        valid.then_some(Self {
            raw,
            call: PhantomData,
        })
    }

    pub(crate) fn raw(self) -> *const ffi::vrt_ctx {
        self.raw
    }

    pub(crate) fn place(self) -> Place {
        // SAFETY: the context is valid for 'a.
        match unsafe { ffi::tk_ctx_where(self.raw) } {
            ffi::TK_IN_INIT => Place::Init,
            ffi::TK_IN_BACKEND_FETCH => Place::BackendFetch,
            _ => Place::Other,
        }
    }

    /// VCL failure: ends the VCL that called. Not for directors, where there is none.
    pub(crate) fn fail(self, text: &str) {
        // SAFETY: the context is valid for 'a; the text is read only during the call.
        unsafe { ffi::tk_fail(self.raw, text.as_ptr().cast(), text.len()) };
    }

    /// For whoever loads the VCL.
    pub(crate) fn tell_loader(self, text: &str) {
        // SAFETY: as in `fail`.
        unsafe { ffi::tk_tell_loader(self.raw, text.as_ptr().cast(), text.len()) };
    }

    /// A copy that lives as long as the task, with a NUL behind it; null without room.
    pub(crate) fn workspace_copy(self, text: &str) -> *const c_char {
        // SAFETY: as in `fail`.
        unsafe { ffi::tk_workspace_copy(self.raw, text.as_ptr().cast(), text.len(), 0) }
    }
}

/// A STRING argument; an unset one is empty.
///
/// # Safety
/// `text` is null or NUL-terminated, and lives and stays unchanged as long as `'a`.
pub(crate) unsafe fn string<'a>(text: *const c_char) -> &'a [u8] {
    if text.is_null() {
        return &[];
    }
    // SAFETY: not null; the rest is the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}

/// Bytes on the workspace of a context that is valid for `'a`.
pub(crate) fn workspace_bytes<'a>(bytes: ffi::tk_bytes) -> Option<&'a [u8]> {
    if bytes.ptr.is_null() {
        return None;
    }
    // SAFETY: the bridge answers null or a range of header text, which varnishd keeps until the
    // task ends and does not change in place.
    Some(unsafe { slice::from_raw_parts(bytes.ptr.cast(), bytes.len) })
}
