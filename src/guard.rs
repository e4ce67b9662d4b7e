//! The wall that no panic passes. Each `extern "C"` function runs its body in here: unwinding
//! into varnishd's C would end the cache child.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    context::Context,
    log::{Tag, line},
};

/// The result of `body`, or `otherwise` if it panicked. The caller's state may be half changed
/// after a panic; callers answer with a failure of the task, which throws that state away.
pub(crate) fn guard<T>(ctx: Option<Context<'_>>, otherwise: T, body: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => value,
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("no text");
            line(
                ctx,
                Tag::Error,
                &format!("tinykvm: bug in the VMOD, please report: {text}"),
            );
            // A panic's payload may panic when it is dropped.
            std::mem::forget(panic);
            otherwise
        }
    }
}
