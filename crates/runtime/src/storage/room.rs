//! The storage VM itself, on the one thread that runs it: functions are called in it one after the
//! other, and it is not reset in between.
//!
//! ```text
//! call -> storage_return -> the function goes on, so that it can clean up -> answer
//!    \-> fault, time-out -> the VM is dropped; a new one is made from the image
//! ```
//!
//! Guards: after a fault nothing of the VM is used again; what a function says it returns is read
//! as the guest could read it, and no more of it than the caller can take.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbox::{Counters, Exit, Fault, GuestVirt, HostError, MapError, Place, Protection, Vm};
use tinykvm_sys::{abi, bytes_of};

use super::Shared;
use super::errand::{Answer, Call, Inputs, Work};
use super::queue::Task;
use crate::exchange::Severity;
use crate::hypercalls::{Desk, Regexes, Said, Scene, Stage};
use crate::journal;
use crate::outgoing::FetchRule;

/// How long a function may take after it has returned its result.
const CLEAN_UP: Duration = Duration::from_secs(1);
/// How long a program may take to read a state once it has it.
const RESTORE: Duration = Duration::from_secs(2);
/// Inputs up to this size lie in the VM's request area, where they cost no mapping.
const SMALL: u64 = 192 << 10;
/// What one call may return.
pub(crate) const MAX_RESULT: u64 = 16 << 20;
/// Lines of the log in a second, all calls together: timers make calls without anyone asking.
const LINES_A_SECOND: u32 = 1024;

/// Why a function did not do what it was called for.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// The VM cannot be used any more.
    #[error("{0}")]
    Fault(#[from] Fault),
    /// It can.
    #[error("{0}")]
    Failed(String),
    #[error("there is no code at {0}")]
    NoCode(GuestVirt),
}

/// The VM and what the host keeps for it.
pub(super) struct Room {
    shared: Arc<Shared>,
    vm: Option<Vm>,
    desk: Desk,
    /// As `main()` left them.
    regexes: Regexes,
    allowed_fetch: Arc<[FetchRule]>,
    seen: Counters,
    /// When its memory was looked at; walking the page tables takes its time.
    weighed: Option<Instant>,
    lines: LinesLeft,
}

impl Room {
    /// Makes the VM, on the thread that is going to run it; `main` is the desk of its `main()`.
    pub(super) fn new(shared: Arc<Shared>, main: Desk) -> Result<Self, HostError> {
        let mut room = Self {
            shared,
            vm: None,
            desk: Desk::default(),
            regexes: main.regexes,
            allowed_fetch: main.allowed_fetch,
            seen: Counters::default(),
            weighed: None,
            lines: LinesLeft::new(),
        };
        room.fork()?;
        Ok(room)
    }

    fn fork(&mut self) -> Result<(), HostError> {
        self.vm = Some(self.shared.image.fork_to_last()?);
        self.desk = Desk {
            regexes: self.regexes.fork(),
            allowed_fetch: Arc::clone(&self.allowed_fetch),
            program: self.shared.program().into(),
            ..Desk::default()
        };
        self.seen = Counters::default();
        self.weighed = None;
        Ok(())
    }

    /// Does what someone waits for.
    pub(super) fn work(&mut self, work: &Work) -> Answer {
        let max_time = self.shared.max_time;
        let done = match work {
            Work::Call(call) => self.in_vm("storage call", max_time, |run| run.call(call)),
            Work::Save { function, max } => {
                let what = "saving the state for the next instance";
                self.in_vm(what, max_time, |run| run.save(*function, *max))
            }
            Work::Restore { function, state } => {
                let what = "restoring the state of the last instance";
                self.in_vm(what, max_time, |run| run.restore(*function, state))
            }
        };
        match done {
            Ok(answer) => answer,
            Err(Trouble::NoCode(_)) => Answer::NoCode,
            Err(trouble) => Answer::Failed(trouble.to_string()),
        }
    }

