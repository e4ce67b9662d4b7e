//! A request VM: forked from an image, called, reset, called again.

use std::sync::Arc;
use std::time::Instant;

use crate::address::{GuestPhys, GuestVirt};
use crate::entry::Frame;
use crate::image::Image;
use crate::kvm::HostError;
use crate::linux::Process;
use crate::machine::{Counters, Exit, Machine};
use crate::memory::{AccessError, AccessKind, Wiped, below};
use crate::{Fault, Hypercalls, Memory, Regs, layout};

/// A VM that serves one request at a time and is reset after each.
#[derive(Debug)]
pub struct Vm {
    machine: Machine,
    frame: Frame,
    image: Arc<Image>,
    /// The next free byte of the request area.
    area_next: u64,
}

impl Vm {
    pub(crate) fn fork(image: Arc<Image>) -> Result<Self, HostError> {
        let process = image.process.fork();
        let limit = image.limits.memory;
        Self::fork_with(image, process, limit)
    }

    pub(crate) fn fork_to_last(image: Arc<Image>) -> Result<Self, HostError> {
        let process = image.process.fork_to_last();
        // Losing its state for touching too much would be hard: it is told when it asks for more
        // than there is, and what there is has an end.
        let limit = image.frozen.span();
        Self::fork_with(image, process, limit)
    }

    fn fork_with(image: Arc<Image>, process: Process, limit: u64) -> Result<Self, HostError> {
        let mut memory = image.frozen.fork()?;
        memory.set_limit(limit);
        let mut machine = Machine::new(&image.host, memory, process)?;
        machine.debugging = image.debugging;
        machine.bias = image.bias;
        Ok(Self {
            machine,
            frame: Frame::new(&image.host),
            area_next: image.frozen.request_area().start,
            image,
        })
    }

    /// The guest's memory.
    pub fn memory(&self) -> &Memory {
        &self.machine.memory
    }

    /// The guest's memory, to be written.
    pub fn memory_mut(&mut self) -> &mut Memory {
        &mut self.machine.memory
    }

    /// The guest's registers as they were when it stopped.
    pub fn regs(&self) -> &Regs {
        &self.machine.regs
    }

    /// The registers with which the program goes on behind the call that stopped it, for
    /// [`Self::resume_waiting`].
    pub fn regs_behind_call(&mut self) -> Result<Regs, Fault> {
        self.machine.regs_behind_call()
    }

    /// The image this VM is a fork of.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Calls a function of the program with up to six arguments, on a stack of the request's own.
    /// Ends when it returns, when a hypercall's handler stops it, or with the guest's fault.
    pub fn call(
        &mut self,
        function: GuestVirt,
        arguments: &[u64],
        deadline: Instant,
        calls: &mut dyn Hypercalls,
    ) -> Result<Exit, Fault> {
        let stack = self.image.frozen.stack_top();
        self.call_on(stack, function, arguments, deadline, calls)
    }

    /// As `call`, below a stack pointer that the program had when it stopped: what it has on its
    /// stack stays.
    pub fn call_below(
        &mut self,
        stack: GuestVirt,
        function: GuestVirt,
        arguments: &[u64],
        deadline: Instant,
        calls: &mut dyn Hypercalls,
    ) -> Result<Exit, Fault> {
        let stack = GuestVirt::new(below(stack.raw()));
        self.call_on(stack, function, arguments, deadline, calls)
    }

    fn call_on(
        &mut self,
        stack: GuestVirt,
        function: GuestVirt,
        arguments: &[u64],
        deadline: Instant,
        calls: &mut dyn Hypercalls,
    ) -> Result<Exit, Fault> {
        let regs = self.machine.called(stack.raw(), arguments)?;
        self.enter(function.raw(), &regs);
        self.machine.run(deadline, calls)
    }

    /// Continues the program where the image waits: its call returns.
    pub fn resume_paused(
        &mut self,
        deadline: Instant,
        calls: &mut dyn Hypercalls,
    ) -> Result<Exit, Fault> {
        let regs = self.image.regs;
        self.enter(regs.rip, &regs);
        self.machine.run(deadline, calls)
    }

