//! The runtime's view of a task: bereq and beresp, or req and resp, behind its `Exchange` trait.
//!
//! Guards: what a guest asks for cannot overflow the workspace or the header tables; it gets an
//! error instead, and the task goes on. The field that tells how many self-requests have led here is
//! not seen, set or taken away by guests; those that say where a body ends are not set or taken away.

use std::time::{Duration, Instant};

use runtime::outgoing::{Cause, Outgoing, depth_field, is_depth_field};
use runtime::{Cacheability, Deadline, Exchange, FieldError, Limit, Severity, Side};

use crate::{
    context::{Context, Place, workspace_bytes},
    fetch::Held,
    ffi,
    log::{self, Tag, line},
};

#[derive(Debug)]
pub(crate) struct Messages<'a> {
    ctx: Context<'a>,
    /// The VCL that the task belongs to, with its self-requests.
    vcl: Option<&'a runtime::Vcl>,
    /// When `bereq.first_byte_timeout` ends, once it has begun.
    first_byte: Option<Instant>,
    /// What the guest last said about the lifetime of its response.
    pub(crate) cacheability: Option<Cacheability>,
    /// An answer of the same task whose request VM others may need.
    answer: Option<&'a mut Held>,
}

// SAFETY: the guest may run on another thread than the worker, which waits for it: never two
// threads at once, and nothing of a busy object or a request is bound to its thread. A VCL is for all
// threads (next line).
unsafe impl Send for Messages<'_> {}
const _: () = is_for_all_threads::<runtime::Vcl>();
const fn is_for_all_threads<T: Sync>() {}

fn number(side: Side) -> i32 {
    match side {
        Side::Request => ffi::TK_REQUEST,
        Side::Response => ffi::TK_RESPONSE,
    }
}

impl<'a> Messages<'a> {
    pub(crate) fn new(ctx: Context<'a>) -> Self {
        Self {
            ctx,
            vcl: None,
            first_byte: None,
            cacheability: None,
            answer: None,
        }
    }

    /// With the self-requests of the VCL that the task belongs to.
    pub(crate) fn of_vcl(self, vcl: &'a runtime::Vcl) -> Self {
        Self {
            vcl: Some(vcl),
            ..self
        }
    }

