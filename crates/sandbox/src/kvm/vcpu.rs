//! One VM with its one virtual CPU and one memory slot. Registers travel in the shared `kvm_run`
//! page (KVM API, KVM_CAP_SYNC_REGS), so that entering a guest costs KVM_RUN and nothing else.

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, Msrs, kvm_device_attr, kvm_msr_entry, kvm_regs,
    kvm_segment, kvm_sregs, kvm_userspace_memory_region, kvm_vcpu_events, kvm_xcr, kvm_xcrs,
};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd, VmFd};

use super::host::{Host, HostError};
use super::system;
use crate::descriptors::{self, Holder};
use crate::layout;
use crate::memory::Memory;
use tinykvm_sys::abi;

/// `_IOW(KVMIO, 0xe1, struct kvm_device_attr)`; kvm-ioctls has it for other architectures only.
const KVM_SET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee1;

/// Why the virtual CPU stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// User mode wrote to the hypercall port: number in EAX.
    Hypercall,
    /// The in-guest kernel asks for a Linux system call: number in RAX.
    SystemCall,
    /// The CPU raised an exception; its frame is on the kernel stack.
    Exception(u8),
    /// A signal or `immediate_exit`.
    Interrupted,
    /// User mode used port 0 in another way than a 32-bit OUT.
    OddPort,
    /// Anything else: nothing a program should be able to cause.
    Broken(String),
}

#[derive(Debug)]
pub(crate) struct Vcpu {
    cpu: VcpuFd,
    vm: VmFd,
    tss_type: u8,
    xcr0: u64,
    ioctls: u64,
    runs: u64,
}

