//! `sys_fetch` and `sys_request`: HTTP requests that a program makes.
//!
//! Guards: addresses are looked at by `outgoing`; all of the guest's memory is read and written
//! by checked copies on this thread, while libcurl works on another one; an outcome is written
//! when all of it is there, or not at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbox::{Fault, GuestVirt, Memory, VmCall};
use tinykvm_sys::{abi, bytes_of, from_bytes};

use super::area::{Area, Full};
use super::{Reply, Scene, Stage, Text};
use crate::exchange::Severity;
use crate::outgoing::{FetchError, FetchRule, Fields, Head, Method, Outgoing, Taker, Wish};

/// For one fetch, redirects included.
const LONGEST: Duration = Duration::from_secs(8);
/// What a fetch leaves of the guest's time at most, so that the program can still answer.
const REST: Duration = Duration::from_millis(500);
/// Below this a buffer for header fields is taken for none.
const LEAST_HEADERS: u32 = 64;
/// libcurl's code for an answer that nobody takes.
const WRITE_ERROR: u32 = 23;
const MOST_TYPE: usize = abi::TINYKVM_MAX_FETCH_CTYPE as usize;

pub(super) fn fetch(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let rules = scene.desk.allowed_fetch.clone();
    go(scene, vm, &rules)
}

/// As `fetch`, for self-requests only.
pub(super) fn request(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    go(scene, vm, &[])
}

fn go(scene: &mut Scene<'_>, vm: &mut VmCall<'_>, rules: &[FetchRule]) -> Result<Reply, Fault> {
    let url = Text {
        at: vm.regs.rdi,
        len: vm.regs.rsi,
        max: abi::TINYKVM_MAX_FETCH_URL,
    };
    scene.with_text(vm, url, |scene, vm, url| {
        let order = Order::read(vm)?;
        let outgoing = scene.outgoing();
        if outgoing.is_home(url) {
            scene.before_waiting();
        }
        let wish = order.wish(url, vm.deadline, &scene.desk.program);
        let begun = Instant::now();
        // What is written counts until the request's end; the program needs some to go on with.
        let most = scene.limits.max_request_memory / 8 * 7;
        let mut taking = Taking::new(vm.memory, &order, most);
        let result = outgoing
            .counted(&wish, rules, &mut taking)
            .and_then(|()| taking.finish());
        if result.is_err() {
            taking.discard();
        }
        match result {
            Ok(outcome) => {
                let at = GuestVirt::new(order.at);
                vm.memory.write(at, bytes_of(&outcome))?;
                let line = format!(
                    "Fetch: {} -> {}, {} bytes in {:.2} ms",
                    shown(&wish),
                    outcome.status,
                    outcome.content_len,
                    begun.elapsed().as_secs_f64() * 1000.0
                );
                scene.report(Severity::Info, line.as_bytes());
                Ok(Reply::Value(0))
            }
            Err(Trouble::Fault(fault)) => Err(fault),
            Err(Trouble::Fetch(error)) => {
                let line = format!("Fetch: {}: {error}", shown(&wish));
                scene.report(Severity::Error, line.as_bytes());
                Ok(Reply::Value(code(&error).cast_unsigned()))
            }
        }
    })
}

impl Scene<'_> {
    /// The answer may be made by a program whose VM the transaction still holds.
    fn before_waiting(&mut self) {
        if let Stage::Request(exchange) = &mut self.stage {
            exchange.before_waiting();
        }
    }

    /// Where requests go that the guest makes now.
    pub(super) fn outgoing(&self) -> Outgoing {
        match &self.stage {
            Stage::Request(exchange) => exchange.outgoing(),
            Stage::Streaming(_) | Stage::Storage { .. } => {
                let outgoing = self.desk.outgoing.clone();
                outgoing.unwrap_or_else(Outgoing::without_home)
            }
            Stage::Boot { .. } | Stage::Warming { .. } | Stage::Between { .. } => {
                Outgoing::without_home()
            }
        }
    }
}

