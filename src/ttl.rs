//! Makes the lifetime that a program gives its response stick.
//!
//! Varnish computes TTL, grace and keep from the response headers after the director is done,
//! and there is no hook between that and `vcl_backend_response`. So the wish is told in the
//! language of that computation, as the first words of `Cache-Control`; VCL starts from the right
//! values. When the body filter opens, which is behind VCL and before the object is made, the
//! field gets its own text back, and fractions and keep, which have no word, their values.
//! What VCL changed stays as VCL wants it. `docs/decisions/0010-lifetimes.md` has the rest.

use std::mem;

use runtime::{Cacheability, Exchange, Side};

use crate::{
    context::Context,
    exchange::Messages,
    ffi,
    log::{Tag, line},
};

const NAME: &[u8] = b"Cache-Control";

/// What a program has made of the object of this attempt. Varnish keeps it for the attempts behind a
/// retry, about whose answers it says nothing.
#[derive(Debug, Default)]
pub(crate) enum Mark {
    #[default]
    None,
    Uncacheable {
        status: u16,
    },
}

impl Mark {
    fn set(&mut self, ctx: Context<'_>, status: u16) {
        // SAFETY: a valid context of a backend task.
        if unsafe { ffi::tk_object_set_uncacheable(ctx.raw()) } != 0 {
            *self = Self::Uncacheable { status };
        }
    }

    /// Nobody has seen the answer.
    pub(crate) fn undo(&mut self, ctx: Context<'_>) {
        if let Self::Uncacheable { .. } = mem::take(self) {
            // SAFETY: a valid context of a backend task.
            unsafe { ffi::tk_object_undo_uncacheable(ctx.raw()) };
        }
    }

    /// The attempt is over. If an object came of it, that stays as it is. With an error its mark goes; of
    /// another answer VCL may use a part, and that is for one client.
    pub(crate) fn end(&mut self, ctx: Context<'_>) {
        match self {
            Self::Uncacheable { status: 500.. } => self.undo(ctx),
            Self::Uncacheable { .. } if !merges_uncacheable() => {
                // What comes next must not be a 304.
                let mut messages = Messages::new(ctx);
                for condition in [b"If-None-Match".as_slice(), b"If-Modified-Since"] {
                    messages.unset(Side::Request, condition);
                }
            }
            _ => {}
        }
    }
}

fn merges_uncacheable() -> bool {
    // SAFETY: it has no arguments.
    unsafe { ffi::tk_merges_uncacheable() != 0 }
}

fn is_private(ctx: Context<'_>) -> bool {
    // SAFETY: a valid context of a backend task.
    unsafe { ffi::tk_object_private(ctx.raw()) != 0 }
}

/// Whether this response says of an old object that it is good, and not for the cache any more. Vinyl
/// Cache 9.0 would hand it to a client that has asked nothing of the sort.
pub(crate) fn is_unmergeable(ctx: Context<'_>, messages: &Messages<'_>, status: u16) -> bool {
    let says_so = messages.cacheability.is_some_and(|how| !how.cacheable);
    // SAFETY: a valid context of a backend task.
    let is_marked = || unsafe { ffi::tk_object_uncacheable(ctx.raw()) } != 0;
    status == 304 && !merges_uncacheable() && !is_private(ctx) && (says_so || is_marked())
}

/// What is to be settled when VCL is done.
#[derive(Debug)]
pub(crate) struct Plan {
    program: String,
    cacheable: bool,
    wanted: ffi::tk_ttl,
    /// The values that Varnish computes from our field: still there if VCL changed nothing.
    expected: ffi::tk_ttl,
    /// The field that VCL saw.
    shown: Vec<u8>,
    /// The program's own field.
    own: Option<Vec<u8>>,
}

impl Plan {
    /// Prepares the response, whose status and other fields are final, for Varnish's computation.
    pub(crate) fn announce(
        ctx: Context<'_>,
        messages: &mut Messages<'_>,
        status: u16,
        program: &str,
        mark: &mut Mark,
    ) -> Option<Self> {
        let how = messages.cacheability?;
        if is_private(ctx) {
            return None;
        }
        if !how.cacheable {
            mark.set(ctx, status);
            if how.ttl.is_zero() {
                return None;
            }
        }
        let own = take_own(messages);
        let (ttl, grace) = (whole_seconds(how.ttl), whole_seconds(how.grace));
        let mut shown =
            format!("Cache-Control: s-maxage={ttl}, stale-while-revalidate={grace}").into_bytes();
        if let Some(value) = &own {
            shown.extend_from_slice(b", ");
            shown.extend_from_slice(value);
        }
        let own = own.map(|value| [NAME, b": ", &value].concat());
        if let Err(error) = messages.append_own(&shown) {
            line(
                Some(ctx),
                Tag::Error,
                &format!("tinykvm: {program}: the response's lifetime: {error}"),
            );
            // The text is on the workspace already, but its place in the table may be taken.
            if let Some(own) = &own {
                let _no_room_either = messages.append_own(own);
            }
            return None;
        }
        Some(Self {
            program: program.to_owned(),
            cacheable: how.cacheable,
            wanted: wanted(how),
            expected: expected(ttl, grace, status),
            shown,
            own,
        })
    }