    /// Runs a task; that it failed is reported here.
    pub(super) fn task(&mut self, task: &Task) {
        let max_time = self.shared.max_task_time();
        let done = self.in_vm("storage task", max_time, |run| {
            let inputs = Inputs::one(&task.data);
            run.check_code(task.function)?;
            let placed = run.place(&inputs)?;
            let arguments = [placed.first(&inputs), len(&task.data)];
            let said = run.run(task.function, &arguments);
            run.take_back(&placed);
            if let Some(said) = said? {
                run.clean_up(said, CLEAN_UP)?;
            }
            Ok(())
        });
        if let Err(Trouble::NoCode(at)) = done {
            self.report(&format!("storage task: there is no code at {at}"));
        }
    }

    /// Makes a new VM if the last one broke. The VM is made anew as it was after its start.
    pub(super) fn mend(&mut self) -> bool {
        if self.vm.is_some() {
            return true;
        }
        match self.fork() {
            Ok(()) => true,
            Err(error) => {
                self.report(&format!("the storage VM could not be made anew: {error}"));
                false
            }
        }
    }

    /// Does something with the VM. After a fault, or a panic of ours, it is gone.
    fn in_vm<R>(
        &mut self,
        what: &str,
        max_time: Duration,
        work: impl FnOnce(&mut Running<'_>) -> Result<R, Trouble>,
    ) -> Result<R, Trouble> {
        if !self.mend() {
            return Err(Trouble::Failed("there is no storage VM".to_owned()));
        }
        let Some(mut vm) = self.vm.take() else {
            return Err(Trouble::Failed("there is no storage VM".to_owned()));
        };
        vm.begin_next_call();
        self.desk.begin_call(self.lines.left(Instant::now()));
        let counters = &self.shared.machine;
        counters.invocations.add(1);
        let begun = vm.counters().cpu_time;
        let deadline = Instant::now() + max_time;
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut running = Running {
                vm: &mut vm,
                desk: &mut self.desk,
                shared: &self.shared,
                deadline,
            };
            work(&mut running)
        }));
        let took = vm.counters().cpu_time.saturating_sub(begun);
        self.lines.used(self.desk.log.lines_used());
        self.count(&vm);
        let result = result.unwrap_or_else(|_reported_by_the_hook| {
            let fault = Fault::Machine("a failure of the host".to_owned());
            Err(Trouble::Fault(fault))
        });
        self.shared.machine.cpu_time(result.is_ok(), took);
        match &result {
            Err(Trouble::Fault(fault)) => self.broke(what, fault, vm),
            Err(Trouble::Failed(why)) => {
                self.vm = Some(vm);
                self.report(&format!("{what}: {why}"));
            }
            Ok(_) | Err(Trouble::NoCode(_)) => self.vm = Some(vm),
        }
        result
    }

    /// The VM is not used again, and its program starts over from its image.
    fn broke(&mut self, what: &str, fault: &Fault, vm: Vm) {
        let counters = &self.shared.machine;
        match fault {
            Fault::TimedOut => &counters.timeouts,
            Fault::OutOfMemory { .. } => &counters.exception_oom,
            Fault::Access(_) => &counters.exception_mem,
            _ => &counters.exceptions,
        }
        .add(1);
        counters.resets.add(1);
        counters.resets_full.add(1);
        self.shared.counters.restarts.add(1);
        let setting = match fault {
            Fault::TimedOut => " (max_storage_time)",
            Fault::OutOfMemory { .. } => " (max_memory)",
            _ => "",
        };
        let text = self.shared.image.describe(fault);
        drop(vm);
        self.shared.queue.lock().forget_timers_set_since_the_start();
        self.report(&format!(
            "{what}: {text}{setting}; storage is as it was after its start, its state since then \
             is lost"
        ));
    }

    /// A line for operators.
    fn report(&mut self, line: &str) {
        if self.lines.left(Instant::now()) > 0 {
            self.lines.used(1);
            journal::say(Severity::Error, &self.shared.program, line.as_bytes());
        }
    }

    fn count(&mut self, vm: &Vm) {
        let now = vm.counters();
        let before = std::mem::replace(&mut self.seen, now);
        let counters = &self.shared.machine;
        counters.vm(&now, &before);
        let is_due = self
            .weighed
            .is_none_or(|at| at.elapsed() >= Duration::from_secs(1));
        if is_due {
            self.weighed = Some(Instant::now());
            let memory = vm.memory().dirty_bytes();
            counters.memory.set(memory);
            counters.memory_highest.raise(memory);
        }
    }
}

