//! One VM being run: the loop around KVM_RUN that main VMs and request VMs share.
//!
//! Where the CPU stands when it stops decides how it is entered next: after a hypercall it is in
//! user mode and general registers are enough; anywhere else the next entry starts over at CPL 0.

mod stance;
mod stopwatch;
mod turn;

use std::time::{Duration, Instant};

use crate::address::{GuestPhys, GuestVirt, PAGE_SIZE};
use crate::deadline::Watched;
use crate::entry::Frame;
use crate::gdb::Debugging;
use crate::kvm::{Host, HostError, INTERRUPTS_ON, Vcpu, write_return_frame};
use crate::layout;
use crate::linux::Process;
use crate::memory::{DirtyBits, Memory, Wiped};
use crate::{Fault, Hypercalls, Regs};
use stopwatch::Stopwatch;

/// One instruction, then #DB: with it a program of its own gets no further. Right behind a load of SS that
/// instruction can be an OUT, whose exit then leaves a debug exception pending that no KVM call takes
/// away and with which VT-x refuses the next entry (Intel SDM volume 3, 27.3.1.5).
const TRAP_FLAG: u64 = 1 << 8;

/// How a run ended without a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// This hypercall's handler stopped the VM.
    Stopped(u32),
    /// The called function returned.
    Returned {
        /// Its result.
        rax: u64,
        /// The second half of a two-word result.
        rdx: u64,
    },
}

/// What a VM has cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// KVM_RUN ioctls.
    pub kvm_runs: u64,
    /// Those of them that a signal cut short: a deadline, a look at the memory, or a late one of
    /// either.
    pub interruptions: u64,
    /// Other ioctls on the VM or its virtual CPU.
    pub ioctls: u64,
    /// Exceptions that reached the host.
    pub exceptions: u64,
    /// Linux system calls.
    pub system_calls: u64,
    /// Hypercalls.
    pub hypercalls: u64,
    /// Resets.
    pub resets: u64,
    /// Resets that gave all private memory back.
    pub full_resets: u64,
    /// Pages that resets found dirty.
    pub dirty_pages: u64,
    /// CPU time of runs. Of a run that exits only once: the time that elapsed.
    pub cpu_time: Duration,
}

#[derive(Debug)]
pub(crate) struct Machine {
    // In the order of dropping: the deadline thread lets go of the virtual CPU, KVM of the memory.
    pub(crate) watch: Watched,
    pub(crate) vcpu: Vcpu,
    pub(crate) memory: Memory,
    pub(crate) process: Process,
    pub(crate) regs: Regs,
    pub(crate) counters: Counters,
    pub(crate) stands: Stands,
    /// The exception that the CPU stands at has left an error code on the kernel stack.
    pub(crate) error_code: bool,
    pub(crate) debugging: Debugging,
    /// The entry stub has to reload CR3, and the guest was not seen behind it yet: an entry that is cut
    /// off before does not count.
    pub(crate) reload: bool,
    /// No debugger came when this run stopped for one: it stops no more.
    pub(crate) unattended: bool,
    /// How far from its file's addresses the program lies.
    pub(crate) bias: u64,
    pub(crate) stopwatch: Stopwatch,
    bits: DirtyBits,
    /// CPU time until the memory has to be looked at.
    look_in: Duration,
}

/// What came of entering the guest once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It asked for something and got it.
    Answered,
    /// A signal of ours stopped it.
    Interrupted,
    /// It is at a breakpoint of its own.
    Break,
    Ended(Exit),
}

/// Where the virtual CPU stopped last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stands {
    /// Behind a hypercall's OUT, at CPL 3.
    InUserMode,
    /// At CPL 0, or it has not run yet.
    InKernel,
    /// Nobody knows: the VM cannot be used any more.
    Nowhere,
}

/// How long a guest needs at least to write `left` bytes: where each fresh page is an exit (shadow
/// paging), some 10 us for each; otherwise as fast as memory is.
fn time_to_write(left: u64, bits: DirtyBits) -> Duration {
    let nanoseconds = match bits {
        DirtyBits::Fresh => 500,
        DirtyBits::Sticky => 10_000,
    };
    let pages = left / PAGE_SIZE;
    Duration::from_nanos(pages.saturating_mul(nanoseconds))
        .clamp(Duration::from_millis(1), Duration::from_millis(200))
}

