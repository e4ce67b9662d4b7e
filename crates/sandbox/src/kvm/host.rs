//! /dev/kvm as this process found it: one handle, and the facts that decide how VMs are run.
//! Facts are found by trying, never by the names of CPUs or modules.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;
use parking_lot::Mutex;

use super::probe;
use super::system::BUSY_TSS;
use crate::deadline::Deadlines;
use crate::memory::DirtyBits;

/// A thread change above this makes it worth giving each VM a thread of its own.
const CHEAP_THREAD_CHANGE: Duration = Duration::from_micros(500);

/// Our fault: the host does not do what a VM needs. The VM at hand is thrown away.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// /dev/kvm cannot be opened.
    #[error("cannot open /dev/kvm: {_0}: {}", advice(_0))]
    Open(io::Error),
    /// An ioctl failed.
    #[error("KVM refused {call}: {error}")]
    Call {
        call: &'static str,
        error: io::Error,
    },
    /// Memory for a VM could not be had.
    #[error("cannot set up guest memory: {0}")]
    Memory(#[from] io::Error),
    /// Something that every CPU of the last ten years has is missing.
    #[error("this CPU (or its KVM) lacks {0}, which every program needs")]
    Missing(&'static str),
    /// The rest is for varnishd's clients.
    #[error(
        "this process may have {limit} file descriptors, and three quarters are taken: raise that \
         (ulimit -n, LimitNOFILE= of systemd)"
    )]
    Descriptors { limit: u64 },
    /// A VM did something that no guest should be able to cause.
    #[error("a VM stopped in a way that no program should be able to cause: {0}")]
    Broken(String),
}

/// What to do when /dev/kvm cannot be opened. Short: a line of Varnish's log has 255 bytes.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "give user vcache, as which Varnish's child runs, access to it, or try varnishd -j none \
             (docs/operations.md)"
        }
        _ => "load the KVM module; the machine must offer virtualization (docs/operations.md)",
    }
}

impl HostError {
    pub(crate) fn call(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Call {
            call,
            error: io::Error::from_raw_os_error(error.errno()),
        }
    }
}

/// What probing found. On a host with hardware paging the first is `Fresh`; under PVM `Sticky`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// What becomes of dirty bits that the host clears.
    pub dirty_bits: DirtyBits,
    /// SYSCALL stays in user mode and arrives as a page fault.
    pub syscall_faults: bool,
    /// The guest's RDTSC is the host's.
    pub shared_tsc: bool,
    /// CPUID in user mode shows the host's CPU, whatever table the virtual CPU was given.
    pub native_cpuid: bool,
    /// How long the first run on another thread takes.
    pub thread_change: Duration,
}

impl Facts {
    /// Whether any thread may run any VM; otherwise each VM needs a thread of its own.
    pub fn thread_change_is_cheap(&self) -> bool {
        self.thread_change < CHEAP_THREAD_CHANGE
    }
}

/// The machine that VMs run on. One per process.
#[derive(Debug)]
pub struct Host {
    pub(super) kvm: Kvm,
    cpuid: CpuId,
    short_cpuid: CpuId,
    cpuid_is_native: AtomicBool,
    pub(super) xcr0: u64,
    pub(crate) deadlines: Arc<Deadlines>,
    facts: OnceLock<Facts>,
    tsc_khz: AtomicU64,
    tss_type: AtomicU8,
    tsc_needs_offset: AtomicBool,
}

static HOST: Mutex<Option<Arc<Host>>> = Mutex::new(None);

impl Host {
    /// The process's host; the first call opens /dev/kvm, probes it (some 20 ms) and starts the
    /// deadline thread. A failure is not remembered: the next call tries again.
    pub fn open() -> Result<Arc<Self>, HostError> {
        let mut slot = HOST.lock();
        if let Some(host) = &*slot {
            return Ok(Arc::clone(host));
        }
        let kvm = Kvm::new()
            .map_err(|error| HostError::Open(io::Error::from_raw_os_error(error.errno())))?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(HostError::call("KVM_GET_SUPPORTED_CPUID"))?;
        let xcr0 = usable_xcr0(&cpuid)?;
        let deadlines = Deadlines::start()?;
        let host = Arc::new(Self {
            kvm,
            short_cpuid: short(&cpuid)?,
            cpuid,
            cpuid_is_native: AtomicBool::new(false),
            xcr0,
            deadlines,
            facts: OnceLock::new(),
            tsc_khz: AtomicU64::new(0),
            tss_type: AtomicU8::new(BUSY_TSS),
            tsc_needs_offset: AtomicBool::new(false),
        });
        let facts = probe::probe(&host)?;
        let _ = host.facts.set(facts);
        *slot = Some(Arc::clone(&host));
        Ok(host)
    }

