//! The guest as gdb's target: registers, memory, breakpoints, stepping.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use gdbstub::common::Signal;
use gdbstub::stub::SingleThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::singlethread::{
    SingleThreadBase, SingleThreadResume, SingleThreadResumeOps, SingleThreadSingleStep,
    SingleThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, SwBreakpoint, SwBreakpointOps,
};
use gdbstub::target::ext::section_offsets::{Offsets, SectionOffsets, SectionOffsetsOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use gdbstub_arch::x86::X86_64_SSE;
use gdbstub_arch::x86::reg::X86_64CoreRegs;

use super::registers::{from_gdb, to_gdb};
use crate::machine::{Exit, Machine, Turn};
use crate::{Fault, GuestVirt, Hypercalls, Regs};

const INT3: u8 = 0xcc;
const DEBUG_EXCEPTION: u8 = 1;
const BREAKPOINT: u8 = 3;
const MOST_BREAKPOINTS: usize = 1024;

/// A guest under a debugger.
pub(super) struct Debuggee<'a> {
    machine: &'a mut Machine,
    calls: &'a mut dyn Hypercalls,
    /// The program's registers while it stands still.
    user: Regs,
    /// What was in memory where breakpoints are.
    breakpoints: BTreeMap<u64, u8>,
    step: bool,
    /// What the program has done wrong last: its call ends with it if gdb passes the signal on.
    fault: Option<Fault>,
    end: Option<Result<Exit, Fault>>,
}

/// Why the guest does not run any more.
pub(super) enum Stopped {
    For(SingleThreadStopReason<u64>),
    /// gdb has sent something.
    ByGdb(io::Result<u8>),
}

impl<'a> Debuggee<'a> {
    pub(super) const INTERRUPTED: SingleThreadStopReason<u64> =
        SingleThreadStopReason::Signal(Signal::SIGINT);

    pub(super) fn new(machine: &'a mut Machine, calls: &'a mut dyn Hypercalls, user: Regs) -> Self {
        Self {
            machine,
            calls,
            user,
            breakpoints: BTreeMap::new(),
            step: false,
            fault: None,
            end: None,
        }
    }

    /// Takes all breakpoints out. Answers how the guest's call ended, if it did; otherwise it goes
    /// on where gdb left it.
    pub(super) fn leave(self) -> Option<Result<Exit, Fault>> {
        for (at, old) in &self.breakpoints {
            // What cannot be written now cannot be run either.
            let _gone = self.machine.memory.poke(GuestVirt::new(*at), &[*old]);
        }
        if self.end.is_none() {
            self.machine.resume_user(&self.user, false);
        }
        self.end
    }

    /// Lets the guest run until something happens. `heard` answers what gdb sends meanwhile.
    pub(super) fn run(
        &mut self,
        patience: Duration,
        heard: &mut dyn FnMut() -> Option<io::Result<u8>>,
    ) -> Stopped {
        if let Some(fault) = self.fault.take() {
            let signal = signal_of(&fault);
            self.end = Some(Err(fault));
            return Stopped::For(SingleThreadStopReason::Terminated(signal));
        }
        self.machine.resume_user(&self.user, self.step);
        let deadline = Instant::now() + patience;
        self.machine.arm(deadline);
        let stopped = self.run_armed(deadline, heard);
        self.machine.watch.disarm();
        stopped
    }

    fn run_armed(
        &mut self,
        deadline: Instant,
        heard: &mut dyn FnMut() -> Option<io::Result<u8>>,
    ) -> Stopped {
        loop {
            let reason = match self.machine.turn(deadline, self.calls) {
                Ok(Turn::Interrupted) => {
                    // Nobody can look at the program while the in-guest kernel is at work.
                    let Some(user) = self.machine.user_regs() else {
                        continue;
                    };
                    let Some(byte) = heard() else {
                        continue;
                    };
                    self.user = user;
                    return Stopped::ByGdb(byte);
                }
                // A system call is an instruction, and the next one has not run.
                Ok(Turn::Answered) if self.step => SingleThreadStopReason::DoneStep,
                Ok(Turn::Answered) => continue,
                Ok(Turn::Break) => SingleThreadStopReason::Signal(Signal::SIGTRAP),
                Ok(Turn::Ended(exit)) => {
                    self.end = Some(Ok(exit));
                    return Stopped::For(SingleThreadStopReason::Exited(0));
                }
                Err(Fault::Exception { vector, .. }) if vector == DEBUG_EXCEPTION => {
                    SingleThreadStopReason::DoneStep
                }
                Err(Fault::Exception { vector, rip, .. })
                    if vector == BREAKPOINT
                        && self.breakpoints.contains_key(&rip.wrapping_sub(1)) =>
                {
                    SingleThreadStopReason::SwBreak(())
                }
                Err(fault) => {
                    let signal = signal_of(&fault);
                    if can_go_on(&fault) {
                        self.fault = Some(fault);
                        SingleThreadStopReason::Signal(signal)
                    } else {
                        self.end = Some(Err(fault));
                        return Stopped::For(SingleThreadStopReason::Terminated(signal));
                    }
                }
            };
            let Some(user) = self.machine.user_regs() else {
                let lost = Fault::Machine("the debugger has lost the program".to_owned());
                self.end = Some(Err(self.fault.take().unwrap_or(lost)));
                let killed = SingleThreadStopReason::Terminated(Signal::SIGKILL);
                return Stopped::For(killed);
            };
            self.user = user;
            if matches!(reason, SingleThreadStopReason::SwBreak(())) {
                // The instruction under the breakpoint has not run.
                self.user.rip = self.user.rip.wrapping_sub(1);
            }
            return Stopped::For(reason);
        }
    }