/// libcurl's codes, negative, as programs expect them, and three of our own.
fn code(error: &FetchError) -> i64 {
    const MALFORMED: i64 = 3;
    const TIMED_OUT: i64 = 28;
    const TOO_MANY_REDIRECTS: i64 = 47;
    -match error {
        FetchError::Malformed(_) | FetchError::Field(_) => MALFORMED,
        FetchError::TooLarge(_) => i64::from(WRITE_ERROR),
        FetchError::TimedOut => TIMED_OUT,
        FetchError::Redirects(_) => TOO_MANY_REDIRECTS,
        FetchError::Transfer { code, .. } => i64::from(*code),
        FetchError::Busy(_)
        | FetchError::Crowded(_)
        | FetchError::NoRoom(_)
        | FetchError::Host(_) => i64::from(abi::TINYKVM_FETCH_FAILED),
        FetchError::Refused(_) | FetchError::NoHome => i64::from(abi::TINYKVM_FETCH_REFUSED),
        FetchError::TooDeep(_) => i64::from(abi::TINYKVM_FETCH_TOO_DEEP),
    }
}

fn shown(wish: &Wish<'_>) -> String {
    let method = match wish.method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post(_) => "POST",
    };
    let plain = |byte: &u8| if byte.is_ascii_graphic() { *byte } else { b'?' };
    let url: Vec<u8> = wish.url.iter().map(plain).collect();
    format!("{method} {}", String::from_utf8_lossy(&url))
}

/// What the program asks for, copied once.
struct Order {
    at: u64,
    operation: abi::tinykvm_fetch,
    fields: Fields,
    follow: bool,
    head_only: bool,
    verify_host: bool,
}

impl Order {
    fn read(vm: &mut VmCall<'_>) -> Result<Self, Fault> {
        let at = vm.regs.rdx;
        let operation: abi::tinykvm_fetch = structure(vm.memory, at)?;
        // Nothing is asked of others for a result that cannot be delivered.
        vm.memory.write(GuestVirt::new(at), bytes_of(&operation))?;
        let mut fields = Fields::default();
        if vm.regs.rcx != 0 {
            let given: abi::tinykvm_fetch_fields = structure(vm.memory, vm.regs.rcx)?;
            let texts = given.field.iter().zip(given.len);
            for (&text, len) in texts.take_while(|&(&text, len)| text != 0 && len != 0) {
                let len = u64::from(len);
                let text =
                    vm.memory
                        .read_bytes(GuestVirt::new(text), len, usize::from(u16::MAX))?;
                add(&mut fields, &text)?;
            }
        }
        let given = usize::try_from(operation.content_type_len).unwrap_or(usize::MAX);
        if (1..MOST_TYPE).contains(&given) {
            let text = operation.content_type.get(..given).unwrap_or_default();
            // With its NUL, as the fetch before this one may have left it.
            let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
            if !text.is_empty() {
                add(&mut fields, &[b"Content-Type: ", text].concat())?;
            }
        }
        let options = match vm.regs.r8 {
            0 => None,
            at => Some(structure::<abi::tinykvm_fetch_options>(vm.memory, at)?),
        };
        let set = |flag: fn(&abi::tinykvm_fetch_options) -> u8| {
            options.as_ref().map(|options| flag(options) != 0)
        };
        Ok(Self {
            at,
            operation,
            fields,
            follow: set(|options| options.follow_location).unwrap_or(true),
            head_only: set(|options| options.dummy_fetch).unwrap_or(false),
            verify_host: !set(|options| options.dont_verify_host).unwrap_or(false),
        })
    }

    fn wish<'a>(&self, url: &'a [u8], guests: Instant, program: &Arc<str>) -> Wish<'a> {
        let left = guests.saturating_duration_since(Instant::now());
        let time = left.saturating_sub((left / 8).min(REST)).min(LONGEST);
        let posts = self.operation.post_data != 0 && self.operation.post_len != 0;
        Wish {
            url,
            method: match (self.head_only, posts) {
                (true, _) => Method::Head,
                (false, true) => Method::Post(u64::from(self.operation.post_len)),
                (false, false) => Method::Get,
            },
            fields: self.fields.clone(),
            follow: self.follow,
            verify_host: self.verify_host,
            deadline: Instant::now() + time,
            program: Some(Arc::clone(program)),
        }
    }
}

fn add(fields: &mut Fields, field: &[u8]) -> Result<(), Fault> {
    fields
        .add(field)
        .map_err(|error| Fault::Misuse(format!("sys_fetch: {error}")))
}

fn structure<T: tinykvm_sys::Plain>(memory: &Memory, at: u64) -> Result<T, Fault> {
    let len = u64::try_from(size_of::<T>()).unwrap_or(u64::MAX);
    let bytes = memory.read_bytes(GuestVirt::new(at), len, size_of::<T>())?;
    Ok(from_bytes(&bytes).unwrap_or_default())
}