/// What the log takes within the current second.
struct LinesLeft {
    begun: Instant,
    left: u32,
}

impl LinesLeft {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            left: LINES_A_SECOND,
        }
    }

    fn left(&mut self, now: Instant) -> u32 {
        if now.saturating_duration_since(self.begun) >= Duration::from_secs(1) {
            self.begun = now;
            self.left = LINES_A_SECOND;
        }
        self.left
    }

    fn used(&mut self, lines: u32) {
        self.left = self.left.saturating_sub(lines);
    }
}

/// Where inputs lie in the VM.
struct Placed {
    at: GuestVirt,
    /// Bytes that were mapped for them.
    mapped: u64,
}

impl Placed {
    fn first(&self, inputs: &Inputs) -> u64 {
        let begin = inputs.places.first().map_or(0, |(begin, _)| *begin);
        self.at.raw().saturating_add(usize_to_u64(begin))
    }
}

/// One call in the VM.
struct Running<'a> {
    vm: &'a mut Vm,
    desk: &'a mut Desk,
    shared: &'a Arc<Shared>,
    deadline: Instant,
}

impl Running<'_> {
    fn call(&mut self, call: &Call) -> Result<Answer, Trouble> {
        self.check_code(call.function)?;
        self.shared.machine.input_bytes.add(len(&call.inputs.bytes));
        let placed = self.place(&call.inputs)?;
        self.desk.outgoing = Some(call.outgoing.clone());
        let array = placed
            .at
            .raw()
            .saturating_add(len(&call.inputs.bytes).next_multiple_of(8));
        let count = usize_to_u64(call.inputs.places.len());
        let said = self.run(call.function, &[count, array, call.room]);
        let answer = said.and_then(|said| {
            let Some(said) = said else {
                let why = "the function returned without storage_return";
                return Err(Trouble::Failed(why.to_owned()));
            };
            let data = self.result(said, call);
            if !matches!(data, Err(Trouble::Fault(_))) {
                self.clean_up(said, CLEAN_UP)?;
            }
            Ok(Answer::Returned {
                len: said.len,
                data: data?,
            })
        });
        self.take_back(&placed);
        // For tasks and timers: the VCL that has last used the storage is theirs, too.
        self.desk.outgoing = Some(call.outgoing.uncaused());
        answer
    }

    /// As much of what the function returned as its caller can take.
    fn result(&mut self, said: Said, call: &Call) -> Result<Vec<u8>, Trouble> {
        let wanted = said.len.min(call.room);
        if !call.wanted || said.at.raw() == 0 || wanted == 0 {
            return Ok(Vec::new());
        }
        if wanted > MAX_RESULT {
            return Err(Trouble::Failed(format!(
                "a result of {wanted} bytes; {MAX_RESULT} are allowed"
            )));
        }
        let max = usize::try_from(MAX_RESULT).unwrap_or(usize::MAX);
        let read = self.vm.memory().read_bytes(said.at, wanted, max);
        let data = read.map_err(Fault::from)?;
        self.shared.machine.output_bytes.add(wanted);
        Ok(data)
    }

    fn save(&mut self, function: GuestVirt, max: usize) -> Result<Answer, Trouble> {
        let said = self.must_return(function, &[])?;
        if said.at.raw() == 0 || said.len == 0 {
            self.clean_up(said, CLEAN_UP)?;
            let data = Vec::new();
            return Ok(Answer::Returned { len: 0, data });
        }
        if said.len > usize_to_u64(max) {
            return Err(Trouble::Failed(format!(
                "a state of {} bytes; {max} are allowed (max_memory)",
                said.len
            )));
        }
        let read = self.vm.memory().read_bytes(said.at, said.len, max);
        let data = read.map_err(Fault::from)?;
        self.clean_up(said, CLEAN_UP)?;
        Ok(Answer::Returned {
            len: said.len,
            data,
        })
    }

    fn restore(&mut self, function: GuestVirt, state: &[u8]) -> Result<Answer, Trouble> {
        let said = self.must_return(function, &[len(state)])?;
        let taken = usize::try_from(said.len).unwrap_or(usize::MAX);
        let data = state.get(..taken).unwrap_or(state);
        if said.at.raw() != 0 && !data.is_empty() {
            let written = self.vm.memory_mut().write(said.at, data);
            written.map_err(Fault::from)?;
        }
        self.clean_up(said, RESTORE)?;
        Ok(Answer::Returned {
            len: len(data),
            data: Vec::new(),
        })
    }

    fn must_return(&mut self, function: GuestVirt, arguments: &[u64]) -> Result<Said, Trouble> {
        self.check_code(function)?;
        self.run(function, arguments)?
            .ok_or_else(|| Trouble::Failed("it returned without storage_return".to_owned()))
    }

    /// Calling what is no code would break the VM for nothing.
    fn check_code(&self, function: GuestVirt) -> Result<(), Trouble> {
        if self.vm.memory().is_executable(function) {
            Ok(())
        } else {
            Err(Trouble::NoCode(function))
        }
    }

    /// Calls a function until it returns a result, or just returns.
    fn run(&mut self, function: GuestVirt, arguments: &[u64]) -> Result<Option<Said>, Trouble> {
        let mut said = None;
        let mut scene = Scene {
            stage: Stage::Storage {
                shared: self.shared,
                said: &mut said,
            },
            desk: self.desk,
            limits: &self.shared.limits,
            storage: None,
        };
        self.vm
            .call(function, arguments, self.deadline, &mut scene)?;
        Ok(said)
    }

    /// Lets a function go on behind its result until it returns. What it says then counts no more.
    fn clean_up(&mut self, said: Said, time: Duration) -> Result<(), Trouble> {
        if !said.goes_on {
            return Ok(());
        }
        let mut ignored = None;
        let mut scene = Scene {
            stage: Stage::Storage {
                shared: self.shared,
                said: &mut ignored,
            },
            desk: self.desk,
            limits: &self.shared.limits,
            storage: None,
        };
        let exit = self
            .vm
            .continue_from_stop(Instant::now() + time, &mut scene)?;
        match exit {
            Exit::Returned { .. } | Exit::Stopped(_) => Ok(()),
        }
    }

    /// Puts inputs into the VM, and behind them the array that says where each is.
    fn place(&mut self, inputs: &Inputs) -> Result<Placed, Trouble> {
        let size = usize_to_u64(size_of::<abi::tinykvm_buffer>());
        let data = len(&inputs.bytes).next_multiple_of(8);
        let whole = usize_to_u64(inputs.places.len())
            .saturating_mul(size)
            .saturating_add(data);
        let no_room = |error: &dyn std::fmt::Display| {
            Trouble::Failed(format!("no room for {whole} bytes of input: {error}"))
        };
        let placed = if whole <= SMALL {
            let at = self.vm.request_alloc(whole);
            Placed {
                at: at.map_err(|error| no_room(&error))?,
                mapped: 0,
            }
        } else {
            let at: Result<_, MapError> =
                self.vm
                    .memory_mut()
                    .map(Place::Anywhere, whole, Protection::READ_WRITE);
            Placed {
                at: at.map_err(|error| no_room(&error))?,
                mapped: whole,
            }
        };
        let mut array = Vec::with_capacity(inputs.places.len().saturating_mul(16));
        for (begin, len) in &inputs.places {
            let buffer = abi::tinykvm_buffer {
                data: placed.at.raw().saturating_add(usize_to_u64(*begin)),
                len: usize_to_u64(*len),
            };
            array.extend_from_slice(bytes_of(&buffer));
        }
        let memory = self.vm.memory_mut();
        // A guest can take the rights on its request area away.
        let behind = GuestVirt::new(placed.at.raw().saturating_add(data));
        memory
            .write(placed.at, &inputs.bytes)
            .and_then(|()| memory.write(behind, &array))
            .map_err(Fault::from)?;
        Ok(placed)
    }

    fn take_back(&mut self, placed: &Placed) {
        if placed.mapped > 0 {
            // The range is page-aligned and was mapped: there is nothing that could go wrong, and
            // where it does the guest keeps memory that counts against its limit.
            let _ = self.vm.memory_mut().unmap(placed.at, placed.mapped);
        }
    }
}

fn usize_to_u64(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn len(bytes: &[u8]) -> u64 {
    usize_to_u64(bytes.len())
}