impl Vcpu {
    /// A VM over `memory`, ready to be entered through [`Self::set_entry`].
    pub(crate) fn new(host: &Host, memory: &Memory) -> Result<Self, HostError> {
        let vm = host
            .kvm
            .create_vm()
            .map_err(HostError::call("KVM_CREATE_VM"))?;
        let cpu = vm
            .create_vcpu(0)
            .map_err(HostError::call("KVM_CREATE_VCPU"))?;
        if !Holder::Machine.may_keep(&cpu) {
            let limit = descriptors::limit();
            return Err(HostError::Descriptors { limit });
        }
        let mut vcpu = Self {
            cpu,
            vm,
            tss_type: host.tss_type(),
            xcr0: host.xcr0,
            ioctls: 2,
            runs: 0,
        };
        vcpu.set_memory(memory)?;
        vcpu.cpu
            .set_cpuid2(host.cpuid())
            .map_err(HostError::call("KVM_SET_CPUID2"))?;
        let mut xcrs = kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        };
        if let Some(first) = xcrs.xcrs.first_mut() {
            *first = kvm_xcr {
                xcr: 0,
                value: host.xcr0,
                ..Default::default()
            };
        }
        vcpu.cpu
            .set_xcrs(&xcrs)
            .map_err(HostError::call("KVM_SET_XCRS"))?;
        vcpu.set_msrs()?;
        if host.tsc_needs_offset() {
            vcpu.share_tsc();
        }
        vcpu.cpu.set_sync_valid_reg(SyncReg::Register);
        vcpu.ioctls += 3;
        Ok(vcpu)
    }

    /// Maps all of `memory` at guest-physical 0.
    fn set_memory(&mut self, memory: &Memory) -> Result<(), HostError> {
        self.set_slot(memory, memory.len())
    }

    /// Removes the memory slot and maps it again: KVM forgets everything it derived from it.
    pub(crate) fn forget_memory(&mut self, memory: &Memory) -> Result<(), HostError> {
        self.set_slot(memory, 0)?;
        self.set_slot(memory, memory.len())
    }

    fn set_slot(&mut self, memory: &Memory, size: u64) -> Result<(), HostError> {
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: size,
            userspace_addr: memory.host_address(),
        };
        self.ioctls += 1;
        // SAFETY: the memory outlives this VM (`Vm` drops its VCPU first) and nothing else is
        // ever mapped in this slot.
        unsafe { self.vm.set_user_memory_region(region) }
            .map_err(HostError::call("KVM_SET_USER_MEMORY_REGION"))
    }

    fn set_msrs(&mut self) -> Result<(), HostError> {
        const STAR: u32 = 0xc000_0081;
        const LSTAR: u32 = 0xc000_0082;
        const SFMASK: u32 = 0xc000_0084;
        // IF, TF, DF, NT and AC are clear inside the kernel.
        const MASKED_FLAGS: u64 = 0x4_4700;
        let selectors = u64::from(abi::TINYKVM_KERNEL_CS) << 32 | 0x23 << 48;
        let entry = |index, data| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        let msrs = Msrs::from_entries(&[
            entry(STAR, selectors),
            entry(LSTAR, layout::KERNEL + tinykvm_sys::entry_points().syscall),
            entry(SFMASK, MASKED_FLAGS),
        ])
        .map_err(|_| HostError::Memory(io::ErrorKind::OutOfMemory.into()))?;
        match self
            .cpu
            .set_msrs(&msrs)
            .map_err(HostError::call("KVM_SET_MSRS"))?
        {
            3 => Ok(()),
            _ => Err(HostError::Missing("the SYSCALL registers")),
        }
    }

    /// Asks for the host's TSC in the guest. Where that fails the probe sees different clocks and
    /// the vDSO does without.
    fn share_tsc(&mut self) {
        self.ioctls += 1;
        let offset = 0_u64;
        let attribute = kvm_device_attr {
            group: KVM_VCPU_TSC_CTRL,
            attr: u64::from(KVM_VCPU_TSC_OFFSET),
            addr: (&raw const offset).addr() as u64,
            flags: 0,
        };
        // SAFETY: a valid ioctl on our VCPU; the attribute and the offset it points to live here.
        unsafe {
            libc::ioctl(
                self.cpu.as_raw_fd(),
                KVM_SET_DEVICE_ATTR,
                &raw const attribute,
            )
        };
    }

    /// Makes the next run start at CPL 0 with these registers and clean segments.
    pub(crate) fn set_entry(&mut self, regs: &kvm_regs, fs_base: u64, gs_base: u64) {
        let sync = self.cpu.sync_regs_mut();
        sync.regs = *regs;
        sync.sregs = system::special_registers(sync.sregs, self.tss_type, fs_base, gs_base);
        self.cpu.set_sync_dirty_reg(SyncReg::Register);
        self.cpu.set_sync_dirty_reg(SyncReg::SystemRegister);
        // An exception that was being delivered when the last run was cut off must not hit this one.
        self.cpu.sync_regs_mut().events = kvm_vcpu_events::default();
        self.cpu.set_sync_dirty_reg(SyncReg::VcpuEvents);
    }

    /// Makes the next run continue with these general registers.
    pub(crate) fn set_regs(&mut self, regs: &kvm_regs) {
        self.cpu.sync_regs_mut().regs = *regs;
        self.cpu.set_sync_dirty_reg(SyncReg::Register);
    }

    /// The general registers as they were when the CPU stopped.
    pub(crate) fn regs(&mut self) -> kvm_regs {
        self.cpu.sync_regs_mut().regs
    }

    pub(crate) fn run(&mut self) -> Event {
        self.runs += 1;
        let exit = self.cpu.run();
        match exit {
            Ok(VcpuExit::IoOut(port, data)) => match u32::from(port) {
                abi::TINYKVM_PORT_HYPERCALL if data.len() == 4 => Event::Hypercall,
                abi::TINYKVM_PORT_SYSCALL => Event::SystemCall,
                port @ abi::TINYKVM_PORT_EXCEPTION.. => {
                    match u8::try_from(port - abi::TINYKVM_PORT_EXCEPTION) {
                        Ok(vector) => Event::Exception(vector),
                        Err(_) => Event::Broken(format!("write to port {port:#x}")),
                    }
                }
                _ => Event::OddPort,
            },
            Ok(VcpuExit::IoIn(..)) => self.finish_input(),
            Ok(VcpuExit::Intr) => Event::Interrupted,
            Ok(other) => {
                let what = format!("{other:?}");
                self.broken(&what)
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Event::Interrupted,
            Err(error) => Event::Broken(io::Error::from_raw_os_error(error.errno()).to_string()),
        }
    }

    /// An exit that no guest should be able to cause, with what there is to find out why. A virtual CPU
    /// that shut down on AMD has the registers of a reset: RIP is 0xfff0.
    fn broken(&mut self, what: &str) -> Event {
        let regs = self.regs();
        let special = self.special().unwrap_or_default();
        Event::Broken(format!(
            "{what} in run {}, RIP {:#x}, RSP {:#x}, RFLAGS {:#x}, CR2 {:#x}, CR3 {:#x}",
            self.runs, regs.rip, regs.rsp, regs.rflags, special.cr2, special.cr3
        ))
    }

    /// An IN ends in the next KVM_RUN, which would then put the instruction pointer behind it,
    /// whatever registers were set in between and at whatever privilege (KVM API, KVM_EXIT_IO). It is
    /// ended here, before anything else can run.
    fn finish_input(&mut self) -> Event {
        // One is enough; a repeated INS may come back for its next page.
        for _ in 0..8 {
            match self.end_instruction() {
                Ok(true) => return Event::OddPort,
                Ok(false) => {}
                Err(what) => return Event::Broken(what),
            }
        }
        Event::Broken("an IN without end".into())
    }

    /// The registers behind the OUT that the CPU stopped at with `regs`. Some hosts end an OUT at its
    /// exit and some in the next KVM_RUN, unless that starts elsewhere: it is ended here.
    pub(crate) fn finish_output(&mut self, regs: &kvm_regs) -> Result<kvm_regs, HostError> {
        self.set_regs(regs);
        match self.end_instruction() {
            Ok(true) => Ok(self.regs()),
            Ok(false) => Err(HostError::Broken("an OUT that goes on with an IN".into())),
            Err(what) => Err(HostError::Broken(what)),
        }
    }

    /// Does what is left of the instruction that stopped the CPU and enters no guest; whether that was
    /// all of it.
    fn end_instruction(&mut self) -> Result<bool, String> {
        self.cpu.set_kvm_immediate_exit(1);
        let ended = match self.cpu.run() {
            Ok(VcpuExit::IoIn(..)) => Ok(false),
            Ok(VcpuExit::Intr) => Ok(true),
            Err(error) if error.errno() == libc::EINTR => Ok(true),
            other => Err(format!("{other:?} behind an IN or OUT")),
        };
        self.cpu.set_kvm_immediate_exit(0);
        self.runs += 1;
        ended
    }

    /// Segments, control registers and CR2.
    pub(crate) fn special(&mut self) -> Result<kvm_sregs, HostError> {
        self.ioctls += 1;
        self.cpu
            .get_sregs()
            .map_err(HostError::call("KVM_GET_SREGS"))
    }

    /// Sets segments and control registers that [`Self::special`] returned.
    pub(crate) fn set_special(&mut self, sregs: &kvm_sregs) -> Result<(), HostError> {
        self.ioctls += 1;
        // KVM on SVM reports every TSS as busy.
        let tr = kvm_segment {
            type_: self.tss_type,
            ..sregs.tr
        };
        let sregs = kvm_sregs { tr, ..*sregs };
        self.cpu
            .set_sregs(&sregs)
            .map_err(HostError::call("KVM_SET_SREGS"))
    }

    /// The extended state in the standard format of XSAVE, as XRSTOR takes it in a guest (Intel SDM
    /// volume 1, 13.8): KVM also reports components that the guest's XCR0 leaves out.
    pub(crate) fn extended_state(&mut self) -> Result<Vec<u8>, HostError> {
        const STATE_BV: usize = 512;
        self.ioctls += 1;
        let state = self
            .cpu
            .get_xsave()
            .map_err(HostError::call("KVM_GET_XSAVE"))?;
        let mut bytes: Vec<u8> = state
            .region
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        for (byte, usable) in bytes.iter_mut().skip(STATE_BV).zip(self.xcr0.to_le_bytes()) {
            *byte &= usable;
        }
        Ok(bytes)
    }

    /// The TSC frequency in kHz, if KVM knows it.
    pub(crate) fn tsc_khz(&mut self) -> Option<u32> {
        self.cpu.get_tsc_khz().ok()
    }

    /// Where `immediate_exit` is, for the deadline thread.
    pub(crate) fn immediate_exit(&mut self) -> *mut u8 {
        &raw mut self.cpu.get_kvm_run().immediate_exit
    }

    /// Takes a kick back.
    pub(crate) fn clear_immediate_exit(&mut self) {
        self.cpu.set_kvm_immediate_exit(0);
    }

    /// KVM_RUNs and other ioctls so far.
    pub(crate) fn calls(&self) -> (u64, u64) {
        (self.runs, self.ioctls)
    }
}

/// A flat segment.
pub(super) const fn segment(selector: u16, kind: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: if long { 0 } else { 1 },
        s: 1,
        l: if long { 1 } else { 0 },
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}