    /// Bytes as they are without breakpoints.
    fn read(&self, at: u64, out: &mut [u8]) -> bool {
        if self.machine.memory.read(GuestVirt::new(at), out).is_err() {
            return false;
        }
        for (address, old) in self.breakpoints.range(at..) {
            let place = usize::try_from(address.wrapping_sub(at)).unwrap_or(usize::MAX);
            match out.get_mut(place) {
                Some(byte) => *byte = *old,
                None => break,
            }
        }
        true
    }
}

impl Target for Debuggee<'_> {
    type Arch = X86_64_SSE;
    type Error = &'static str;

    fn base_ops(&mut self) -> BaseOps<'_, Self::Arch, Self::Error> {
        BaseOps::SingleThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_section_offsets(&mut self) -> Option<SectionOffsetsOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadBase for Debuggee<'_> {
    fn read_registers(&mut self, regs: &mut X86_64CoreRegs) -> TargetResult<(), Self> {
        let extended = self.machine.vcpu.extended_state();
        *regs = to_gdb(&self.user, &extended.unwrap_or_default());
        Ok(())
    }

    /// Of the extended state nothing can be changed.
    fn write_registers(&mut self, regs: &X86_64CoreRegs) -> TargetResult<(), Self> {
        from_gdb(regs, &mut self.user);
        // Who moves the program elsewhere does not want it to die of where it was.
        self.fault = None;
        Ok(())
    }

    fn read_addrs(&mut self, at: u64, data: &mut [u8]) -> TargetResult<usize, Self> {
        let whole = data.len();
        if self.read(at, data) {
            return Ok(whole);
        }
        // Up to the page that cannot be read.
        let first = GuestVirt::new(at).page_offset();
        let first = usize::try_from(crate::PAGE_SIZE - first).unwrap_or(whole);
        match data.get_mut(..first) {
            Some(part) => match self.read(at, part) {
                true => Ok(first),
                false => Err(TargetError::NonFatal),
            },
            None => Err(TargetError::NonFatal),
        }
    }

    fn write_addrs(&mut self, at: u64, data: &[u8]) -> TargetResult<(), Self> {
        let mut shown = data.to_vec();
        for (address, old) in self.breakpoints.range_mut(at..) {
            let place = usize::try_from(address.wrapping_sub(at)).unwrap_or(usize::MAX);
            match shown.get_mut(place) {
                Some(byte) => *old = std::mem::replace(byte, INT3),
                None => break,
            }
        }
        let poked = self.machine.memory.poke(GuestVirt::new(at), &shown);
        poked.map_err(|_| TargetError::NonFatal)
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadResume for Debuggee<'_> {
    /// Without a signal the instruction that did wrong gets another try.
    fn resume(&mut self, signal: Option<Signal>) -> Result<(), Self::Error> {
        self.step = false;
        if signal.is_none() {
            self.fault = None;
        }
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadSingleStep for Debuggee<'_> {
    fn step(&mut self, signal: Option<Signal>) -> Result<(), Self::Error> {
        self.resume(signal)?;
        self.step = true;
        Ok(())
    }
}

impl Breakpoints for Debuggee<'_> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Debuggee<'_> {
    fn add_sw_breakpoint(&mut self, at: u64, _kind: usize) -> TargetResult<bool, Self> {
        if self.breakpoints.contains_key(&at) {
            return Ok(true);
        }
        let (place, mut old) = (GuestVirt::new(at), [0]);
        if self.breakpoints.len() >= MOST_BREAKPOINTS {
            return Ok(false);
        }
        if !self.machine.memory.is_executable(place) || !self.read(at, &mut old) {
            return Ok(false);
        }
        if self.machine.memory.poke(place, &[INT3]).is_err() {
            return Ok(false);
        }
        self.breakpoints.insert(at, old[0]);
        Ok(true)
    }

    fn remove_sw_breakpoint(&mut self, at: u64, _kind: usize) -> TargetResult<bool, Self> {
        let Some(old) = self.breakpoints.remove(&at) else {
            return Ok(false);
        };
        let poked = self.machine.memory.poke(GuestVirt::new(at), &[old]);
        Ok(poked.is_ok())
    }
}

impl SectionOffsets for Debuggee<'_> {
    /// Where a position-independent program was put.
    fn get_section_offsets(&mut self) -> Result<Offsets<u64>, Self::Error> {
        let bias = self.machine.bias;
        Ok(Offsets::Sections {
            text: bias,
            data: bias,
            bss: Some(bias),
        })
    }
}

/// Whether the program stands where it could be made to go on.
fn can_go_on(fault: &Fault) -> bool {
    match fault {
        Fault::Exception { .. }
        | Fault::StackOverflow { .. }
        | Fault::Access(_)
        | Fault::Killed(_)
        | Fault::Misuse(_)
        | Fault::OutOfMemory { .. } => true,
        Fault::TimedOut | Fault::Exited(_) | Fault::Machine(_) => false,
    }
}

/// What Linux would have sent.
fn signal_of(fault: &Fault) -> Signal {
    match fault {
        Fault::Exception { vector, .. } => match *vector {
            0 | 16 | 19 => Signal::SIGFPE,
            DEBUG_EXCEPTION | BREAKPOINT => Signal::SIGTRAP,
            6 => Signal::SIGILL,
            17 => Signal::SIGBUS,
            _ => Signal::SIGSEGV,
        },
        Fault::TimedOut => Signal::SIGALRM,
        Fault::StackOverflow { .. } | Fault::Access(_) => Signal::SIGSEGV,
        Fault::Misuse(_) => Signal::SIGSYS,
        Fault::Killed(_) | Fault::Exited(_) => Signal::SIGTERM,
        Fault::OutOfMemory { .. } | Fault::Machine(_) => Signal::SIGKILL,
    }
}