    /// In a director: `bereq.first_byte_timeout` begins, if VCL has set it.
    pub(crate) fn await_first_byte(&mut self) {
        // SAFETY: a valid context of a backend task.
        let seconds = unsafe { ffi::tk_first_byte_timeout(self.ctx.raw()) };
        // Not a number where VCL has set none; 0 means none as well.
        self.first_byte = Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|time| !time.is_zero())
            .and_then(|time| Instant::now().checked_add(time));
    }

    /// Before a request VM is waited for, the one of `answer` is given back.
    pub(crate) fn give_way(&mut self, answer: &'a mut Held) {
        self.answer = Some(answer);
    }

    /// Whether the task has that message (yet).
    pub(crate) fn is_available(&self, side: Side) -> bool {
        // SAFETY: a valid context of a task.
        unsafe { ffi::tk_http_available(self.ctx.raw(), number(side)) != 0 }
    }

    fn cause(&self) -> Cause {
        match self.value(Side::Request, depth_field()) {
            Some(value) => Cause::parse(value),
            None => Cause::default(),
        }
    }

    /// Whether the answer is for one client alone.
    fn is_private(&self) -> bool {
        match self.ctx.place() {
            Place::Client | Place::Synth => true,
            Place::Director
            | Place::BackendFetch
            | Place::BackendResponse
            | Place::BackendError => {
                // SAFETY: a valid context of a backend task.
                unsafe { ffi::tk_object_private(self.ctx.raw()) != 0 }
            }
            Place::Init | Place::Other => false,
        }
    }

    pub(crate) fn request_method(&self) -> &'a [u8] {
        // SAFETY: a valid context of a task.
        workspace_bytes(unsafe { ffi::tk_http_method(self.ctx.raw()) }).unwrap_or_default()
    }

    /// The value of the first field of that name.
    pub(crate) fn value(&self, side: Side, name: &[u8]) -> Option<&'a [u8]> {
        let field = find(self.ctx, side, name)?;
        let value = field.get(name.len().saturating_add(1)..)?;
        Some(value.trim_ascii())
    }

    /// Adds a field of our own, for which guests have left room.
    pub(crate) fn append_own(&mut self, field: &[u8]) -> Result<(), FieldError> {
        self.write(Side::Response, field, ffi::TK_VMOD, None)
            .map(|_place| ())
    }

    /// Replaces the first field of that name, or adds one, as `append_own`.
    pub(crate) fn set_own(&mut self, field: &[u8]) -> Result<(), FieldError> {
        self.write(Side::Response, field, ffi::TK_VMOD, Some(name_len(field)))
            .map(|_place| ())
    }

    fn write(
        &mut self,
        side: Side,
        field: &[u8],
        writer: i32,
        replace: Option<usize>,
    ) -> Result<u32, FieldError> {
        let (raw, side, len) = (self.ctx.raw(), number(side), field.len());
        let text = field.as_ptr().cast();
        place(match replace {
            // SAFETY: a valid context of a task; the field is copied during the call.
            Some(name) => unsafe { ffi::tk_http_set(raw, side, text, len, name, writer) },
            // SAFETY: as above.
            None => unsafe { ffi::tk_http_append(raw, side, text, len, writer) },
        })
    }

    fn write_for_guest(
        &mut self,
        side: Side,
        field: &[u8],
        replace: Option<usize>,
    ) -> Result<u32, FieldError> {
        if self.is_out_of_bounds(side, field) {
            return Ok(0);
        }
        if side == Side::Response
            && let Some(why) = asserted_on(field)
        {
            return Err(FieldError::Refused(why));
        }
        self.write(side, field, ffi::TK_GUEST, replace)
    }

    /// The response's type, instead of any that is there; none if empty.
    pub(crate) fn put_content_type(&mut self, value: &[u8]) -> Result<(), FieldError> {
        const NAME: &[u8] = b"Content-Type";
        if value.is_empty() {
            self.unset_own(NAME);
            return Ok(());
        }
        self.put_own(NAME, value)
    }

    /// A field of the response, instead of all of that name.
    pub(crate) fn put_own(&mut self, name: &[u8], value: &[u8]) -> Result<(), FieldError> {
        self.unset_own(name);
        let (raw, side) = (self.ctx.raw(), number(Side::Response));
        let (text, len) = (value.as_ptr().cast(), value.len());
        // SAFETY: a valid context of a task; name and value are copied during the call.
        place(unsafe { ffi::tk_http_add(raw, side, name.as_ptr().cast(), name.len(), text, len) })
            .map(|_place| ())
    }

    /// Removes every field of that name from the response.
    pub(crate) fn unset_own(&mut self, name: &[u8]) {
        let (raw, side) = (self.ctx.raw(), number(Side::Response));
        // SAFETY: a valid context of a task; the name is read during the call only.
        while unsafe { ffi::tk_http_unset(raw, side, name.as_ptr().cast(), name.len()) } > 0 {}
    }

    /// Whether guests have to leave this field as it is. A wrong length would tear the client's or
    /// another backend's connection apart; in a director's response it is put right afterwards.
    fn is_out_of_bounds(&self, side: Side, field: &[u8]) -> bool {
        let name = field.get(..name_len(field)).unwrap_or(field);
        let frames = name.eq_ignore_ascii_case(b"Content-Length")
            || name.eq_ignore_ascii_case(b"Transfer-Encoding");
        let put_right = side == Side::Response && self.ctx.place() == Place::Director;
        is_depth_field(field) || (frames && !put_right)
    }
}

/// What is wrong with a field of a response that would end varnishd's child. Varnish 7.1 and 7.7 assert
/// that a name in `Vary` has not 127 bytes, 7.1 that it knows the unit of a `Content-Range`.
fn asserted_on(field: &[u8]) -> Option<&'static str> {
    const LONGEST_NAME: usize = 126;
    let (name, value) = field.split_at(name_len(field));
    let value = value.get(1..).unwrap_or_default().trim_ascii_start();
    if name.eq_ignore_ascii_case(b"Vary") {
        let mut names = value.split(|byte| b", \t".contains(byte));
        return names
            .any(|name| name.len() > LONGEST_NAME)
            .then_some("Vary: a name has more than 126 bytes");
    }
    if name.eq_ignore_ascii_case(b"Content-Range") {
        let range = value.strip_prefix(b"bytes ");
        let known =
            range.is_some_and(|range| !range.starts_with(b" ") && !range.starts_with(b"\t"));
        return (!known).then_some("Content-Range: it does not begin with \"bytes \"");
    }
    None
}