impl Machine {
    pub(crate) fn new(host: &Host, memory: Memory, process: Process) -> Result<Self, HostError> {
        let bits = host.facts().dirty_bits;
        let look_in = time_to_write(memory.limit(), bits);
        let mut vcpu = Vcpu::new(host, &memory)?;
        let watch = host.deadlines.watch(vcpu.immediate_exit());
        Ok(Self {
            vcpu,
            memory,
            process,
            regs: Regs::default(),
            counters: Counters::default(),
            watch,
            stands: Stands::InKernel,
            error_code: false,
            debugging: Debugging::default(),
            reload: false,
            unattended: false,
            bias: 0,
            stopwatch: Stopwatch::start(),
            bits,
            look_in,
        })
    }

    /// Makes the next run start in user mode at `rip`, straight away.
    pub(crate) fn start_at(&mut self, rip: u64, rsp: u64) {
        let frame = write_return_frame(&self.memory, rip, INTERRUPTS_ON, rsp);
        let enter = layout::KERNEL + tinykvm_sys::entry_points().enter;
        self.regs = Regs {
            rip: enter,
            rsp: frame,
            rflags: 2,
            ..Default::default()
        };
        self.vcpu
            .set_entry(&self.regs, 0, layout::FRAME + layout::FRAME_VCPU);
    }

    /// Makes the next run start as `regs` say, through the entry stub, which restores what user
    /// mode may have changed besides general registers.
    pub(crate) fn enter(&mut self, regs: &Regs, frame: &Frame) {
        const FLAGS: u64 = 0x202;
        let page = frame.page(regs);
        self.memory
            .write_system(GuestPhys::new(layout::FRAME), tinykvm_sys::bytes_of(&page));
        let stub = layout::STUBS + tinykvm_sys::entry_points().entry_stub;
        if self.stands == Stands::InUserMode {
            self.regs = Regs {
                rip: stub,
                rflags: FLAGS,
                ..*regs
            };
        } else {
            let at = write_return_frame(&self.memory, stub, INTERRUPTS_ON, regs.rsp);
            let enter = layout::KERNEL + tinykvm_sys::entry_points().enter;
            self.regs = Regs {
                rip: enter,
                rsp: at,
                rflags: 2,
                ..*regs
            };
            self.vcpu.set_entry(&self.regs, 0, 0);
        }
    }

    /// The registers of a function that is called with up to six arguments and the stack `stack`, a
    /// multiple of 16. As after a CALL: the return address is on the stack, RSP 8 below.
    pub(crate) fn called(&mut self, stack: u64, arguments: &[u64]) -> Result<Regs, Fault> {
        let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
        let rsp = stack.saturating_sub(8);
        self.memory
            .write_u64(GuestVirt::new(rsp), return_address().raw())?;
        Ok(Regs {
            rdi: argument(0),
            rsi: argument(1),
            rdx: argument(2),
            rcx: argument(3),
            r8: argument(4),
            r9: argument(5),
            rsp,
            ..Default::default()
        })
    }

    /// The registers behind the hypercall that stopped the VM: to come back to when something else has
    /// run. With those at the call it would be made again.
    pub(crate) fn regs_behind_call(&mut self) -> Result<Regs, Fault> {
        let behind = self.vcpu.finish_output(&self.regs).map_err(|error| {
            self.stands = Stands::Nowhere;
            broken(error)
        })?;
        self.regs = behind;
        Ok(behind)
    }

    /// Makes memory and process those of the image again.
    pub(crate) fn reset(&mut self, frozen: &Process, keep_pages: u64) -> Result<Wiped, HostError> {
        // Every field has its line here; `docs/reset-inventory.md` says the same in words.
        let Self {
            vcpu: _,       // registers: set at every entry, extended ones by the entry stub
            memory,        // copied back
            process,       // restored
            regs: _,       // set at every entry
            counters,      // kept: they are about the VM, not the request
            watch: _,      // armed at every run
            stands: _,     // decides how the next entry is made
            error_code: _, // as `stands`, set at every exception
            debugging: _,  // constant
            reload,        // due until it is done
            unattended: _, // false at every run
            bias: _,       // constant
            stopwatch: _,  // started at every run
            bits,          // constant
            look_in,       // nothing is used
        } = self;
        process.reset_to(frozen);
        let wiped = memory.reset(*bits, keep_pages)?;
        counters.resets += 1;
        counters.dirty_pages += wiped.pages;
        *reload |= wiped.reload;
        *look_in = time_to_write(memory.limit(), *bits);
        if wiped.full {
            counters.full_resets += 1;
            self.vcpu.forget_memory(&self.memory)?;
        }
        Ok(wiped)
    }

