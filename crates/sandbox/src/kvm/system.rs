//! The sandbox's own pages in a guest: descriptor tables, in-guest kernel, stubs, vDSO; and the
//! control registers that go with them (Intel SDM volume 3, chapters 2, 3, 6 and 7).

use std::io;

use kvm_bindings::{kvm_segment, kvm_sregs};

use super::vcpu::segment;
use crate::address::{GuestPhys, PAGE_SIZE};
use crate::arith::to_u64;
use crate::layout;
use crate::memory::{Memory, SystemPage};
use tinykvm_sys::abi;

const CODE: u8 = 11;
const DATA: u8 = 3;
/// What the VM entry checks of VT-x ask for (Intel SDM volume 3, 26.3.1.2).
pub(super) const BUSY_TSS: u8 = 11;
/// What QEMU's emulated CPU asks for before it looks at the I/O permission bitmap.
pub(super) const AVAILABLE_TSS: u8 = 9;
/// The TSS proper, eight ports' worth of permissions and the byte that must end them.
const TSS_LIMIT: u16 = 104 + 1 + 1 - 1;

/// Maps and fills the sandbox's own pages of a main VM.
pub(crate) fn install(memory: &mut Memory) -> io::Result<()> {
    use SystemPage::{KernelCode, KernelData, KernelStack, UserCode, UserData};
    for (at, kind, content) in [
        (layout::GDT, KernelData, &*descriptor_tables()),
        (layout::IDT, KernelData, &*interrupt_table()),
        (layout::KERNEL, KernelCode, tinykvm_sys::kernel()),
        (layout::KERNEL_STACK, KernelStack, &[]),
        (layout::STUBS, UserCode, tinykvm_sys::stubs()),
        (layout::FRAME, UserData, &[]),
        (layout::XSAVE, UserData, &[]),
    ] {
        memory.add_system_page(at, kind, content)?;
    }
    let pages = (layout::VDSO..layout::VDSO_END).step_by(4096);
    for (at, content) in pages.zip(tinykvm_sys::VDSO.chunks(4096)) {
        memory.add_system_page(at, UserCode, content)?;
    }
    Ok(())
}

/// GDT and TSS: Linux's selectors, and a TSS whose I/O bitmap opens the hypercall port.
fn descriptor_tables() -> Vec<u8> {
    let tss = layout::TSS;
    let tss_descriptor =
        u64::from(TSS_LIMIT) | (tss & 0xff_ffff) << 16 | 0x8b << 40 | (tss >> 24 & 0xff) << 56;
    let gdt: [u64; 10] = [
        0,
        0,
        0x00af_9b00_0000_ffff, // 0x10 kernel code, 64 bit
        0x00cf_9300_0000_ffff, // 0x18 kernel data
        0,                     // 0x23 user code, 32 bit: not for programs
        0x00cf_f300_0000_ffff, // 0x2b user data
        0x00af_fb00_0000_ffff, // 0x33 user code, 64 bit
        0,
        tss_descriptor, // 0x40
        0,
    ];
    let mut page: Vec<u8> = gdt.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    page.resize(
        usize::from(u16::try_from(tss - layout::GDT).unwrap_or(u16::MAX)),
        0,
    );
    let mut segment = vec![0; 104];
    put(&mut segment, 4, &layout::KERNEL_STACK_TOP.to_le_bytes()); // RSP0
    put(&mut segment, 36, &layout::KERNEL_STACK_TOP.to_le_bytes()); // IST1
    put(&mut segment, 102, &104_u16.to_le_bytes()); // I/O map base
    segment.extend([0xf0, 0xff]); // ports 0 to 3: what a 32-bit OUT to port 0 needs
    page.extend(segment);
    page
}

/// Gates for the 32 exceptions; every other vector is absent. All need CPL 0 but the breakpoint.
fn interrupt_table() -> Vec<u8> {
    let entries = tinykvm_sys::entry_points();
    let mut table = Vec::with_capacity(32 * 16);
    for vector in 0..32_u64 {
        let offset = match vector {
            14 => entries.page_fault,
            _ => entries.exceptions + 4 * vector,
        };
        let handler = layout::KERNEL + offset;
        let gate: u64 = if vector == 3 { 0xee00 } else { 0x8e00 };
        let low = (handler & 0xffff)
            | u64::from(abi::TINYKVM_KERNEL_CS) << 16
            | gate << 32
            | (handler >> 16 & 0xffff) << 48;
        table.extend(low.to_le_bytes());
        table.extend((handler >> 32).to_le_bytes());
    }
    table
}

fn put(page: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = page.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// The special registers of a VM that is about to be entered at CPL 0.
pub(super) fn special_registers(
    now: kvm_sregs,
    tss_type: u8,
    fs_base: u64,
    gs_base: u64,
) -> kvm_sregs {
    const PE_MP_ET_NE_WP_AM_PG: u64 = 0x8005_0033;
    const PAE_FXSR_XMMEXCPT_FSGSBASE_OSXSAVE: u64 = 1 << 5 | 1 << 9 | 1 << 10 | 1 << 16 | 1 << 18;
    const SCE_LME_LMA_NXE: u64 = 0xd01;
    let selector = |value: u32| u16::try_from(value).unwrap_or(0);
    let data = segment(selector(abi::TINYKVM_KERNEL_DS), DATA, false);
    let mut sregs = now;
    sregs.cr0 = PE_MP_ET_NE_WP_AM_PG;
    sregs.cr2 = 0;
    sregs.cr3 = Memory::ROOT.raw();
    sregs.cr4 = PAE_FXSR_XMMEXCPT_FSGSBASE_OSXSAVE;
    sregs.cr8 = 0;
    sregs.efer = SCE_LME_LMA_NXE;
    sregs.apic_base = 0;
    sregs.interrupt_bitmap = [0; 4];
    sregs.cs = segment(selector(abi::TINYKVM_KERNEL_CS), CODE, true);
    sregs.ss = data;
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = kvm_segment {
        base: fs_base,
        ..data
    };
    sregs.gs = kvm_segment {
        base: gs_base,
        ..data
    };
    sregs.tr = kvm_segment {
        base: layout::TSS,
        limit: u32::from(TSS_LIMIT),
        selector: selector(abi::TINYKVM_TSS_SELECTOR),
        type_: tss_type,
        present: 1,
        ..Default::default()
    };
    sregs.ldt = kvm_segment {
        unusable: 1,
        ..Default::default()
    };
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 10 * 8 - 1;
    sregs.idt.base = layout::IDT;
    sregs.idt.limit = 32 * 16 - 1;
    sregs
}

/// What flags a program starts with.
pub(crate) const INTERRUPTS_ON: u64 = 0x202;

/// Writes the frame that `iretq` takes, and says where it lies.
pub(crate) fn write_return_frame(memory: &Memory, rip: u64, rflags: u64, rsp: u64) -> u64 {
    let words = [
        rip,
        u64::from(abi::TINYKVM_USER_CS),
        rflags,
        rsp,
        u64::from(abi::TINYKVM_USER_DS),
    ];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let at = layout::KERNEL_STACK_TOP - to_u64(bytes.len());
    debug_assert!(at > layout::KERNEL_STACK_TOP - PAGE_SIZE);
    memory.write_system(GuestPhys::new(at), &bytes);
    at
}
