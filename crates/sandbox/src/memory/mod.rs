//! One VM's guest memory: what backs it, its page tables, and what is mapped where.
//!
//! ```text
//! guest-physical
//! 0x0000                unused
//! 0x1000                root page table
//! 0x10000..0x1e000      the sandbox's own pages (tinykvm_layout.h), at the same virtual addresses
//! 0x20000..image_len    program, stack, heap and page tables as the main VM left them
//! image_len..           (request VMs) zeros: request area, request stack, heap for this request
//! ..len                 memory that all VMs of the program share, if it has some
//! ```
//!
//! A main VM's memory is the image in the making. A request VM's is a private view of the image
//! with an anonymous tail; `Memory::reset` makes it look as forked again. Page-table edits of a
//! request are logged and undone by the reset.

mod access;
mod areas;
mod backing;
mod edits;
mod frames;
mod frozen;
mod held;
mod lending;
mod paging;
mod regions;
mod reset;
mod room;
mod space;
mod stacks;
mod stale;
#[cfg(test)]
mod tests;

pub use access::{Piece, PieceMut};
pub use frozen::Frozen;
pub use regions::{Region, Use};
use reset::Burden;
pub use reset::{DirtyBits, Wiped};
pub use stacks::Stack;
pub(crate) use stacks::{GUARD, below};

use std::io;
use std::os::fd::FromRawFd;
use std::sync::Arc;

use crate::address::{GuestPhys, GuestVirt, PAGE_SIZE};
use backing::{Backing, Shared};
use edits::Edit;
use frames::Frames;
use held::Held;
use room::Room;
use space::Space;

/// Where the sandbox's own pages end and frames are handed out.
const FIRST_FRAME: GuestPhys = GuestPhys::new(0x20000);

/// Rights of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection {
    /// Loads are allowed. A mapping with any right can be read on x86.
    pub read: bool,
    /// Stores are allowed.
    pub write: bool,
    /// Instructions may be fetched.
    pub execute: bool,
}

impl Protection {
    /// No access.
    pub const NONE: Self = Self {
        read: false,
        write: false,
        execute: false,
    };
    /// Loads only.
    pub const READ: Self = Self {
        read: true,
        write: false,
        execute: false,
    };
    /// Loads and stores.
    pub const READ_WRITE: Self = Self {
        read: true,
        write: true,
        execute: false,
    };
    /// Loads and instruction fetches.
    pub const READ_EXECUTE: Self = Self {
        read: true,
        write: false,
        execute: true,
    };
}

/// Where a mapping should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Anywhere.
    Anywhere,
    /// There if it is free, otherwise anywhere.
    Hint(GuestVirt),
    /// There, over whatever is there (`MAP_FIXED`).
    Fixed(GuestVirt),
    /// There, or not at all (`MAP_FIXED_NOREPLACE`).
    FixedNoReplace(GuestVirt),
}

/// Why an address range could not be mapped, unmapped or protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Not page-aligned, empty, or outside what user mode may map.
    #[error("invalid address range")]
    Invalid,
    /// No address range, no memory, or (mprotect) something in between is not mapped.
    #[error("not enough memory")]
    NoMemory,
    /// The place is taken.
    #[error("address range is in use")]
    Exists,
    /// The configuration keeps the range for itself.
    #[error("address range is reserved by the configuration")]
    Reserved,
    /// Writable and executable at once, which only `executable_heap` allows.
    #[error("writable and executable at the same time")]
    WriteExecute,
}

/// An address range that the guest itself could not use like that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at {address}: {kind}")]
pub struct AccessError {
    /// Where the range starts.
    pub address: GuestVirt,
    /// Its length in bytes.
    pub len: u64,
    /// What is wrong with it.
    pub kind: AccessKind,
}

/// What is wrong with an address range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccessKind {
    /// Not mapped, or not for user mode.
    #[error("not mapped")]
    Unmapped,
    /// Mapped read-only.
    #[error("read-only")]
    ReadOnly,
    /// Longer than the call allows.
    #[error("too long")]
    TooLong,
    /// In more pieces of host memory than the caller takes.
    #[error("too fragmented")]
    Fragmented,
    /// More pages would be written than the VM may use.
    #[error("beyond the memory limit")]
    NoRoom,
}

/// Who may do what with one of the sandbox's own pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SystemPage {
    /// CPL 0, read and execute.
    KernelCode,
    /// CPL 0, read-only.
    KernelData,
    /// CPL 0, read and write.
    KernelStack,
    /// User mode, read and execute.
    UserCode,
    /// User mode, read-only.
    UserData,
}

/// One VM's guest memory.
#[derive(Debug)]
pub struct Memory {
    backing: Backing,
    space: Arc<Space>,
    role: Role,
    room: Room,
    executable_heap: bool,
}

#[derive(Debug)]
enum Role {
    /// The image in the making: frames are taken and given back.
    Main {
        file: std::fs::File,
        frames: Frames,
        common: Option<Shared>,
    },
    /// A private view of the image: frames are those of the anonymous tail.
    Request {
        frozen: Arc<Frozen>,
        edits: Vec<Edit>,
        dirty: Vec<u32>,
        held: Held,
        /// Page tables were added, or KVM did not forget a translation.
        full_reset_due: bool,
        burden: Burden,
    },
}

