//! What a guest can ask the host for: call numbers and who answers them.
//!
//! Every argument is the guest's choice. Guards: a call answers with a value, ends the guest's
//! call with a fault, or stops the VM because the program is done; nothing else can come of it.

mod area;
mod cache;
mod fetch;
mod http;
mod info;
mod log;
mod regex;
mod register;
mod respond;
mod storage;

use std::sync::Arc;

use sandbox::{Action, Fault, GuestVirt, Hypercalls, VmCall};
use tinykvm_sys::abi;

pub(crate) use log::Budget;
pub(crate) use regex::Regexes;
pub(crate) use register::{Entry, EntryPoints, Waiting};
pub(crate) use respond::{Answer, Producer};
pub(crate) use storage::Said;

use crate::exchange::{Exchange, Say, Severity};
use crate::journal;
use crate::outgoing::{FetchRule, Outgoing};
use crate::recipe::Voice;
use crate::storage::{Founding, Shared, Storage};

/// What a hypercall came to, if it did not end in a fault.
pub(crate) enum Reply {
    /// RAX gets this value.
    Value(u64),
    /// The call has no result: RAX keeps the call number.
    Nothing,
    /// The program waits or has answered.
    Stop,
    /// A debugger may look now.
    Break,
}

impl Reply {
    /// -1, as C functions say it.
    const MINUS_ONE: Self = Self::Value(u64::MAX);
}

type Handler = fn(&mut Scene<'_>, &mut VmCall<'_>) -> Result<Reply, Fault>;

struct Row {
    number: u32,
    name: &'static str,
    answer: Answered,
}

enum Answered {
    By(Handler),
    /// The host side comes later; programs get this value and can go on.
    Later(u64),
}

/// Everything but the VM that a hypercall may touch.
pub(crate) struct Scene<'a> {
    pub(crate) stage: Stage<'a>,
    pub(crate) desk: &'a mut Desk,
    pub(crate) limits: &'a MemoryLimits,
    /// The program's storage VM, for those that call into it.
    pub(crate) storage: Option<&'a Storage>,
}

/// Whether the program starts, warms up, answers a request, or is called in its storage VM.
pub(crate) enum Stage<'a> {
    Boot {
        program: &'a str,
        entry: &'a mut EntryPoints,
        /// Where it is its storage VM that starts.
        founding: Option<&'a mut Founding>,
    },
    /// The main VM answers a request before it is frozen.
    Warming {
        exchange: &'a mut dyn Exchange,
        entry: &'a mut EntryPoints,
    },
    Request(&'a mut dyn Exchange),
    /// A function runs in the storage VM.
    Storage {
        shared: &'a Shared,
        said: &'a mut Option<Said>,
    },
    /// A part of the response body is wanted. The transaction is not ours any more.
    Streaming(&'a mut Say<'a>),
    /// A program that is not reset goes on from its answer to where it waits.
    Between {
        program: &'a str,
        entry: &'a mut EntryPoints,
    },
}

/// What `get_meminfo` tells a program. Bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MemoryLimits {
    pub(crate) address_space: u64,
    pub(crate) max_memory: u64,
    pub(crate) max_request_memory: u64,
}

/// The host's own state of one guest call; a reset empties it.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    pub(crate) regexes: Regexes,
    pub(crate) log: Budget,
    pub(crate) answer: Answer,
    /// Copies of guest memory that only live within one hypercall.
    pub(crate) scratch: Vec<u8>,
    /// What the program may fetch. A setting, not a state.
    pub(crate) allowed_fetch: Arc<[FetchRule]>,
    /// Where requests go that are made for a request elsewhere than in its transaction: while its
    /// body is streamed, or in the storage VM.
    pub(crate) outgoing: Option<Outgoing>,
    /// The program's settings; constant.
    pub(crate) voice: Voice,
    /// The program's name.
    pub(crate) program: Arc<str>,
}

/// Scratch space that a slot keeps from one request to the next.
const KEEP: usize = 64 << 10;

impl Desk {
    /// Prepares another call in a VM that is not reset: up to `lines` lines for the log.
    pub(crate) fn begin_call(&mut self, lines: u32) {
        self.log.begin(lines);
        self.answer.reset();
        self.scratch.clear();
        self.scratch.shrink_to(KEEP);
    }

    /// Makes the desk as it was after the fork.
    pub(crate) fn reset(&mut self) {
        self.next_request();
        self.regexes.reset();
    }

    /// Makes room for the next request's answer in a VM that is not reset: what the program has made
    /// is still there.
    pub(crate) fn next_request(&mut self) {
        let Self {
            regexes: _, // the program's
            log,
            answer,
            scratch,
            allowed_fetch: _, // constant
            outgoing,
            voice: _,   // constant
            program: _, // constant
        } = self;
        *outgoing = None;
        log.reset();
        answer.reset();
        scratch.clear();
        scratch.shrink_to(KEEP);
    }
}

