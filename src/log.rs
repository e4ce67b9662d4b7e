//! Lines in the Varnish log: of a task where there is one, else without transaction.

use std::sync::Once;

use runtime::{Severity, journal};

use crate::{context::Context, ffi};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    /// What a program prints, and what happened as it should.
    Log,
    /// Something an operator should look at.
    Error,
    /// Why a fetch fails.
    FetchError,
    /// A mistake in VCL that is no reason to fail.
    VclError,
}

impl Tag {
    fn number(self) -> i32 {
        match self {
            Self::Log => ffi::TK_LOG,
            Self::Error => ffi::TK_ERROR,
            Self::FetchError => ffi::TK_FETCH_ERROR,
            Self::VclError => ffi::TK_VCL_ERROR,
        }
    }
}

impl From<Severity> for Tag {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Info => Self::Log,
            Severity::Error => Self::Error,
        }
    }
}

pub(crate) fn line(ctx: Option<Context<'_>>, tag: Tag, text: &str) {
    bytes(ctx, tag, text.as_bytes());
}

pub(crate) fn bytes(ctx: Option<Context<'_>>, tag: Tag, text: &[u8]) {
    let raw = ctx.map_or(std::ptr::null(), Context::raw);
    let text = journal::printable(text);
    // SAFETY: the context is valid or null, which the function allows; the text is read only
    // during the call.
    unsafe { ffi::tk_log(raw, tag.number(), text.as_ptr().cast(), text.len()) };
}

/// A line of a fetch whose body is pulled.
///
/// # Safety
/// `fetch` is what varnishd handed to a fetch filter, which has not returned yet.
pub(crate) unsafe fn fetch(fetch: *const ffi::vfp_ctx, tag: Tag, text: &[u8]) {
    let text = journal::printable(text);
    // SAFETY: the caller's promise; the text is read only during the call.
    unsafe { ffi::tk_fetch_log(fetch, tag.number(), text.as_ptr().cast(), text.len()) };
}

/// Sends what the runtime says outside of requests to the log. In the cache child only.
pub(crate) fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        journal::listen(|severity, program, text| {
            let mut message = format!("tinykvm: {program}: ").into_bytes();
            message.extend_from_slice(text);
            bytes(None, severity.into(), &message);
        });
    });
}
