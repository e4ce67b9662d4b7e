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
    BackendResponse,
    BackendError,
    /// A backend task, but not in VCL.
    Director,
    Synth,
    /// Anywhere else in a client task.
    Client,
    /// Without a transaction.
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
            ffi::TK_IN_BACKEND_RESPONSE => Place::BackendResponse,
            ffi::TK_IN_BACKEND_ERROR => Place::BackendError,
            ffi::TK_IN_DIRECTOR => Place::Director,
            ffi::TK_IN_SYNTH => Place::Synth,
            ffi::TK_IN_CLIENT => Place::Client,
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

    /// So many bytes that live as long as the task, with a NUL behind them; `None` without room.
    pub(crate) fn workspace_room(self, len: usize) -> Option<&'a mut [u8]> {
        // SAFETY: the context is valid for 'a.
        let room = unsafe { ffi::tk_workspace_alloc(self.raw, len) };
        if room.is_null() {
            return None;
        }
        // SAFETY: `len` bytes that were just taken from the workspace for us alone.
        Some(unsafe { slice::from_raw_parts_mut(room.cast(), len) })
    }

    /// A copy that lives as long as the task, with a NUL behind it; null without room.
    pub(crate) fn workspace_copy(self, text: &str) -> *const c_char {
        // SAFETY: as in `fail`.
        unsafe { ffi::tk_workspace_copy(self.raw, text.as_ptr().cast(), text.len(), 0) }
    }
}

/// A STRANDS argument, each string of it; unset ones are empty.
///
/// # Safety
/// `strands` is what varnishd handed over, and lives and stays unchanged as long as `'a`.
pub(crate) unsafe fn strands<'a>(
    strands: *const ffi::strands,
) -> impl ExactSizeIterator<Item = &'a [u8]> {
    // SAFETY: the caller's promise; null is allowed.
    let count = unsafe { ffi::tk_strands(strands) };
    (0..count).map(move |nth| {
        // SAFETY: as above; the bridge checks the number.
        let text = unsafe { ffi::tk_strand(strands, nth) };
        // SAFETY: null or a string of varnishd's that lives as long as the others.
        unsafe { string(text) }
    })
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