impl Scene<'_> {
    /// The transaction, which only requests have.
    fn exchange(&mut self, call: &str) -> Result<&mut dyn Exchange, Fault> {
        match &mut self.stage {
            Stage::Request(exchange) | Stage::Warming { exchange, .. } => Ok(&mut **exchange),
            Stage::Boot { .. } | Stage::Storage { .. } | Stage::Between { .. } => Err(
                Fault::Misuse(format!("{call} was called outside of a request")),
            ),
            Stage::Streaming(_) => Err(Fault::Misuse(format!(
                "{call} was called while the response body is sent"
            ))),
        }
    }

    /// One line from the guest, in the words of upstream; lines beyond the budget are dropped.
    fn hear(&mut self, line: &[u8]) {
        self.write(Severity::Info, b" says: ", line);
    }

    /// One line of our own that the guest causes: from the same budget.
    fn say(&mut self, line: &[u8]) {
        self.report(Severity::Info, line);
    }

    fn report(&mut self, severity: Severity, line: &[u8]) {
        self.write(severity, b": ", line);
    }

    /// Every line has the program's name before it. The journal's have it from there.
    fn write(&mut self, severity: Severity, verb: &[u8], line: &[u8]) {
        let Some(line) = self.desk.log.grant(line) else {
            return;
        };
        let named = |program: &str| [program.as_bytes(), verb, line].concat();
        if self.desk.voice.stdout {
            journal::print(&named(&self.desk.program));
        }
        match &mut self.stage {
            Stage::Request(exchange) | Stage::Warming { exchange, .. } => {
                exchange.log(severity, &named(&self.desk.program));
            }
            Stage::Boot { program, .. } | Stage::Between { program, .. } => {
                journal::say(severity, program, line);
            }
            Stage::Storage { shared, .. } => {
                journal::say(severity, shared.program(), line);
            }
            Stage::Streaming(say) => say(severity, &named(&self.desk.program)),
        }
    }

    fn say_lines(&mut self, text: &[u8]) {
        let line_break = |byte: &u8| matches!(byte, b'\n' | b'\r' | 0);
        for line in text.split(line_break).filter(|line| !line.is_empty()) {
            self.hear(line);
        }
    }

    /// Runs `then` with a copy of a text in guest memory.
    fn with_text<R>(
        &mut self,
        vm: &mut VmCall<'_>,
        text: Text,
        then: impl FnOnce(&mut Self, &mut VmCall<'_>, &[u8]) -> Result<R, Fault>,
    ) -> Result<R, Fault> {
        if text.len > u64::from(text.max) {
            let message = format!("a text of {} bytes is too long for this call", text.len);
            return Err(Fault::Misuse(message));
        }
        let mut copy = std::mem::take(&mut self.desk.scratch);
        copy.clear();
        copy.resize(usize::try_from(text.len).unwrap_or(0), 0);
        let result = match vm.memory.read(GuestVirt::new(text.at), &mut copy) {
            Ok(()) => then(self, vm, &copy),
            Err(error) => Err(error.into()),
        };
        self.desk.scratch = copy;
        result
    }
}

/// A text in guest memory, and how long such a text may be.
#[derive(Clone, Copy)]
struct Text {
    at: u64,
    len: u64,
    max: u32,
}

impl Hypercalls for Scene<'_> {
    fn hypercall(&mut self, vm: &mut VmCall<'_>, number: u32) -> Action {
        let reply = match find(number) {
            None => {
                self.say(format!("unknown hypercall {number:#x}").as_bytes());
                Ok(Reply::Value(NOT_IMPLEMENTED))
            }
            Some(row) => match row.answer {
                Answered::By(handler) => handler(self, vm),
                Answered::Later(value) => {
                    self.say(format!("{} is not available in this version", row.name).as_bytes());
                    Ok(Reply::Value(value))
                }
            },
        };
        match reply {
            Ok(Reply::Value(value)) => {
                vm.regs.rax = value;
                Action::Continue
            }
            Ok(Reply::Nothing) => Action::Continue,
            Ok(Reply::Stop) => Action::Stop,
            Ok(Reply::Break) => Action::Break,
            Err(fault) => Action::Fault(fault),
        }
    }

    fn ends_call(&self, number: u32) -> bool {
        number == abi::TINYKVM_CALL_BACKEND_RESPONSE
    }

    fn output(&mut self, _stream: u8, text: &[u8]) {
        self.say_lines(text);
    }

    /// At once and without transaction: the log of a request is not seen before its end.
    fn notice(&mut self, text: &str) {
        let program = match &self.stage {
            Stage::Boot { program, .. } | Stage::Between { program, .. } => program,
            Stage::Storage { shared, .. } => shared.program(),
            Stage::Request(_) | Stage::Warming { .. } | Stage::Streaming(_) => &*self.desk.program,
        };
        journal::say(Severity::Info, program, text.as_bytes());
    }

    fn system_call(&mut self, number: u64, arguments: [u64; 6], result: i64) {
        if self.desk.voice.system_calls {
            let name = sandbox::system_call_name(number).unwrap_or("unknown");
            let [a, b, c, d, e, f] = arguments;
            let result = match result {
                -4095..0 => format!("errno {}", result.unsigned_abs()),
                _ => format!("{result:#x}"),
            };
            let line = format!("{name}({a:#x}, {b:#x}, {c:#x}, {d:#x}, {e:#x}, {f:#x}) = {result}");
            self.say(line.as_bytes());
        }
    }
}

