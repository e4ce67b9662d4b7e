//! Finds out, by running a few instructions, what this host's KVM does where hosts differ.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_bindings::kvm_regs;

use super::host::{Facts, Host, HostError};
use super::system;
use super::vcpu::{Event, Vcpu};
use crate::address::GuestVirt;
use crate::layout;
use crate::memory::{DirtyBits, Memory, Place, Protection};
use tinykvm_sys::abi;

const CODE: GuestVirt = GuestVirt::new(layout::USER_BEGIN);
const DATA: GuestVirt = GuestVirt::new(layout::USER_BEGIN + 0x10_0000);
const ROUNDS: u32 = 8;

/// A guest that runs the probe program.
struct Probe {
    vcpu: Vcpu,
    memory: Memory,
    /// SYSCALL came back to the host, as it only does where it faults.
    syscall_faults: bool,
}

pub(super) fn probe(host: &Arc<Host>) -> Result<Facts, HostError> {
    let mut probe = Probe::started(host).or_else(|_| {
        host.set_tss_type(system::AVAILABLE_TSS);
        Probe::started(host)
    })?;
    if !probe.memory.take_dirty_bit(DATA) {
        return Err(HostError::Missing("dirty bits in page tables"));
    }
    let mut shared_tsc = probe.shares_tsc()?;
    let dirty_bits = probe.dirty_bits()?;
    let syscall_faults = probe.syscall_faults;
    host.set_tsc_khz(probe.vcpu.tsc_khz().unwrap_or(0).into());
    if !shared_tsc {
        host.set_tsc_needs_offset(true);
        shared_tsc = Probe::started(host)?.shares_tsc()?;
    }
    // Leaf 7 is not in the short table.
    host.set_cpuid_is_native(true);
    let native_cpuid = Probe::started(host).is_ok_and(|mut probe| probe.shows_leaf_7_of_the_host());
    host.set_cpuid_is_native(native_cpuid);
    let thread_change = probe.thread_change()?;
    Ok(Facts {
        dirty_bits,
        syscall_faults,
        shared_tsc,
        native_cpuid,
        thread_change,
    })
}

impl Probe {
    fn new(host: &Host) -> Result<Self, HostError> {
        let mut memory = Memory::new_main(1 << 20, false)?;
        system::install(&mut memory)?;
        let refused = |error| HostError::Memory(io::Error::other(error));
        let code = tinykvm_sys::probe();
        memory
            .map(Place::Fixed(CODE), 4096, Protection::READ_WRITE)
            .map_err(refused)?;
        memory
            .write(CODE, code)
            .map_err(|error| HostError::Memory(io::Error::other(error)))?;
        memory
            .protect(CODE, 4096, Protection::READ_EXECUTE)
            .map_err(refused)?;
        memory
            .map(Place::Fixed(DATA), 4096, Protection::READ_WRITE)
            .map_err(refused)?;
        Ok(Self {
            vcpu: Vcpu::new(host, &memory)?,
            memory,
            syscall_faults: false,
        })
    }

    /// A probe that has come to its first hypercall.
    fn started(host: &Host) -> Result<Self, HostError> {
        let mut probe = Self::new(host)?;
        probe.enter();
        probe.run()?;
        Ok(probe)
    }

    /// Makes the next run start the program.
    fn enter(&mut self) {
        let frame = system::write_return_frame(&self.memory, CODE.raw(), system::INTERRUPTS_ON, 0);
        let enter = layout::KERNEL + tinykvm_sys::entry_points().enter;
        let regs = kvm_regs {
            rip: enter,
            rsp: frame,
            rdi: DATA.raw(),
            rflags: 2,
            ..Default::default()
        };
        self.vcpu.set_entry(&regs, 0, 0);
    }

    /// Runs to the next hypercall.
    fn run(&mut self) -> Result<(), HostError> {
        loop {
            match self.vcpu.run() {
                Event::Hypercall => return Ok(()),
                Event::SystemCall => {
                    let regs = self.vcpu.regs();
                    if regs.rax != u64::from(abi::TINYKVM_SYSCALL_FLUSH) {
                        return Err(HostError::Broken(format!("system call {:#x}", regs.rax)));
                    }
                    self.syscall_faults = true;
                }
                // Asked of the CPU, not of CPUID: host B has it without saying so.
                Event::Exception(6) => return Err(HostError::Missing("FSGSBASE")),
                Event::Interrupted => self.vcpu.clear_immediate_exit(),
                other => return Err(HostError::Broken(format!("{other:?} while probing"))),
            }
        }
    }

    /// Whether a dirty bit that was cleared is set by the next write, each time: a host that keeps its
    /// own translations may forget one of them just then.
    fn dirty_bits(&mut self) -> Result<DirtyBits, HostError> {
        for _ in 0..ROUNDS {
            self.run()?;
            if !self.memory.take_dirty_bit(DATA) {
                return Ok(DirtyBits::Sticky);
            }
        }
        Ok(DirtyBits::Fresh)
    }

    /// Whether the guest's TSC was the host's during one more run.
    fn shares_tsc(&mut self) -> Result<bool, HostError> {
        let before = host_tsc();
        self.run()?;
        let after = host_tsc();
        let regs = self.vcpu.regs();
        let guest = (regs.rdx << 32) | (regs.rax & 0xffff_ffff);
        Ok((before..=after).contains(&guest))
    }

    /// Whether the last run saw the features in CPUID.7:EBX that the host's CPU has.
    fn shows_leaf_7_of_the_host(&mut self) -> bool {
        let host = core::arch::x86_64::__cpuid_count(7, 0).ebx;
        host != 0 && self.vcpu.regs().r8 == u64::from(host)
    }

    /// How much longer a run takes that follows one on another thread: the best of some rounds.
    fn thread_change(mut self) -> Result<Duration, HostError> {
        let mut best = Duration::MAX;
        for _ in 0..ROUNDS {
            self.run()?;
            let started = Instant::now();
            self.run()?;
            let here = started.elapsed();
            let there = std::thread::Builder::new()
                .name("tinykvm-probe".into())
                .spawn(move || {
                    let started = Instant::now();
                    let result = self.run();
                    (self, result, started.elapsed())
                })?;
            let joined = there
                .join()
                .map_err(|_| HostError::Broken("the probe panicked".into()))?;
            let result;
            let elapsed;
            (self, result, elapsed) = joined;
            result?;
            best = best.min(elapsed.saturating_sub(here));
        }
        Ok(best)
    }
}

/// The time-stamp counter of the host.
pub(crate) fn host_tsc() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 CPU.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probing_tells_the_two_kinds_of_host_apart_by_what_they_do() {
        let host = Host::open().unwrap();
        let facts = host.facts();
        println!("{facts:?}");
        // On both known kinds these go together; a third kind would be news.
        assert_eq!(facts.syscall_faults, facts.dirty_bits == DirtyBits::Sticky);
        assert!(facts.thread_change < Duration::from_secs(1));
    }
}
