//! One request through one VM: which way it is delivered, what becomes of faults.
//!
//! Never fails: a guest that does not answer gets a second chance by its error callback, and the
//! caller gets a 500 if that fails too.

use std::io::{Cursor, Write as _};
use std::time::{Duration, Instant};

use sandbox::{Exit, Fault, GuestVirt, Vm};
use tinykvm_sys::bytes_of;

use crate::exchange::{Exchange, Severity};
use crate::hypercalls::{Entry, Scene, Stage, Waiting};
use crate::instance::Instance;
use crate::request_abi::{Content, Request};
use crate::response::{ContentType, Response};
use crate::slot::{Slot, State};

/// How long the error callback may take.
const SECOND_CHANCE: Duration = Duration::from_secs(1);
/// What the log calls the callback for bodies in parts.
pub(crate) const STREAM_POST: &str = "stream_post";
/// How much of a fault's text the error callback is told.
const MAX_FAULT_TEXT: usize = 1024;

/// Why a guest call did not answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The guest's fault.
    #[error("{0}")]
    Guest(#[from] Fault),
    /// The request cannot be shown to a guest; none ran.
    #[error("{0}")]
    Request(String),
}

/// A way to deliver a request.
enum Way {
    Request(GuestVirt),
    Get(GuestVirt),
    Post(GuestVirt),
    Resume { request: GuestVirt },
}

impl Way {
    /// As the log calls it.
    fn name(&self) -> &'static str {
        match self {
            Self::Request(_) => "on_method",
            Self::Get(_) => "on_get",
            Self::Post(_) => "on_post",
            Self::Resume { .. } => "resume",
        }
    }
}

/// What a guest call came to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ended {
    Status(u16),
    /// While it took the body.
    Failed,
}

impl Slot {
    pub(crate) fn serve(
        &mut self,
        instance: &Instance,
        request: &Request<'_>,
        exchange: &mut dyn Exchange,
    ) -> Response {
        if matches!(self.state, State::Served | State::Spent | State::Poisoned) {
            self.state = State::Poisoned;
            self.outflow.reset();
            exchange.forget_lifetime();
            return Response::failed();
        }
        self.state = State::Served;
        let mut response = Response::failed();
        self.counters
            .input_bytes
            .add(self.body.map_or(0, |body| body.len()));

        let deadline = exchange.call_deadline(instance.max_request_time());
        let mut kind = "no call";
        let first = self.timed(|slot| {
            if slot.answered_early() {
                kind = STREAM_POST;
                return Ok(());
            }
            slot.deliver(instance, request, exchange, deadline.at, &mut kind)
        });
        self.lasting.served(first.is_ok());
        let answered = match first {
            Ok(()) => true,
            Err(failure) => {
                self.count(&failure, &mut response);
                let limit = match failure {
                    Failure::Guest(Fault::TimedOut) => format!(" ({})", deadline.limit),
                    Failure::Guest(Fault::OutOfMemory { .. }) => " (max_request_memory)".to_owned(),
                    _ => String::new(),
                };
                let text = self.describe(&failure);
                let line = format!("{}: {text}{limit}", instance.name());
                exchange.log(Severity::Error, line.as_bytes());
                exchange.forget_lifetime();
                self.second_chance(instance, request, exchange, &failure, &mut response)
            }
        };
        if answered && let Some(status) = self.desk.answer.status() {
            response.status = status;
            response.content_type = ContentType::new(self.desk.answer.content_type());
            response.content_length = self.desk.answer.content_length();
            response.streams = self.desk.answer.producer().is_some();
        } else {
            self.desk.answer.reset();
        }
        self.counters.status(response.status);
        self.counters.output_bytes.add(response.content_length);
        self.outflow.begin(response.content_length);
        self.tell_cost(instance, kind, Ended::Status(response.status), exchange);
        response
    }

    /// The line of the log for a guest call, or for all that took a body in parts.
    pub(crate) fn tell_cost(
        &self,
        instance: &Instance,
        kind: &str,
        ended: Ended,
        exchange: &mut dyn Exchange,
    ) {
        let (runs, cpu_time) = self.cost();
        let cpu_time = u64::try_from(cpu_time.as_micros()).unwrap_or(u64::MAX);
        let mut numbers = [itoa::Buffer::new(); 3];
        let [status, us, exits] = &mut numbers;
        let (ended, status) = match ended {
            Ended::Status(number) => ("status ", status.format(number)),
            Ended::Failed => ("failed", ""),
        };
        // Without allocation; a line that is too long is cut.
        let mut line = Cursor::new([0; 384]);
        for part in [
            instance.name(),
            ": ",
            kind,
            ", ",
            ended,
            status,
            ", cpu ",
            us.format(cpu_time),
            " us, exits ",
            exits.format(runs),
        ] {
            let _cut = line.write_all(part.as_bytes());
        }
        let len = usize::try_from(line.position()).unwrap_or(0);
        let line = line.get_ref().get(..len).unwrap_or_default();
        exchange.log(Severity::Info, line);
    }