    /// Continues a program that was not reset and waits again: the call in which it waits returns. If
    /// something else was called since, with the registers that it had behind that call. Clocks and
    /// random bytes are fresh, everything else is as the program left it.
    pub fn resume_waiting(
        &mut self,
        behind_call: Option<Regs>,
        deadline: Instant,
        calls: &mut dyn Hypercalls,
    ) -> Result<Exit, Fault> {
        self.machine.regs = behind_call.unwrap_or(self.machine.regs);
        let regs = self.machine.regs;
        self.frame.prepare(regs.rip, 0, 0, false);
        let page = self.frame.page(&regs);
        self.machine
            .memory
            .write_system(GuestPhys::new(layout::FRAME), tinykvm_sys::bytes_of(&page));
        self.machine.run(deadline, calls)
    }

    /// Continues behind the hypercall that stopped the VM.
    pub fn continue_from_stop(
        &mut self,
        deadline: Instant,
        calls: &mut dyn Hypercalls,
    ) -> Result<Exit, Fault> {
        self.machine.run(deadline, calls)
    }

    fn enter(&mut self, target: u64, regs: &Regs) {
        let bases = self.image.bases;
        let reload = self.machine.reload;
        self.frame.prepare(target, bases.fs, bases.gs, reload);
        self.machine.enter(regs, &self.frame);
    }

    /// Reserves `len` bytes of the request area (256 KiB for everything that belongs to one
    /// request), aligned to 16.
    pub fn request_alloc(&mut self, len: u64) -> Result<GuestVirt, AccessError> {
        let area = self.image.frozen.request_area();
        let at = self.area_next;
        let end = at
            .checked_add(len)
            .and_then(|end| end.checked_next_multiple_of(16));
        match end {
            Some(end) if end <= area.end => {
                self.area_next = end;
                Ok(GuestVirt::new(at))
            }
            _ => Err(AccessError {
                address: GuestVirt::new(at),
                len,
                kind: AccessKind::TooLong,
            }),
        }
    }

    /// Copies bytes into the request area, followed by a NUL if `nul` says so.
    pub fn push_request_bytes(
        &mut self,
        bytes: &[u8],
        nul: bool,
    ) -> Result<GuestVirt, AccessError> {
        let len = crate::arith::to_u64(bytes.len());
        let at = self.request_alloc(len.saturating_add(u64::from(nul)))?;
        self.machine.memory.write(at, bytes)?;
        if nul {
            let end = GuestVirt::new(at.raw() + len);
            self.machine.memory.write(end, &[0])?;
        }
        Ok(at)
    }

    /// Makes room for another call's data and output, and leaves everything else as the last call
    /// left it: for VMs that are not reset between calls.
    pub fn begin_next_call(&mut self) {
        self.area_next = self.image.frozen.request_area().start;
        self.machine.process.renew_output();
    }

    /// Makes the VM look as forked again. After an error it must be thrown away.
    pub fn reset(&mut self) -> Result<Wiped, HostError> {
        // Every field has its line here: state that a reset forgets is a leak between requests.
        let Self {
            machine,
            frame: _,
            image,
            area_next,
        } = self;
        if !machine.is_sound() {
            return Err(HostError::Broken(
                "the VM stopped in a state it cannot leave".into(),
            ));
        }
        let wiped = machine.reset(&image.process, image.keep_pages())?;
        *area_next = image.frozen.request_area().start;
        Ok(wiped)
    }

    /// Whether a reset would take some microseconds and no call of KVM.
    pub fn is_quickly_reset(&self) -> bool {
        let keep_pages = self.image.keep_pages();
        self.machine.memory.is_quickly_reset(keep_pages)
    }

    /// The guest-physical pages in which this VM's memory differs from its image: none after a
    /// reset. Looks at every byte.
    pub fn differences(&self) -> Vec<GuestPhys> {
        self.machine.memory.differences()
    }

    /// What this VM has cost so far.
    pub fn counters(&self) -> Counters {
        self.machine.counters()
    }
}