fn find<'a>(ctx: Context<'a>, side: Side, name: &[u8]) -> Option<&'a [u8]> {
    // SAFETY: a valid context of a task; the name is read during the call only.
    let found =
        unsafe { ffi::tk_http_find(ctx.raw(), number(side), name.as_ptr().cast(), name.len()) };
    workspace_bytes(found)
}

fn name_len(field: &[u8]) -> usize {
    field.iter().position(|&b| b == b':').unwrap_or(field.len())
}

fn place(result: i32) -> Result<u32, FieldError> {
    u32::try_from(result).map_err(|_| match result {
        ffi::TK_NO_FIELD => FieldError::Full,
        ffi::TK_NO_TABLE => FieldError::NotAvailable,
        _ => FieldError::NoSpace,
    })
}

impl Exchange for Messages<'_> {
    fn visit_request_headers(&self, visit: &mut dyn FnMut(&[u8])) {
        let side = number(Side::Request);
        // SAFETY: a valid context of a task.
        let count = unsafe { ffi::tk_http_fields(self.ctx.raw(), side) };
        for nth in 0..count {
            // SAFETY: as above; the bridge checks the number.
            let field = unsafe { ffi::tk_http_field(self.ctx.raw(), side, nth) };
            if let Some(field) = workspace_bytes(field)
                && !is_depth_field(field)
            {
                visit(field);
            }
        }
    }

    fn method(&self) -> &[u8] {
        self.request_method()
    }

    fn find(&self, side: Side, name: &[u8]) -> Option<&[u8]> {
        find(self.ctx, side, name).filter(|_| !is_depth_field(name))
    }

    fn append(&mut self, side: Side, field: &[u8]) -> Result<u32, FieldError> {
        self.write_for_guest(side, field, None)
    }

    fn set(&mut self, side: Side, field: &[u8]) -> Result<u32, FieldError> {
        self.write_for_guest(side, field, Some(name_len(field)))
    }

    fn unset(&mut self, side: Side, name: &[u8]) -> u32 {
        if self.is_out_of_bounds(side, name) {
            return 0;
        }
        let text = name.as_ptr().cast();
        // SAFETY: a valid context of a task; the name is read during the call only.
        unsafe { ffi::tk_http_unset(self.ctx.raw(), number(side), text, name.len()) }
    }

    fn side_of_response(&self) -> Side {
        if self.is_available(Side::Response) {
            Side::Response
        } else {
            Side::Request
        }
    }

    fn set_cacheable(&mut self, how: Cacheability) -> bool {
        let has_object = matches!(
            self.ctx.place(),
            Place::Director | Place::BackendResponse | Place::BackendError
        );
        if has_object {
            self.cacheability = Some(how);
        }
        has_object
    }

    fn forget_lifetime(&mut self) {
        self.cacheability = self.cacheability.and_then(Cacheability::of_replaced);
    }

    fn before_waiting(&mut self) {
        let Some(answer) = self.answer.take() else {
            return;
        };
        let program = answer.program().unwrap_or_default().to_owned();
        if let Err(error) = answer.detach(self) {
            let fate = match answer.program() {
                Some(_) => "keeps its request VM",
                None => "is lost",
            };
            let text = format!("tinykvm: {program}: the answer of before {fate}: {error}");
            line(Some(self.ctx), Tag::Error, &text);
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        let ends = |limit| move |at| Deadline { at, limit };
        let first_byte = self.first_byte.map(ends(Limit::FirstByteTimeout));
        // What is made for the cache is of use to others as well.
        let asker = self.cause().deadline.filter(|_| self.is_private());
        match asker.map(ends(Limit::Asker)) {
            Some(asker) => Some(asker.or_earlier(first_byte)),
            None => first_byte,
        }
    }

    fn body_ended(&mut self) {
        self.await_first_byte();
    }

    fn outgoing(&self) -> Outgoing {
        let home = self
            .vcl
            .map(runtime::Vcl::self_requests)
            .unwrap_or_default();
        Outgoing::new(home, self.cause().depth)
    }

    fn log(&mut self, severity: Severity, line: &[u8]) {
        log::bytes(Some(self.ctx), severity.into(), line);
    }
}