    /// What probing found.
    pub fn facts(&self) -> &Facts {
        // Until the probe is through, the assumptions that hold everywhere.
        const CAUTIOUS: Facts = Facts {
            dirty_bits: DirtyBits::Sticky,
            syscall_faults: false,
            shared_tsc: false,
            native_cpuid: false,
            thread_change: Duration::ZERO,
        };
        self.facts.get().unwrap_or(&CAUTIOUS)
    }

    /// The table of features for a new virtual CPU. Where the guest does not see it, it is as short
    /// as KVM's own checks allow: PVM looks every entry up in the host's CPU, at 4 to 7 us each.
    pub(super) fn cpuid(&self) -> &CpuId {
        if self.cpuid_is_native.load(Ordering::Relaxed) {
            &self.short_cpuid
        } else {
            &self.cpuid
        }
    }

    pub(super) fn set_cpuid_is_native(&self, native: bool) {
        self.cpuid_is_native.store(native, Ordering::Relaxed);
    }

    /// The type of task-state segment with which this CPU honours the I/O permission bitmap.
    pub(super) fn tss_type(&self) -> u8 {
        self.tss_type.load(Ordering::Relaxed)
    }

    pub(super) fn set_tss_type(&self, tss_type: u8) {
        self.tss_type.store(tss_type, Ordering::Relaxed);
    }

    /// Whether a guest only has the host's TSC after it was asked for.
    pub(super) fn tsc_needs_offset(&self) -> bool {
        self.tsc_needs_offset.load(Ordering::Relaxed)
    }

    pub(super) fn set_tsc_needs_offset(&self, needs: bool) {
        self.tsc_needs_offset.store(needs, Ordering::Relaxed);
    }

    /// How fast the TSC of guests runs, as far as KVM knows; otherwise 0.
    pub(crate) fn tsc_khz(&self) -> u64 {
        self.tsc_khz.load(Ordering::Relaxed)
    }

    pub(super) fn set_tsc_khz(&self, khz: u64) {
        self.tsc_khz.store(khz, Ordering::Relaxed);
    }

    /// CPUID.1:EDX, what AT_HWCAP says.
    pub(crate) fn hwcap(&self) -> u64 {
        let leaf = self
            .cpuid
            .as_slice()
            .iter()
            .find(|entry| entry.function == 1);
        leaf.map_or(0, |entry| u64::from(entry.edx))
    }
}

/// What KVM itself wants to know of a CPU: long mode, address widths, XSAVE and its state.
fn short(cpuid: &CpuId) -> Result<CpuId, HostError> {
    let entries: Vec<_> = cpuid
        .as_slice()
        .iter()
        .filter(|entry| {
            matches!(
                (entry.function, entry.index),
                (0 | 1 | 0xd | 0x8000_0000 | 0x8000_0001 | 0x8000_0008, 0)
            )
        })
        .copied()
        .collect();
    CpuId::from_entries(&entries).map_err(|error| HostError::Broken(format!("CPUID: {error}")))
}

/// The extended state that guests get: x87, SSE, AVX and AVX-512 as far as the host has them.
fn usable_xcr0(cpuid: &CpuId) -> Result<u64, HostError> {
    const X87_SSE: u64 = 0b11;
    const WANTED: u64 = X87_SSE | 1 << 2 | 0b111 << 5;
    let find = |function, index| {
        let mut entries = cpuid.as_slice().iter();
        entries.find(|entry| entry.function == function && entry.index == index)
    };
    let leaf = find(0xd, 0).ok_or(HostError::Missing("XSAVE"))?;
    let supported = u64::from(leaf.eax) & WANTED;
    if supported & X87_SSE != X87_SSE {
        return Err(HostError::Missing("XSAVE of SSE state"));
    }
    // AVX-512 is all of its three parts or none.
    const AVX512: u64 = 0b111 << 5;
    Ok(if supported & AVX512 == AVX512 {
        supported
    } else {
        supported & !AVX512
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_about_dev_kvm_fits_into_a_log_line_with_all_that_stands_before_it() {
        for number in [libc::EACCES, libc::ENOENT, libc::ENODEV] {
            let text = HostError::Open(io::Error::from_raw_os_error(number)).to_string();
            assert!(text.len() <= 170, "{text}");
        }
    }
}