    /// Whether the VM can be run again at all.
    pub(crate) fn is_sound(&self) -> bool {
        self.stands != Stands::Nowhere
    }

    /// Takes the VM apart: its memory and process, without anything of KVM left.
    pub(crate) fn dismantle(self) -> (Memory, Process) {
        let Self {
            vcpu,
            memory,
            process,
            watch,
            ..
        } = self;
        drop(watch);
        drop(vcpu);
        (memory, process)
    }

    /// All counters, those of the virtual CPU included.
    pub(crate) fn counters(&self) -> Counters {
        let (kvm_runs, ioctls) = self.vcpu.calls();
        Counters {
            kvm_runs,
            ioctls,
            ..self.counters
        }
    }

    /// Runs from where the registers stand until a handler stops the VM, the called function
    /// returns, or the guest does something wrong.
    pub(crate) fn run(
        &mut self,
        deadline: Instant,
        calls: &mut dyn Hypercalls,
    ) -> Result<Exit, Fault> {
        if self.look_in.is_zero() {
            self.look_at_memory()?;
        }
        self.unattended = false;
        self.memory.leave_free(Some(0));
        self.arm(deadline);
        self.stopwatch = Stopwatch::start();
        let result = self.run_armed(deadline, calls);
        let spent = self.stopwatch.read();
        self.counters.cpu_time += spent;
        // Of a VM that is not reset each time it adds up.
        self.look_in = self.look_in.saturating_sub(spent);
        self.watch.disarm();
        self.memory.leave_free(None);
        result
    }

    pub(crate) fn arm(&self, deadline: Instant) {
        self.watch.arm(deadline, self.look_in);
    }

    /// Ends the run where more memory is used than may be; otherwise says when to look again.
    fn look_at_memory(&mut self) -> Result<(), Fault> {
        let (used, limit) = (self.memory.used_bytes(), self.memory.limit());
        if used > limit {
            self.memory.overrun(used);
            return Err(Fault::OutOfMemory { used, limit });
        }
        self.look_in = time_to_write(limit - used, self.bits);
        Ok(())
    }

    fn run_armed(
        &mut self,
        mut deadline: Instant,
        calls: &mut dyn Hypercalls,
    ) -> Result<Exit, Fault> {
        if self.stands == Stands::Nowhere {
            return Err(Fault::Machine("the VM had stopped before".into()));
        }
        let mut stop = std::mem::take(&mut self.debugging.at_start).then_some("starts");
        loop {
            if let Some(why) = stop.take() {
                let left = deadline.saturating_duration_since(Instant::now());
                if let Some(end) = self.debug(why, calls) {
                    return end;
                }
                deadline = Instant::now() + left;
                self.arm(deadline);
            }
            let turn = self.turn(deadline, calls);
            if self.stands == Stands::InUserMode && self.regs.rflags & TRAP_FLAG != 0 {
                self.stands = Stands::Nowhere;
                return Err(Fault::Machine("a hypercall in single steps".into()));
            }
            match turn {
                Ok(Turn::Answered | Turn::Interrupted) => {}
                Ok(Turn::Break) => stop = Some("breakpoint"),
                Ok(Turn::Ended(exit)) => return Ok(exit),
                Err(fault) if self.debugging.at_faults => {
                    let why = fault.to_string();
                    return self.debug(&why, calls).unwrap_or(Err(fault));
                }
                Err(fault) => return Err(fault),
            }
        }
    }
}

fn broken(error: HostError) -> Fault {
    Fault::Machine(error.to_string())
}

/// The address of the stub that callbacks return to.
fn return_address() -> GuestVirt {
    GuestVirt::new(layout::STUBS + tinykvm_sys::entry_points().exit_stub)
}