/// Why there is no outcome.
enum Trouble {
    Fetch(FetchError),
    Fault(Fault),
}

impl From<FetchError> for Trouble {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Full> for Trouble {
    fn from(full: Full) -> Self {
        Self::Fetch(match full {
            Full::Buffer(room) => FetchError::TooLarge(room),
            Full::Memory => FetchError::Transfer {
                code: WRITE_ERROR,
                text: "the answer is too big for the program (max_request_memory)".to_owned(),
            },
        })
    }
}

/// An answer on its way into the guest.
struct Taking<'a> {
    memory: &'a mut Memory,
    posted: (u64, u64),
    has_body: bool,
    content: Area,
    headers: Option<Area>,
    outcome: abi::tinykvm_fetch,
}

impl<'a> Taking<'a> {
    fn new(memory: &'a mut Memory, order: &Order, most: u64) -> Self {
        let operation = order.operation;
        let headers = (operation.headers_len >= LEAST_HEADERS)
            .then(|| Area::new(operation.headers, u64::from(operation.headers_len), most));
        Self {
            memory,
            posted: (operation.post_data, u64::from(operation.post_len)),
            has_body: !order.head_only,
            content: Area::new(operation.content, u64::from(operation.content_len), most),
            headers,
            outcome: operation,
        }
    }

    fn finish(&mut self) -> Result<abi::tinykvm_fetch, Trouble> {
        self.content.finish(self.memory)?;
        self.outcome.content = self.content.at();
        self.outcome.content_len = low(self.content.len())?;
        Ok(self.outcome)
    }

    /// The program does not hear of what was mapped for it.
    fn discard(self) {
        self.content.discard(self.memory);
        if let Some(headers) = self.headers {
            headers.discard(self.memory);
        }
    }

    fn put_headers(&mut self, text: &[u8]) -> Result<(), Trouble> {
        let Some(area) = &mut self.headers else {
            return Ok(());
        };
        let most = match self.outcome.headers {
            0 => text.len(),
            _ => usize::try_from(self.outcome.headers_len.saturating_sub(1)).unwrap_or(0),
        };
        let text = text.get(..most).unwrap_or(text);
        area.push(self.memory, &[text, b"\0"].concat())??;
        area.finish(self.memory)?;
        self.outcome.headers = area.at();
        self.outcome.headers_len = low(area.len().saturating_sub(1))?;
        Ok(())
    }
}

/// The structure's lengths have 32 bits.
fn low(len: u64) -> Result<u32, Trouble> {
    let most = u64::from(u32::MAX);
    u32::try_from(len).map_err(|_| FetchError::TooLarge(most).into())
}

impl Taker for Taking<'_> {
    type Error = Trouble;

    fn part(&mut self, offset: u64, room: usize) -> Result<Vec<u8>, Trouble> {
        let (at, len) = self.posted;
        let room = u64::try_from(room).unwrap_or(u64::MAX);
        let part = len.saturating_sub(offset).min(room);
        let from = GuestVirt::new(at.wrapping_add(offset));
        let max = usize::try_from(part).unwrap_or(0);
        let bytes = self.memory.read_bytes(from, part, max);
        Ok(bytes.map_err(Fault::from)?)
    }

    fn head(&mut self, head: Head) -> Result<(), Trouble> {
        self.outcome.status = u32::from(head.status);
        let fits = head.content_type.get(..MOST_TYPE - 1);
        let content_type = fits.unwrap_or(&head.content_type);
        self.outcome.content_type = [0; MOST_TYPE];
        for (to, from) in self.outcome.content_type.iter_mut().zip(content_type) {
            *to = *from;
        }
        self.outcome.content_type_len = match content_type.len() {
            0 => 0,
            len => u32::try_from(len + 1).unwrap_or(0),
        };
        self.put_headers(&head.text)?;
        if let Some(len) = head.content_length
            && self.outcome.content == 0
            && self.has_body
        {
            // If that much does not fit, what really comes may.
            let _later = self.content.expect(self.memory, len);
        }
        Ok(())
    }

    fn body(&mut self, part: &[u8]) -> Result<(), Trouble> {
        self.content.push(self.memory, part)??;
        Ok(())
    }
}
