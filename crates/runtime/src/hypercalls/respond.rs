//! `backend_response` and `begin_streaming_response`: the end of a guest's call. The body stays
//! where it is; what is kept are pieces of guest memory, valid until the VM's reset, or the function
//! that makes it.
//!
//! Guards: nothing of a response takes effect before all of it was found valid.

use sandbox::{Fault, GuestVirt, Memory, Piece, VmCall};
use tinykvm_sys::{abi, from_bytes};

use super::http::Change;
use super::{KEEP, Reply, Scene, Text, cache, low16};
use crate::exchange::Cacheability;
use crate::fields::check_value;

/// Enough for 4 GiB in single pages, and a bound for the host's own memory.
const MAX_PIECES: usize = 1 << 20;
/// Pieces that a slot keeps room for.
const KEEP_PIECES: usize = 1024;
const MAX_HEADERS: usize = abi::TINYKVM_MAX_RESPONSE_HEADERS as usize;

/// What the guest answered. Lives in a slot, so that its buffers are allocated once.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    status: Option<u16>,
    content_type: Vec<u8>,
    content_length: u64,
    pieces: Vec<Piece>,
    producer: Option<Producer>,
}

/// The guest function that makes a body while it is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Producer {
    pub(crate) function: GuestVirt,
    pub(crate) argument: u64,
    /// The stack pointer of the call that named it: what lies above may be what `argument` means.
    pub(crate) stack: GuestVirt,
}

impl Answer {
    /// The status, if there is a valid answer.
    pub(crate) fn status(&self) -> Option<u16> {
        self.status
    }

    pub(crate) fn content_type(&self) -> &[u8] {
        &self.content_type
    }

    pub(crate) fn content_length(&self) -> u64 {
        self.content_length
    }

    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    pub(crate) fn producer(&self) -> Option<Producer> {
        self.producer
    }

    pub(crate) fn reset(&mut self) {
        let Self {
            status,
            content_type,
            content_length,
            pieces,
            producer,
        } = self;
        *status = None;
        content_type.clear();
        *content_length = 0;
        pieces.clear();
        pieces.shrink_to(KEEP_PIECES);
        *producer = None;
    }
}

pub(super) fn backend_response(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    scene.exchange("backend_response")?;
    scene.desk.answer.reset();
    let status = status(vm.regs.rdi)?;
    content_type(scene, vm)?;
    let (data, len) = (GuestVirt::new(vm.regs.rcx), vm.regs.r8);
    vm.memory
        .pieces(data, len, MAX_PIECES, &mut scene.desk.answer.pieces)?;
    if vm.regs.r9 != 0 {
        extra(scene, vm)?;
    }
    scene.desk.answer.content_length = len;
    scene.desk.answer.status = Some(status);
    Ok(Reply::Stop)
}

pub(super) fn streaming_response(
    scene: &mut Scene<'_>,
    vm: &mut VmCall<'_>,
) -> Result<Reply, Fault> {
    const NAME: &str = "begin_streaming_response";
    scene.exchange(NAME)?;
    scene.desk.answer.reset();
    let status = status(vm.regs.rdi)?;
    content_type(scene, vm)?;
    let (total, function) = (vm.regs.rcx, GuestVirt::new(vm.regs.r8));
    if total == 0 || i64::try_from(total).is_err() {
        let message = format!("{NAME}: a body of {total} bytes");
        return Err(Fault::Misuse(message));
    }
    if !vm.memory.is_executable(function) {
        let message = format!("{NAME}: there is no code at {function}");
        return Err(Fault::Misuse(message));
    }
    let answer = &mut scene.desk.answer;
    answer.producer = Some(Producer {
        function,
        argument: vm.regs.r9,
        stack: GuestVirt::new(vm.regs.rsp),
    });
    answer.content_length = total;
    answer.status = Some(status);
    // The transaction is over when the function is called.
    scene.desk.outgoing = Some(scene.outgoing());
    Ok(Reply::Stop)
}

