//! The bytes of kernel/kernel.S, which the host copies into every guest.

use core::ptr::addr_of;

unsafe extern "C" {
    static tinykvm_kernel_begin: [u8; 0];
    static tinykvm_kernel_end: [u8; 0];
    static tinykvm_stubs_begin: [u8; 0];
    static tinykvm_stubs_end: [u8; 0];
    static tinykvm_entry_points: EntryPoints;
    static tinykvm_probe_begin: [u8; 0];
    static tinykvm_probe_end: [u8; 0];
}

/// Offsets of the entry points: the first four from the in-guest kernel's page, the others from
/// the stubs' page.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryPoints {
    /// Where SYSCALL lands; the kernel's page starts with it.
    pub syscall: u64,
    /// An `iretq`: how the host gets from anywhere into user mode.
    pub enter: u64,
    /// The handler of vector 14.
    pub page_fault: u64,
    /// The handlers of vectors 0 to 31, four bytes each.
    pub exceptions: u64,
    /// Starts user code as the frame page says.
    pub entry_stub: u64,
    /// What callbacks return to.
    pub exit_stub: u64,
}

/// The in-guest kernel, for `TINYKVM_KERNEL`.
pub fn kernel() -> &'static [u8] {
    between(
        addr_of!(tinykvm_kernel_begin).cast(),
        addr_of!(tinykvm_kernel_end).cast(),
    )
}

/// The user-mode stubs, for `TINYKVM_STUBS`.
pub fn stubs() -> &'static [u8] {
    between(
        addr_of!(tinykvm_stubs_begin).cast(),
        addr_of!(tinykvm_stubs_end).cast(),
    )
}

/// The probe program.
pub fn probe() -> &'static [u8] {
    between(
        addr_of!(tinykvm_probe_begin).cast(),
        addr_of!(tinykvm_probe_end).cast(),
    )
}

/// Where things are in [`kernel`] and [`stubs`].
pub fn entry_points() -> EntryPoints {
    // SAFETY: six constant words in read-only data, laid out as the structure is.
    unsafe { tinykvm_entry_points }
}

fn between(begin: *const u8, end: *const u8) -> &'static [u8] {
    let len = end.addr().saturating_sub(begin.addr());
    // SAFETY: both labels bound one stretch of read-only data in kernel.S, `begin` first.
    unsafe { core::slice::from_raw_parts(begin, len) }
}
