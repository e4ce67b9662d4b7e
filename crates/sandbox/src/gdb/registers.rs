//! Registers as gdb numbers them.

use gdbstub_arch::x86::reg::X86_64CoreRegs;

use crate::Regs;
use tinykvm_sys::abi;

/// The flags that a program itself may change: status flags and direction.
const USER_FLAGS: u64 = 0xcd5;
/// Where SSE registers and MXCSR are in XSAVE's standard format, and the x87 registers.
const XMM: usize = 160;
const MXCSR: usize = 24;
const X87: usize = 32;

/// General registers, and the extended state as XSAVE lays it out.
pub(super) fn to_gdb(regs: &Regs, extended: &[u8]) -> X86_64CoreRegs {
    let mut all = X86_64CoreRegs {
        regs: [
            regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp, regs.rsp,
            regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ],
        eflags: u32::try_from(regs.rflags & 0xffff_ffff).unwrap_or(0),
        rip: regs.rip,
        ..Default::default()
    };
    all.segments.cs = abi::TINYKVM_USER_CS;
    all.segments.ss = abi::TINYKVM_USER_DS;
    for (register, bytes) in all.xmm.iter_mut().zip(chunks::<16>(extended, XMM)) {
        *register = u128::from_le_bytes(bytes);
    }
    for (register, bytes) in all.st.iter_mut().zip(chunks::<16>(extended, X87)) {
        for (to, from) in register.iter_mut().zip(bytes) {
            *to = from;
        }
    }
    if let Some(bytes) = chunks::<4>(extended, MXCSR).next() {
        all.mxcsr = u32::from_le_bytes(bytes);
    }
    all
}

/// Takes over what gdb has changed of the general registers.
pub(super) fn from_gdb(all: &X86_64CoreRegs, regs: &mut Regs) {
    let [
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rbp,
        rsp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
    ] = all.regs;
    let flags = u64::from(all.eflags) & USER_FLAGS | regs.rflags & !USER_FLAGS;
    *regs = Regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: all.rip,
        rflags: flags,
    };
}

fn chunks<const N: usize>(bytes: &[u8], at: usize) -> impl Iterator<Item = [u8; N]> {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.chunks_exact(N)
        .filter_map(|chunk| chunk.try_into().ok())
}
