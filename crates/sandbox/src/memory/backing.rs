//! The host memory behind a VM's guest-physical addresses, and nothing about what lies in it.
//!
//! ```text
//!   |  memfd, shared (main VM) or private (request VM)  |  anonymous (request VM)  |  shared memfd  |
//!   GPA 0                                              image_len             shared_from          len
//! ```
//!
//! The last part, which most programs have not, is the same memory in all VMs of a program: what the host
//! reads there may be another value the next time it looks, also while this VM does not run.
//!
//! Two rules: no Rust reference to this memory exists, ever (the guest and the CPU write to it),
//! and every offset is checked here, whoever computed it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

use crate::address::{GuestPhys, PAGE_SIZE};
use crate::arith::{to_u64, to_usize};

/// A line of the CPU's caches.
type Line = [u64; 8];
const LINE_BYTES: u64 = 64;
const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// Maps a file from its start, or zeroed memory, without reserving swap.
fn mmap(
    at: *mut u8,
    len: u64,
    prot: i32,
    flags: i32,
    file: Option<&File>,
) -> io::Result<NonNull<u8>> {
    let fd = file.map_or(-1, AsRawFd::as_raw_fd);
    let flags = flags | libc::MAP_NORESERVE;
    // SAFETY: callers that pass MAP_FIXED replace a part of a mapping that they have just made and
    // nobody else knows; without it the kernel touches nothing that is mapped already.
    let base = unsafe { libc::mmap(at.cast(), to_usize(len), prot, flags, fd, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// One VM's guest-physical memory in this process.
#[derive(Debug)]
pub(crate) struct Backing {
    base: NonNull<u8>,
    len: u64,
    shared_from: u64,
}

/// Memory that all VMs of a program have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) file: File,
    pub(crate) len: u64,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Backing {}
// SAFETY: all access goes through volatile or whole-range copies of plain bytes; what races with
// the guest's own writes is a value that is checked as hostile anyway.
unsafe impl Sync for Backing {}

impl Backing {
    /// Maps `file` shared and writable: the memory of a main VM, the image in the making.
    pub(crate) fn shared(file: &File, len: u64, common: Option<&Shared>) -> io::Result<Self> {
        let flags = libc::MAP_SHARED;
        Self::map(file, len, len, READ_WRITE, flags, common)
    }

    /// Maps `file` shared and read-only: where resets copy from.
    pub(crate) fn read_only(file: &File, len: u64) -> io::Result<Self> {
        Self::map(file, len, len, libc::PROT_READ, libc::MAP_SHARED, None)
    }

    /// Maps `file` copy-on-write, followed by zeroed anonymous memory up to `len`.
    pub(crate) fn private(
        file: &File,
        image_len: u64,
        len: u64,
        common: Option<&Shared>,
    ) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE;
        Self::map(file, image_len, len, READ_WRITE, flags, common)
    }

    fn map(
        file: &File,
        image_len: u64,
        len: u64,
        prot: i32,
        flags: i32,
        common: Option<&Shared>,
    ) -> io::Result<Self> {
        if let Some(common) = common {
            return Self::map_with_common(file, image_len, len, prot, flags, common);
        }
        if image_len == 0 || image_len > len || !len.is_multiple_of(PAGE_SIZE) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let base = match Self::map_below_tail(file, image_len, len, prot, flags) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                Self::map_over_whole(file, image_len, len, prot, flags)?
            }
            other => other?,
        };
        Ok(Self {
            base,
            len,
            shared_from: len,
        })
    }

    /// Maps all of it, and the common memory over its end.
    fn map_with_common(
        file: &File,
        image_len: u64,
        len: u64,
        prot: i32,
        flags: i32,
        common: &Shared,
    ) -> io::Result<Self> {
        let whole = len
            .checked_add(common.len)
            .filter(|whole| whole.is_multiple_of(PAGE_SIZE) && image_len > 0 && image_len <= len)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // Dropped, and with it unmapped, if the rest fails.
        let backing = Self {
            base: Self::map_over_whole(file, image_len, whole, prot, flags)?,
            len: whole,
            shared_from: len,
        };
        let at = backing.base.as_ptr().wrapping_add(to_usize(len));
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        mmap(at, common.len, READ_WRITE, flags, Some(&common.file))?;
        Ok(backing)
    }

    /// Maps the tail where the kernel likes, and the file right below it, where as a rule nothing
    /// is. Nothing is replaced: each replacement is told to every VM of the process (the MMU
    /// notifiers of KVM), which makes the hundredth fork slower than the first.
    fn map_below_tail(
        file: &File,
        image_len: u64,
        len: u64,
        prot: i32,
        flags: i32,
    ) -> io::Result<NonNull<u8>> {
        let tail_len = len - image_len;
        if tail_len == 0 {
            return mmap(ptr::null_mut(), len, prot, flags, Some(file));
        }
        let tail = mmap(ptr::null_mut(), tail_len, prot, ANONYMOUS, None)?;
        let below = tail.as_ptr().wrapping_sub(to_usize(image_len));
        let image = mmap(
            below,
            image_len,
            prot,
            flags | libc::MAP_FIXED_NOREPLACE,
            Some(file),
        );
        if image.is_err() {
            // SAFETY: the tail was mapped above and nobody knows of it.
            unsafe { libc::munmap(tail.as_ptr().cast(), to_usize(tail_len)) };
        }
        image
    }

    /// Maps all of it anonymously, and the file over its start.
    fn map_over_whole(
        file: &File,
        image_len: u64,
        len: u64,
        prot: i32,
        flags: i32,
    ) -> io::Result<NonNull<u8>> {
        let base = mmap(ptr::null_mut(), len, prot, ANONYMOUS, None)?;
        let image = mmap(
            base.as_ptr(),
            image_len,
            prot,
            flags | libc::MAP_FIXED,
            Some(file),
        );
        if image.is_err() {
            // SAFETY: mapped above, and nobody knows of it.
            unsafe { libc::munmap(base.as_ptr().cast(), to_usize(len)) };
        }
        image
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Where the memory begins that all VMs of the program share; `len` where there is none.
    pub(crate) fn shared_from(&self) -> u64 {
        self.shared_from
    }

    /// Where the mapping starts, for the memory slot.
    pub(crate) fn host_address(&self) -> u64 {
        to_u64(self.base.as_ptr().addr())
    }

    /// The host pointer of `len` bytes at `at`, if they exist.
    pub(crate) fn pointer(&self, at: GuestPhys, len: u64) -> Option<*mut u8> {
        let end = at.raw().checked_add(len)?;
        if end > self.len {
            return None;
        }
        // SAFETY: `at` was just checked to lie within the mapping.
        Some(unsafe { self.base.as_ptr().add(to_usize(at.raw())) })
    }

    /// Copies guest memory out. False: the range does not exist.
    pub(crate) fn copy_out(&self, at: GuestPhys, out: &mut [u8]) -> bool {
        let Some(from) = self.pointer(at, to_u64(out.len())) else {
            return false;
        };
        // SAFETY: `from` is valid for the length (checked), `out` is ordinary host memory.
        unsafe { ptr::copy_nonoverlapping(from.cast_const(), out.as_mut_ptr(), out.len()) };
        true
    }

    /// Copies into guest memory. False: the range does not exist.
    pub(crate) fn copy_in(&self, at: GuestPhys, data: &[u8]) -> bool {
        let Some(to) = self.pointer(at, to_u64(data.len())) else {
            return false;
        };
        // SAFETY: `to` is valid for the length (checked), `data` is ordinary host memory.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
        true
    }

    /// Fills with zeros. False: the range does not exist.
    pub(crate) fn zero(&self, at: GuestPhys, len: u64) -> bool {
        let Some(to) = self.pointer(at, len) else {
            return false;
        };
        // SAFETY: `to` is valid for `len` bytes (checked).
        unsafe { ptr::write_bytes(to, 0, to_usize(len)) };
        true
    }

    /// Copies one page from the same place of another mapping. False: one of them has no such page.
    pub(crate) fn copy_page_from(&self, other: &Self, at: GuestPhys) -> bool {
        let (Some(to), Some(from)) = (self.pointer(at, PAGE_SIZE), other.pointer(at, PAGE_SIZE))
        else {
            return false;
        };
        // SAFETY: both pointers are valid for a page and belong to different mappings.
        unsafe { ptr::copy_nonoverlapping(from.cast_const(), to, to_usize(PAGE_SIZE)) };
        true
    }

    /// One naturally aligned 64-bit word, or 0 where there is no memory.
    pub(crate) fn word(&self, at: GuestPhys) -> u64 {
        match self.pointer(at, 8) {
            // SAFETY: valid for 8 bytes (checked); page-table entries are 8-byte aligned.
            Some(from) if at.raw().is_multiple_of(8) => unsafe {
                from.cast::<u64>().read_volatile()
            },
            _ => 0,
        }
    }

    /// Sets one naturally aligned 64-bit word.
    pub(crate) fn set_word(&self, at: GuestPhys, value: u64) {
        if let Some(to) = self.pointer(at, 8)
            && at.raw().is_multiple_of(8)
        {
            // SAFETY: valid for 8 bytes (checked) and aligned.
            unsafe { to.cast::<u64>().write_volatile(value) };
        }
    }

    /// Calls `found` with the place and value of each word of a page that has all bits of `mask`. Looks
    /// only at the cache lines of the page that have a bit in `lines`.
    pub(crate) fn matching_words(
        &self,
        page: GuestPhys,
        lines: u64,
        mask: u64,
        found: &mut dyn FnMut(GuestPhys, u64),
    ) {
        let mut left = lines;
        while left != 0 {
            let line = u64::from(left.trailing_zeros());
            left &= left - 1;
            let words = self.line(page, line);
            // Few pages are dirty: a line at a time that cannot have any is quick.
            if words.iter().fold(0, |all, word| all | word) & mask != mask {
                continue;
            }
            for (index, value) in (0..).zip(words) {
                if value & mask == mask {
                    let at = page.raw() + line * LINE_BYTES + index * 8;
                    found(GuestPhys::new(at), value);
                }
            }
        }
    }

    /// The cache lines of a page in which a word has one of the bits of `mask`, a bit for each.
    pub(crate) fn lines_with(&self, page: GuestPhys, mask: u64) -> u64 {
        (0..64)
            .filter(|line| self.line(page, *line).iter().any(|word| word & mask != 0))
            .fold(0, |lines, line| lines | 1 << line)
    }

    /// A cache line of a page, or zeros where there is no memory.
    fn line(&self, page: GuestPhys, line: u64) -> Line {
        match self.pointer(page, PAGE_SIZE) {
            Some(start) if page.page_offset() == 0 && line < PAGE_SIZE / LINE_BYTES => {
                let line = start.wrapping_add(to_usize(line * LINE_BYTES));
                // SAFETY: inside the page (checked), and aligned because the page is.
                unsafe { line.cast::<Line>().read_volatile() }
            }
            _ => Line::default(),
        }
    }

    /// Makes KVM forget its translations of these pages, so that the next guest access walks the
    /// guest's page tables again. Taking write permission away for a moment is what tells the MMU
    /// notifier; the content stays. KVM rule we depend on: outside edits of page tables that take
    /// rights away are otherwise not seen on hosts with shadow paging.
    pub(crate) fn forget_translations(&self, at: GuestPhys, len: u64) -> io::Result<()> {
        let Some(start) = self.pointer(at, len) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        // Both, also after an error: a part may have been changed, and the host writes there.
        let [taken, given] = [libc::PROT_READ, READ_WRITE].map(|prot| {
            // SAFETY: the range lies in our mapping (checked); no VCPU runs while we edit.
            match unsafe { libc::mprotect(start.cast(), to_usize(len), prot) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
        taken.and(given)
    }

    /// Drops private pages: the range reads as the image (or zeros) again. Also drops KVM's
    /// translations of them.
    pub(crate) fn drop_private(&self, at: GuestPhys, len: u64) -> io::Result<()> {
        self.advise(at, len, libc::MADV_DONTNEED)
    }

    /// Says that large pages are welcome, which is all that can be done about it.
    pub(crate) fn prefer_large_pages(&self) {
        let _as_the_host_likes = self.advise(GuestPhys::new(0), self.len, libc::MADV_HUGEPAGE);
    }

    /// Punches a hole into the memfd: the range reads as zeros and takes no memory.
    pub(crate) fn punch_hole(&self, at: GuestPhys, len: u64) -> io::Result<()> {
        self.advise(at, len, libc::MADV_REMOVE)
    }

    fn advise(&self, at: GuestPhys, len: u64, advice: i32) -> io::Result<()> {
        let Some(start) = self.pointer(at, len) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        // SAFETY: the range lies in our mapping (checked); dropped pages are never referenced.
        if unsafe { libc::madvise(start.cast(), to_usize(len), advice) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        // SAFETY: this is our mapping and nothing refers to it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), to_usize(self.len)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_file_comes_first_and_zeroes_behind_it_however_they_are_mapped() {
        let (image_len, len) = (2 * PAGE_SIZE, 6 * PAGE_SIZE);
        let path = std::env::temp_dir().join(format!("backing-{}", std::process::id()));
        let mut file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(path).unwrap();
        file.write_all(&vec![7; to_usize(image_len)]).unwrap();
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        for way in [Backing::map_below_tail, Backing::map_over_whole] {
            let base = way(&file, image_len, len, prot, libc::MAP_PRIVATE).unwrap();
            let backing = Backing {
                base,
                len,
                shared_from: len,
            };
            let mut content = vec![1; to_usize(len)];
            let from = backing.pointer(GuestPhys::new(0), len).unwrap();
            // SAFETY: `len` bytes are mapped at `from`, and nobody writes to them.
            unsafe { ptr::copy_nonoverlapping(from, content.as_mut_ptr(), content.len()) };
            let (image, tail) = content.split_at(to_usize(image_len));
            assert!(image.iter().all(|byte| *byte == 7));
            assert!(tail.iter().all(|byte| *byte == 0));
        }
    }
}
