//! One turn of a VM: in, out, and what it came out for.

use std::time::Instant;

use super::{Exit, Machine, Stands, Turn, broken};
use crate::address::{GuestPhys, GuestVirt, PAGE_SIZE};
use crate::kvm::Event;
use crate::layout;
use crate::linux::{self, FsBase, Outcome};
use crate::{Action, Fault, Hypercalls, Regs, VmCall};
use tinykvm_sys::abi;

/// Linux system calls that may come through the hypercall port.
const SYSTEM_CALLS: u32 = 512;
const ARCH_PRCTL: u64 = 158;
const PAGE_FAULT: u8 = 14;

impl Machine {
    /// Enters the guest, and does what it came out for.
    pub(crate) fn turn(
        &mut self,
        deadline: Instant,
        calls: &mut dyn Hypercalls,
    ) -> Result<Turn, Fault> {
        self.vcpu.set_regs(&self.regs);
        let event = self.vcpu.run();
        self.regs = self.vcpu.regs();
        self.error_code = false;
        if !matches!(event, Event::Interrupted | Event::Broken(_)) {
            self.reload = false;
        }
        let turn = self.answer(event, deadline, calls);
        if self.memory.was_refused() {
            let (used, limit) = (self.memory.used_bytes(), self.memory.limit());
            self.memory.overrun(used);
            // With the page that it wanted.
            let used = used.max(limit).saturating_add(PAGE_SIZE);
            return Err(Fault::OutOfMemory { used, limit });
        }
        let turn = turn?;
        if !matches!(turn, Turn::Ended(_)) && self.watch.kicked() {
            return Err(Fault::TimedOut);
        }
        Ok(turn)
    }

    /// Does what the guest came out for.
    fn answer(
        &mut self,
        event: Event,
        deadline: Instant,
        calls: &mut dyn Hypercalls,
    ) -> Result<Turn, Fault> {
        match event {
            Event::Hypercall => {
                self.stands = Stands::InUserMode;
                self.hypercall(deadline, calls)
            }
            Event::SystemCall => {
                self.stands = Stands::InKernel;
                // Host B: the flush that needs none there.
                if self.regs.rax != u64::from(abi::TINYKVM_SYSCALL_FLUSH) {
                    self.system_call(self.regs.rax, self.regs.r10, deadline, calls)?;
                }
                Ok(Turn::Answered)
            }
            Event::Exception(vector) => {
                self.stands = Stands::InKernel;
                self.counters.exceptions += 1;
                if vector == PAGE_FAULT && self.goes_on_behind_stale_rights() {
                    return Ok(Turn::Answered);
                }
                Err(self.exception(vector))
            }
            Event::Interrupted => {
                self.stopwatch.exit();
                self.counters.interruptions += 1;
                self.stands = Stands::InKernel;
                self.vcpu.clear_immediate_exit();
                if self.watch.kicked() {
                    return Err(Fault::TimedOut);
                }
                self.look_at_memory()?;
                self.watch.check_memory_in(self.look_in);
                Ok(Turn::Interrupted)
            }
            Event::OddPort => {
                self.stands = Stands::InKernel;
                Err(Fault::Misuse(
                    "the hypercall port was used other than by a 32-bit OUT".into(),
                ))
            }
            Event::Broken(what) => {
                self.stands = Stands::Nowhere;
                Err(Fault::Machine(what))
            }
        }
    }

    fn hypercall(&mut self, deadline: Instant, calls: &mut dyn Hypercalls) -> Result<Turn, Fault> {
        // The number is EAX; what the upper half holds is the guest's own business.
        let bytes = self.regs.rax.to_le_bytes();
        let number = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        if number == abi::TINYKVM_CALL_FINISHED {
            return Ok(Turn::Ended(Exit::Returned {
                rax: self.regs.rdi,
                rdx: self.regs.rdx,
            }));
        }
        if number < SYSTEM_CALLS {
            self.system_call(u64::from(number), self.regs.r10, deadline, calls)?;
            return Ok(Turn::Answered);
        }
        if !calls.ends_call(number) {
            self.stopwatch.exit();
        }
        self.counters.hypercalls += 1;
        let mut call = VmCall {
            regs: &mut self.regs,
            memory: &mut self.memory,
            deadline,
            debuggable: self.debugging.at_breakpoints,
        };
        match calls.hypercall(&mut call, number) {
            Action::Continue => Ok(Turn::Answered),
            Action::Break if self.debugging.at_breakpoints => Ok(Turn::Break),
            Action::Break => Ok(Turn::Answered),
            Action::Stop => Ok(Turn::Ended(Exit::Stopped(number))),
            Action::Fault(fault) => Err(fault),
        }
    }