    fn deliver(
        &mut self,
        instance: &Instance,
        request: &Request<'_>,
        exchange: &mut dyn Exchange,
        deadline: Instant,
        kind: &mut &'static str,
    ) -> Result<(), Failure> {
        let content = self.body.and_then(|body| body.content());
        let content_type = if content.is_some() {
            request.content_type
        } else {
            b""
        };
        let request = &Request {
            content_type,
            ..*request
        };
        let way = self.way(instance, content)?;
        *kind = way.name();
        if !matches!(way, Way::Resume { .. }) {
            self.leave_waiting()?;
        }
        let exit = match way {
            Way::Request(function) => {
                let (place, _) = self.show(request, content, exchange)?;
                self.run(instance, exchange, |vm, scene| {
                    vm.call(function, &[place], deadline, scene)
                })?
            }
            Way::Get(function) => {
                let at = self.push_strings(request)?;
                self.run(instance, exchange, |vm, scene| {
                    vm.call(function, &[at.url, at.argument], deadline, scene)
                })?
            }
            Way::Post(function) => {
                let at = self.push_strings(request)?;
                let (data, len) = content.map_or((0, 0), |c| (c.at.raw(), c.len));
                let arguments = [at.url, at.argument, at.content_type, data, len];
                self.run(instance, exchange, |vm, scene| {
                    vm.call(function, &arguments, deadline, scene)
                })?
            }
            Way::Resume { request: frozen } => {
                let waits = self.lasting.resume();
                let place = waits.map_or(frozen, |waits| waits.request);
                let (_, shown) = self.show(request, content, exchange)?;
                let written = self.vm.memory_mut().write(place, bytes_of(&shown));
                written.map_err(Fault::from)?;
                self.run(instance, exchange, |vm, scene| match waits {
                    Some(waits) => vm.resume_waiting(waits.regs, deadline, scene),
                    None => vm.resume_paused(deadline, scene),
                })?
            }
        };
        self.check_answer(&exit)
    }

    /// The order of preference is upstream's. A body that was announced but is empty goes to a
    /// program that only takes bodies.
    fn way(&self, instance: &Instance, content: Option<Content>) -> Result<Way, Failure> {
        let entry = instance.entry();
        if let Some(function) = entry.get(Entry::Request) {
            return Ok(Way::Request(function));
        }
        match (content, entry.get(Entry::Get), entry.get(Entry::Post)) {
            (None, Some(get), _) => return Ok(Way::Get(get)),
            (Some(_), _, Some(post)) => return Ok(Way::Post(post)),
            _ => {}
        }
        match (entry.waiting(), entry.get(Entry::Post)) {
            (Some(Waiting::Paused { request }), _) => Ok(Way::Resume { request }),
            (_, Some(post)) if self.body.is_some() => Ok(Way::Post(post)),
            _ => {
                let what = if content.is_some() { "with" } else { "without" };
                let message = format!("the program has no callback for requests {what} a body");
                Err(Failure::Guest(Fault::Misuse(message)))
            }
        }
    }

    /// Writes the whole request into the VM: the address of the structure, and the structure.
    fn show(
        &mut self,
        request: &Request<'_>,
        content: Option<Content>,
        exchange: &dyn Exchange,
    ) -> Result<(u64, tinykvm_sys::abi::tinykvm_request), Failure> {
        let refused = |error: &dyn std::fmt::Display| Failure::Request(error.to_string());
        let random = self.random.pair().map_err(|error| refused(&error))?;
        let strings = self.layout.strings(request);
        self.layout
            .headers(exchange)
            .map_err(|error| refused(&error))?;
        let base = alloc(&mut self.vm, self.layout.complete_len())?;
        let shown = self
            .layout
            .complete(base, strings, request, content, random)
            .map_err(|error| refused(&error))?;
        write(&mut self.vm, base, self.layout.bytes())?;
        Ok(shown)
    }