    /// VCL is done: exact values, and the program's own `Cache-Control`.
    pub(crate) fn settle(self, ctx: Context<'_>) {
        let mut messages = Messages::new(ctx);
        if messages.find(Side::Response, NAME) == Some(self.shown.as_slice()) {
            match &self.own {
                // It is a part of what it replaces, so there is room unless the workspace is full.
                Some(own) => {
                    if messages.set_own(own).is_err() {
                        let program = &self.program;
                        let text = format!("tinykvm: {program}: no workspace for Cache-Control");
                        line(Some(ctx), Tag::Error, &text);
                    }
                }
                None => {
                    messages.unset(Side::Response, NAME);
                }
            }
        }
        // SAFETY: a valid context of a backend task.
        let uncacheable = unsafe { ffi::tk_object_uncacheable(ctx.raw()) } != 0;
        if self.cacheable && uncacheable {
            return;
        }
        // SAFETY: as above.
        let now = unsafe { ffi::tk_object_ttl(ctx.raw()) };
        let keep_change = |now: f64, expected: f64, wanted: f64| {
            if same(now, expected) { wanted } else { now }
        };
        let then = ffi::tk_ttl {
            ttl: keep_change(now.ttl, self.expected.ttl, self.wanted.ttl),
            grace: keep_change(now.grace, self.expected.grace, self.wanted.grace),
            keep: keep_change(now.keep, self.expected.keep, self.wanted.keep),
        };
        if !(same(then.ttl, now.ttl) && same(then.grace, now.grace) && same(then.keep, now.keep)) {
            // SAFETY: as above.
            unsafe { ffi::tk_object_set_ttl(ctx.raw(), then) };
        }
    }
}

/// A lifetime from a program that VCL runs itself, where an object is being made: it counts at
/// once, and VCL may change it afterwards.
pub(crate) fn apply(ctx: Context<'_>, how: Cacheability, program: &[u8]) {
    if is_private(ctx) {
        return;
    }
    // SAFETY: a valid context of a backend task.
    let uncacheable = unsafe { ffi::tk_object_uncacheable(ctx.raw()) } != 0;
    if how.cacheable && uncacheable {
        let program = String::from_utf8_lossy(program);
        let text = format!("tinykvm: {program}: the object is uncacheable already");
        line(Some(ctx), Tag::VclError, &text);
        return;
    }
    if !how.cacheable {
        // SAFETY: as above.
        unsafe { ffi::tk_object_set_uncacheable(ctx.raw()) };
        if how.ttl.is_zero() {
            return;
        }
    }
    // SAFETY: as above.
    unsafe { ffi::tk_object_set_ttl(ctx.raw(), wanted(how)) };
}

/// Removes the program's own fields and answers their value, joined as Varnish would.
fn take_own(messages: &mut Messages<'_>) -> Option<Vec<u8>> {
    let mut own: Option<Vec<u8>> = None;
    while let Some(value) = messages.value(Side::Response, NAME) {
        match &mut own {
            Some(joined) => {
                joined.extend_from_slice(b", ");
                joined.extend_from_slice(value);
            }
            None => own = Some(value.to_vec()),
        }
        messages.unset(Side::Response, NAME);
    }
    own
}

/// Rounded up: a lifetime of half a second is not none.
fn whole_seconds(time: std::time::Duration) -> u32 {
    let seconds = time
        .as_secs()
        .saturating_add(u64::from(time.subsec_nanos() > 0));
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

fn wanted(how: Cacheability) -> ffi::tk_ttl {
    ffi::tk_ttl {
        ttl: how.ttl.as_secs_f64(),
        grace: how.grace.as_secs_f64(),
        keep: how.keep.as_secs_f64(),
    }
}

/// What Varnish makes of the field: it reads it for some statuses only.
fn expected(ttl: u32, grace: u32, status: u16) -> ffi::tk_ttl {
    // SAFETY: reads a parameter of the process.
    let keep = unsafe { ffi::tk_default_keep() };
    if matches!(
        status,
        200 | 203 | 204 | 300 | 301 | 302 | 304 | 307 | 404 | 410 | 414
    ) {
        ffi::tk_ttl {
            ttl: f64::from(ttl),
            grace: f64::from(grace),
            keep,
        }
    } else {
        // SAFETY: as above.
        let grace = unsafe { ffi::tk_default_grace() };
        ffi::tk_ttl {
            ttl: -1.0,
            grace,
            keep,
        }
    }
}

/// Objects have single precision.
fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= f64::from(f32::EPSILON) * a.abs().max(b.abs())
}