    fn system_call(
        &mut self,
        number: u64,
        fourth: u64,
        deadline: Instant,
        calls: &mut dyn Hypercalls,
    ) -> Result<(), Fault> {
        self.stopwatch.exit();
        self.counters.system_calls += 1;
        let mut bases = FsBase::default();
        if number == ARCH_PRCTL {
            bases = self.segment_bases()?;
        }
        let before = bases;
        let regs = Regs {
            r10: fourth,
            ..self.regs
        };
        let outcome = linux::dispatch(
            &mut linux::Call {
                regs: &regs,
                memory: &mut self.memory,
                process: &mut self.process,
                output: calls,
                fs_base: &mut bases,
                deadline,
            },
            number,
        );
        if bases != before {
            self.set_segment_bases(bases)?;
        }
        match outcome {
            Outcome::Return(value) => {
                let Regs { rdi, rsi, rdx, .. } = regs;
                let arguments = [rdi, rsi, rdx, fourth, regs.r8, regs.r9];
                calls.system_call(number, arguments, value);
                self.regs.rax = value.cast_unsigned();
                Ok(())
            }
            Outcome::Exit(status) => Err(Fault::Exited(status)),
            Outcome::Killed(signal) => Err(Fault::Killed(signal)),
            Outcome::Fault(fault) => Err(fault),
        }
    }

    /// FS and GS base as the CPU has them: user mode may have changed them without a system call.
    pub(crate) fn segment_bases(&mut self) -> Result<FsBase, Fault> {
        let special = self.vcpu.special().map_err(broken)?;
        Ok(FsBase {
            fs: special.fs.base,
            gs: special.gs.base,
        })
    }

    fn set_segment_bases(&mut self, bases: FsBase) -> Result<(), Fault> {
        let mut special = self.vcpu.special().map_err(broken)?;
        special.fs.base = bases.fs;
        special.gs.base = bases.gs;
        self.vcpu.set_special(&special).map_err(broken)
    }

    /// A page fault for want of rights that the page has: an edit gave them, and the CPU still had the
    /// old ones, which the fault made it forget (Intel SDM volume 3, 4.10.4.3). The program tries again.
    fn goes_on_behind_stale_rights(&mut self) -> bool {
        self.error_code = true;
        let (Some(user), Ok(special)) = (self.user_regs(), self.vcpu.special()) else {
            return false;
        };
        let code = self.memory.system_word(GuestPhys::new(self.regs.rsp));
        let grants = self.memory.grants(GuestVirt::new(special.cr2), code);
        if grants {
            self.resume_user(&user, false);
        }
        grants
    }

    /// Reads what the CPU pushed for an exception.
    fn exception(&mut self, vector: u8) -> Fault {
        let has_code = matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30);
        self.error_code = has_code;
        let stack = self.regs.rsp;
        let inside = layout::KERNEL_STACK..=layout::KERNEL_STACK_TOP - 40;
        if !inside.contains(&stack) {
            self.stands = Stands::Nowhere;
            return Fault::Machine(format!("exception {vector} with its stack at {stack:#x}"));
        }
        let word = |index: u64| self.memory.system_word(GuestPhys::new(stack + 8 * index));
        let first = u64::from(has_code);
        let (code, rip, cs) = (
            if has_code { word(0) } else { 0 },
            word(first),
            word(first + 1),
        );
        let rsp = word(first + 3);
        // The in-guest kernel does one thing that can fail, and it is the guest's doing: returning to
        // where the guest wants, which is the first word on its stack.
        let return_failed = vector == 13 && cs & 3 == 0 && inside.contains(&rsp);
        if return_failed && rsp.is_multiple_of(8) {
            return Fault::Exception {
                vector,
                code,
                address: 0,
                rip: self.memory.system_word(GuestPhys::new(rsp)),
                rsp: self.memory.system_word(GuestPhys::new(rsp + 24)),
            };
        }
        if cs & 3 != 3 {
            self.stands = Stands::Nowhere;
            return Fault::Machine(format!(
                "exception {vector} in the in-guest kernel at {rip:#x}"
            ));
        }
        let address = match vector {
            PAGE_FAULT => self.vcpu.special().map_or(0, |special| special.cr2),
            _ => 0,
        };
        if vector == PAGE_FAULT
            && let Some((stack, bytes)) = self.memory.overflown_stack(address, rsp)
        {
            return Fault::StackOverflow {
                stack,
                bytes,
                address,
                rip,
                rsp,
            };
        }
        Fault::Exception {
            vector,
            code,
            address,
            rip,
            rsp,
        }
    }
}