fn status(argument: u64) -> Result<u16, Fault> {
    let status = low16(argument);
    let allowed = abi::TINYKVM_MIN_STATUS..=abi::TINYKVM_MAX_STATUS;
    if allowed.contains(&u32::from(status)) {
        Ok(status)
    } else {
        let shown = status.cast_signed();
        Err(Fault::Misuse(format!(
            "response status {shown} is not one of 200 to 599"
        )))
    }
}

fn content_type(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<(), Fault> {
    let len = u64::from(low16(vm.regs.rdx));
    let text = Text {
        at: vm.regs.rsi,
        len,
        max: abi::TINYKVM_MAX_CONTENT_TYPE,
    };
    scene.with_text(vm, text, |scene, _, text| {
        check_value(text, 0).map_err(|flaw| Fault::Misuse(format!("content type: {flaw}")))?;
        scene.desk.answer.content_type.extend_from_slice(text);
        Ok(())
    })
}

/// Header fields and cacheability that come with a response.
// Inlined its tables would be in the frame of every response.
#[inline(never)]
fn extra(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<(), Fault> {
    let mut bytes = [0; size_of::<abi::tinykvm_response_extra>()];
    vm.memory.read(GuestVirt::new(vm.regs.r9), &mut bytes)?;
    let extra: abi::tinykvm_response_extra = from_bytes(&bytes).unwrap_or_default();

    let mut texts = std::mem::take(&mut scene.desk.scratch);
    let result = headers(scene, vm.memory, &extra, &mut texts);
    texts.clear();
    texts.shrink_to(KEEP);
    scene.desk.scratch = texts;
    result?;

    if extra.cached != 0 {
        let how = Cacheability {
            cacheable: true,
            ttl: cache::seconds(extra.ttl),
            grace: cache::seconds(extra.grace),
            keep: cache::seconds(extra.keep),
        };
        if !scene.exchange("backend_response")?.set_cacheable(how) {
            scene.say(b"backend_response: there is no object that could be cached");
        }
    }
    Ok(())
}

/// Copies all header texts, checks them all, then sets them all.
fn headers(
    scene: &mut Scene<'_>,
    memory: &Memory,
    extra: &abi::tinykvm_response_extra,
    texts: &mut Vec<u8>,
) -> Result<(), Fault> {
    let count = usize::from(extra.num_headers);
    if count > MAX_HEADERS {
        let message = format!("a response with {count} extra headers; allowed are {MAX_HEADERS}");
        return Err(Fault::Misuse(message));
    }
    texts.clear();
    let mut ends = [0; MAX_HEADERS];
    let mut at = GuestVirt::new(extra.headers);
    for end in ends.iter_mut().take(count) {
        let mut bytes = [0; size_of::<abi::tinykvm_response_header>()];
        memory.read(at, &mut bytes)?;
        let header: abi::tinykvm_response_header = from_bytes(&bytes).unwrap_or_default();
        at = GuestVirt::new(at.raw().wrapping_add(16));
        if header.field_len > u64::from(abi::TINYKVM_MAX_HEADER_TEXT) {
            let message = format!("a response header of {} bytes", header.field_len);
            return Err(Fault::Misuse(message));
        }
        let begin = texts.len();
        texts.resize(begin + usize::try_from(header.field_len).unwrap_or(0), 0);
        let place = texts.get_mut(begin..).unwrap_or_default();
        memory.read(GuestVirt::new(header.field), place)?;
        *end = texts.len();
    }
    for text in split(texts, &ends, count) {
        Change::parse(text)?;
    }
    let mut lost = 0;
    for text in split(texts, &ends, count) {
        let change = Change::parse(text)?;
        let exchange = scene.exchange("backend_response")?;
        let side = exchange.side_of_response();
        let reply = change.apply(exchange, side)?;
        if matches!(reply, Reply::Value(index) if index == u64::from(abi::TINYKVM_HTTP_FULL)) {
            lost += 1;
        }
    }
    if lost > 0 {
        scene.say(format!("{lost} response headers lost: the header table is full").as_bytes());
    }
    Ok(())
}

fn split<'a>(texts: &'a [u8], ends: &'a [usize], count: usize) -> impl Iterator<Item = &'a [u8]> {
    let mut begin = 0;
    ends.iter().take(count).map(move |&end| {
        let text = texts.get(begin..end).unwrap_or_default();
        begin = end;
        text
    })
}