impl Role {
    /// Where the page tables may have dirty entries, unless this VM has changed that.
    fn outline(&self) -> Option<&paging::Outline> {
        match self {
            Self::Request {
                frozen,
                edits,
                full_reset_due,
                ..
            } => frozen.outline(edits, *full_reset_due),
            Self::Main { .. } => None,
        }
    }

    /// Whether the page of this entry is as it was handed out, zeros: to write them would make memory
    /// of it.
    fn is_zero(&self, entry: u64) -> bool {
        let frame = paging::frame_of(entry);
        let content = match self {
            Self::Request { frozen, .. } => frozen.has_content(frame.raw() / PAGE_SIZE),
            Self::Main { .. } => false,
        };
        entry & paging::DIRTY == 0 && !content
    }
}

impl Memory {
    /// Memory for a main VM whose program may use `bytes`.
    pub fn new_main(bytes: u64, executable_heap: bool) -> io::Result<Self> {
        Self::new_main_sharing(bytes, 0, executable_heap)
    }

    /// The same, with `shared` bytes more that all VMs of the program have in common.
    pub fn new_main_sharing(bytes: u64, shared: u64, executable_heap: bool) -> io::Result<Self> {
        let tables = paging::table_bytes(bytes / PAGE_SIZE)
            .saturating_add(paging::table_bytes(shared / PAGE_SIZE));
        let len = FIRST_FRAME
            .raw()
            .checked_add(tables)
            .and_then(|len| len.checked_add(bytes)?.checked_next_multiple_of(PAGE_SIZE))
            .ok_or(io::ErrorKind::InvalidInput)?;
        let file = memfd(c"tinykvm-image")?;
        file.set_len(len)?;
        let common = match shared.checked_next_multiple_of(PAGE_SIZE) {
            None => return Err(io::ErrorKind::InvalidInput.into()),
            Some(0) => None,
            Some(len) => {
                let file = memfd(c"tinykvm-shared")?;
                file.set_len(len)?;
                Some(Shared { file, len })
            }
        };
        let backing = Backing::shared(&file, len, common.as_ref())?;
        let frames = Frames::new(FIRST_FRAME, GuestPhys::new(len));
        let mut memory = Self {
            backing,
            space: Arc::new(Space::default()),
            role: Role::Main {
                file,
                frames,
                common,
            },
            room: Room::default(),
            executable_heap,
        };
        memory
            .map_common()
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(memory)
    }

    /// The root page table, for CR3.
    pub(crate) const ROOT: GuestPhys = paging::ROOT;

    /// Gives a main VM one of the sandbox's own pages: virtual and physical address are the same.
    pub(crate) fn add_system_page(
        &mut self,
        at: u64,
        kind: SystemPage,
        content: &[u8],
    ) -> io::Result<()> {
        let slot = self
            .leaf_or_insert(GuestVirt::new(at))
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let bits = match kind {
            SystemPage::KernelCode => 0,
            SystemPage::KernelData => paging::NO_EXECUTE,
            SystemPage::KernelStack => paging::NO_EXECUTE | paging::WRITE,
            SystemPage::UserCode => paging::USER,
            SystemPage::UserData => paging::USER | paging::NO_EXECUTE,
        };
        self.backing
            .set_word(slot, at | bits | paging::PRESENT | paging::ACCESSED);
        let fits = content.len() <= 4096 && self.backing.copy_in(GuestPhys::new(at), content);
        if fits {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::InvalidInput))
        }
    }

    /// Guest-physical size in bytes: what the memory slot spans.
    pub(crate) fn len(&self) -> u64 {
        self.backing.len()
    }

    /// Host address of guest-physical 0.
    pub(crate) fn host_address(&self) -> u64 {
        self.backing.host_address()
    }

    /// Whether the guest may have mappings that are writable and executable.
    pub fn executable_heap(&self) -> bool {
        self.executable_heap
    }

    /// Asks the host for large pages; it may have none.
    pub(crate) fn prefer_large_pages(&self) {
        self.backing.prefer_large_pages();
    }

    /// Reads one of the sandbox's own pages, by physical address.
    pub(crate) fn system_word(&self, at: GuestPhys) -> u64 {
        self.backing.word(at)
    }

    /// Writes to the sandbox's own pages, which the host rewrites and no reset restores.
    pub(crate) fn write_system(&self, at: GuestPhys, data: &[u8]) -> bool {
        self.backing.copy_in(at, data)
    }

    /// Whether user mode may fetch instructions at `at`.
    pub fn is_executable(&self, at: GuestVirt) -> bool {
        paging::is_executable(&self.backing, at)
    }

    /// Whether the program may do what a page fault with this error code was about.
    pub(crate) fn grants(&self, at: GuestVirt, code: u64) -> bool {
        paging::grants(&self.backing, at, code)
    }

    /// Whether the page at `at` was written; takes the dirty bit away. For the probe.
    pub(crate) fn take_dirty_bit(&self, at: GuestVirt) -> bool {
        let Some(slot) = paging::leaf(&self.backing, at) else {
            return false;
        };
        let entry = self.backing.word(slot);
        self.backing.set_word(slot, entry & !paging::DIRTY);
        entry & paging::DIRTY != 0
    }
}

/// An anonymous file that can be sealed.
fn memfd(name: &std::ffi::CStr) -> io::Result<std::fs::File> {
    // SAFETY: `name` is a C string; the result is checked below.
    let fd =
        unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { std::fs::File::from_raw_fd(fd) })
}