    fn push_strings(
        &mut self,
        request: &Request<'_>,
    ) -> Result<crate::request_abi::Addresses, Failure> {
        let strings = self.layout.strings(request);
        let base = alloc(&mut self.vm, self.layout.bytes().len())?;
        write(&mut self.vm, base, self.layout.bytes())?;
        Ok(strings.at(base))
    }

    pub(crate) fn run(
        &mut self,
        instance: &Instance,
        exchange: &mut dyn Exchange,
        go: impl FnOnce(&mut Vm, &mut Scene<'_>) -> Result<Exit, Fault>,
    ) -> Result<Exit, Fault> {
        self.counters.invocations.add(1);
        let mut scene = Scene {
            stage: Stage::Request(exchange),
            desk: &mut self.desk,
            limits: instance.limits(),
            storage: instance.storage(),
        };
        go(&mut self.vm, &mut scene)
    }

    fn check_answer(&self, exit: &Exit) -> Result<(), Failure> {
        match (exit, self.desk.answer.status()) {
            (Exit::Stopped(_), Some(_)) => Ok(()),
            (Exit::Stopped(_), None) => {
                Err(Fault::Misuse("the program stopped without a response".to_owned()).into())
            }
            (Exit::Returned { .. }, _) => {
                Err(Fault::Misuse("the callback returned without a response".to_owned()).into())
            }
        }
    }

    /// Calls the error callback in the same VM, as the fault left it.
    fn second_chance(
        &mut self,
        instance: &Instance,
        request: &Request<'_>,
        exchange: &mut dyn Exchange,
        failure: &Failure,
        response: &mut Response,
    ) -> bool {
        let Failure::Guest(fault) = failure else {
            return false;
        };
        if matches!(fault, Fault::Machine(_)) {
            self.state = State::Poisoned;
            return false;
        }
        let Some(function) = instance.entry().get(Entry::Error) else {
            return false;
        };
        self.desk.answer.reset();
        let mut text = self.vm.image().describe(fault).into_bytes();
        text.truncate(MAX_FAULT_TEXT);
        // The text travels in the place of the content type.
        let request = Request {
            content_type: &text,
            ..*request
        };
        let result = self.timed(|slot| {
            let at = slot.push_strings(&request)?;
            let arguments = [at.url, at.argument, at.content_type];
            let deadline = Instant::now() + SECOND_CHANCE;
            let exit = slot.run(instance, exchange, |vm, scene| {
                vm.call(function, &arguments, deadline, scene)
            })?;
            slot.check_answer(&exit)
        });
        match result {
            Ok(()) => true,
            Err(failure) => {
                self.count(&failure, response);
                if matches!(failure, Failure::Guest(Fault::Machine(_))) {
                    self.state = State::Poisoned;
                }
                let text = self.describe(&failure);
                let line = format!("{}: error callback: {text}", instance.name());
                exchange.log(Severity::Error, line.as_bytes());
                exchange.forget_lifetime();
                false
            }
        }
    }

    /// The failure as operators and error callbacks read it.
    fn describe(&self, failure: &Failure) -> String {
        match failure {
            Failure::Guest(fault) => self.vm.image().describe(fault),
            Failure::Request(text) => text.clone(),
        }
    }

    fn count(&self, failure: &Failure, response: &mut Response) {
        let Failure::Guest(fault) = failure else {
            return;
        };
        response.exceptions += 1;
        response.timeouts += u32::from(matches!(fault, Fault::TimedOut));
        self.count_fault(fault);
    }

    pub(crate) fn count_fault(&self, fault: &Fault) {
        match fault {
            Fault::TimedOut => &self.counters.timeouts,
            Fault::OutOfMemory { .. } => &self.counters.exception_oom,
            Fault::Access(_) => &self.counters.exception_mem,
            _ => &self.counters.exceptions,
        }
        .add(1);
    }
}

/// Room in the request area, or a failure that says that the request is too big for it.
fn alloc(vm: &mut Vm, len: usize) -> Result<GuestVirt, Failure> {
    let len = u64::try_from(len).unwrap_or(u64::MAX);
    vm.request_alloc(len).map_err(|_| {
        Failure::Request(format!(
            "the request's {len} bytes of text and headers are too many"
        ))
    })
}

fn write(vm: &mut Vm, at: GuestVirt, bytes: &[u8]) -> Result<(), Failure> {
    // A guest can take the rights on its request area away, in its error callback's way.
    vm.memory_mut()
        .write(at, bytes)
        .map_err(|error| Failure::Guest(error.into()))
}