/// -ENOSYS as RAX carries it.
const NOT_IMPLEMENTED: u64 = (-38_i64).cast_unsigned();

fn find(number: u32) -> Option<&'static Row> {
    let at = TABLE.binary_search_by_key(&number, |row| row.number).ok()?;
    TABLE.get(at)
}

macro_rules! table {
    ($($number:ident $name:literal $answer:expr;)*) => {
        /// Sorted by number.
        static TABLE: &[Row] = &[
            $(Row { number: abi::$number, name: $name, answer: $answer },)*
        ];
    };
}

use Answered::{By, Later};

table! {
    TINYKVM_CALL_REGISTER_FUNC "register_func" By(register::register_func);
    TINYKVM_CALL_WAIT_FOR_REQUESTS "wait_for_requests" By(register::wait);
    TINYKVM_CALL_WAIT_PAUSED "wait_for_requests_paused" By(register::wait_paused);
    TINYKVM_CALL_SET_CACHEABLE "sys_set_cacheable" By(cache::set_cacheable);
    TINYKVM_CALL_BACKEND_RESPONSE "backend_response" By(respond::backend_response);
    TINYKVM_CALL_STORAGE_RETURN "storage_return" By(storage::storage_return);
    TINYKVM_CALL_STREAMING_RESPONSE "begin_streaming_response" By(respond::streaming_response);
    TINYKVM_CALL_STORAGE_NORETURN "storage_noreturn" By(storage::storage_noreturn);
    TINYKVM_CALL_HTTP_APPEND "sys_http_append" By(http::append);
    TINYKVM_CALL_HTTP_SET "sys_http_set" By(http::set);
    TINYKVM_CALL_HTTP_FIND "sys_http_find" By(http::find);
    TINYKVM_CALL_HTTP_METHOD "sys_http_method" By(http::method);
    TINYKVM_CALL_REGEX_COMPILE "sys_regex_compile" By(regex::compile);
    TINYKVM_CALL_REGEX_FREE "sys_regex_free" By(regex::free);
    TINYKVM_CALL_REGEX_MATCH "sys_regex_match" By(regex::is_match);
    TINYKVM_CALL_REGEX_SUBST "sys_regex_subst" By(regex::subst);
    TINYKVM_CALL_REGEX_COPYTO "sys_regex_copyto" By(regex::copyto);
    TINYKVM_CALL_SET_BACKEND "set backend" By(info::nothing);
    TINYKVM_CALL_SOCKETS_WRITE "sys_sockets_write" Later(NOT_IMPLEMENTED);
    TINYKVM_CALL_SHARED_MEMORY "shared_memory_area" By(info::shared_memory);
    TINYKVM_CALL_MAKE_EPHEMERAL "sys_make_ephemeral" By(register::make_ephemeral);
    TINYKVM_CALL_IS_STORAGE "sys_is_storage" By(storage::is_storage);
    TINYKVM_CALL_STORAGE_ALLOW "sys_storage_allow" By(storage::allow);
    TINYKVM_CALL_STORAGE_CALLV "storage_callv" By(storage::callv);
    TINYKVM_CALL_STORAGE_TASK "sys_storage_task" By(storage::task);
    TINYKVM_CALL_STOP_STORAGE_TASK "stop_storage_task" By(storage::stop_task);
    TINYKVM_CALL_MULTIPROCESS "multiprocess" Later(NOT_IMPLEMENTED);
    TINYKVM_CALL_MULTIPROCESS_ARRAY "multiprocess_array" Later(NOT_IMPLEMENTED);
    TINYKVM_CALL_MULTIPROCESS_CLONE "multiprocess_clone" Later(NOT_IMPLEMENTED);
    TINYKVM_CALL_MULTIPROCESS_WAIT "multiprocess_wait" Later(NOT_IMPLEMENTED);
    TINYKVM_CALL_MEMINFO "get_meminfo" By(info::meminfo);
    TINYKVM_CALL_FETCH "sys_fetch" By(fetch::fetch);
    TINYKVM_CALL_REQUEST "sys_request" By(fetch::request);
    TINYKVM_CALL_LOG "sys_log" By(log::log);
    TINYKVM_CALL_BREAKPOINT "sys_breakpoint" By(info::breakpoint);
    TINYKVM_CALL_IS_DEBUG "sys_is_debug" By(info::is_debug);
}

/// The low 16 bits of an argument that C declares as a 16-bit integer.
fn low16(argument: u64) -> u16 {
    u16::try_from(argument & 0xffff).unwrap_or_default()
}

/// The low 32 bits of an argument that C declares as an int.
fn low32(argument: u64) -> u32 {
    u32::try_from(argument & 0xffff_ffff).unwrap_or_default()
}

#[cfg(test)]
mod tests;
