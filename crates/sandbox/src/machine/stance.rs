//! Where a guest stands in user mode, seen from wherever its CPU has stopped, and how it goes on
//! from there with other registers.
//!
//! A CPU that has stopped behind a hypercall is in user mode: its registers are the program's. One
//! that has stopped for an exception or a system call is in the in-guest kernel, with the program's
//! registers but for five, which are in the frame on the kernel stack.

use super::{Machine, Stands, TRAP_FLAG};
use crate::address::{GuestPhys, PAGE_SIZE};
use crate::kvm::write_return_frame;
use crate::{Regs, layout};
use tinykvm_sys::abi;

impl Machine {
    /// The program's registers; nothing where the in-guest kernel is at work.
    pub(crate) fn user_regs(&self) -> Option<Regs> {
        let mut regs = self.regs;
        if self.stands == Stands::Nowhere {
            return None;
        }
        if !self.is_in_kernel() {
            regs.rflags &= !TRAP_FLAG;
            return Some(regs);
        }
        let frame = regs.rsp.checked_add(8 * u64::from(self.error_code))?;
        let inside = layout::KERNEL_STACK..=layout::KERNEL_STACK_TOP - 40;
        if !inside.contains(&frame) {
            return None;
        }
        let word = |index: u64| self.memory.system_word(GuestPhys::new(frame + 8 * index));
        if word(1) != u64::from(abi::TINYKVM_USER_CS) {
            return None;
        }
        regs.rip = word(0);
        regs.rflags = word(2) & !TRAP_FLAG;
        regs.rsp = word(3);
        Some(regs)
    }

    /// Makes the next run go on in the program with these registers, for one instruction if `step`
    /// says so.
    pub(crate) fn resume_user(&mut self, user: &Regs, step: bool) {
        let rflags = user.rflags | if step { TRAP_FLAG } else { 0 };
        if self.is_in_kernel() {
            let frame = write_return_frame(&self.memory, user.rip, rflags, user.rsp);
            self.regs = Regs {
                rip: layout::KERNEL + tinykvm_sys::entry_points().enter,
                rsp: frame,
                rflags: 2,
                ..*user
            };
            self.error_code = false;
        } else {
            self.regs = Regs { rflags, ..*user };
        }
    }

    fn is_in_kernel(&self) -> bool {
        let kernel = layout::KERNEL..layout::KERNEL + PAGE_SIZE;
        self.stands == Stands::InKernel && kernel.contains(&self.regs.rip)
    }
}
