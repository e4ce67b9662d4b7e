//! Access to guest memory on a guest's behalf: every address is the guest's choice, so every page
//! is looked up in its tables with its own rights, and data is copied, never borrowed.

use super::edits::mark_written;
use super::paging::{self, DIRTY, Denied};
use super::{AccessError, AccessKind, Memory};
use crate::address::{GuestVirt, PAGE_SIZE};
use crate::arith::{to_u64, to_usize};

/// A stretch of guest memory as the host's own I/O reads it. Valid until the VM is next run,
/// reset or dropped; the content is whatever the guest left there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where it starts in this process.
    pub ptr: *const u8,
    /// Its length in bytes.
    pub len: usize,
}

// SAFETY: a piece is an address and a length; whoever dereferences it vouches for the VM.
unsafe impl Send for Piece {}

/// A stretch of guest memory that the host's own I/O may fill. Valid as [`Piece`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceMut {
    /// Where it starts in this process.
    pub ptr: *mut u8,
    /// Its length in bytes.
    pub len: usize,
}

impl Memory {
    /// Fills `out` from guest memory.
    pub fn read(&self, at: GuestVirt, out: &mut [u8]) -> Result<(), AccessError> {
        let mut rest = out;
        self.each_page(at, to_u64(rest.len()), false, |memory, frame, len| {
            let whole = std::mem::take(&mut rest);
            let (now, later) = whole.split_at_mut(len.min(whole.len()));
            rest = later;
            memory.backing.copy_out(frame, now)
        })
    }

    /// Copies `data` into guest memory that the guest itself may write.
    pub fn write(&mut self, at: GuestVirt, data: &[u8]) -> Result<(), AccessError> {
        let mut rest = data;
        self.each_page(at, to_u64(rest.len()), true, |memory, frame, len| {
            let (now, later) = rest.split_at(len.min(rest.len()));
            rest = later;
            memory.backing.copy_in(frame, now)
        })
    }

    /// Copies `data` over guest memory that the guest may only read, as a debugger does. A reset
    /// undoes it as any other write.
    pub(crate) fn poke(&mut self, at: GuestVirt, data: &[u8]) -> Result<(), AccessError> {
        let mut va = at;
        let mut rest = data;
        while !rest.is_empty() {
            let error = AccessError {
                address: va,
                len: to_u64(rest.len()),
                kind: AccessKind::Unmapped,
            };
            let room = to_usize(PAGE_SIZE - va.page_offset());
            let (now, later) = rest.split_at(rest.len().min(room));
            let found = paging::entry_for(&self.backing, va, false);
            let (leaf, entry) = found.map_err(|_| error)?;
            let place = paging::frame_of(entry).checked_add(va.page_offset());
            let place = place.ok_or(error)?;
            if va.raw() < crate::layout::USER_BEGIN {
                return Err(error);
            }
            mark_written(&self.backing, &mut self.role, va, leaf);
            if !self.backing.copy_in(place, now) {
                return Err(error);
            }
            va = va.checked_add(to_u64(now.len())).ok_or(error)?;
            rest = later;
        }
        Ok(())
    }

    /// Zeroes guest memory that the guest itself may write.
    pub fn fill_zero(&mut self, at: GuestVirt, len: u64) -> Result<(), AccessError> {
        self.each_page(at, len, true, |memory, frame, len| {
            memory.backing.zero(frame, to_u64(len))
        })
    }

    /// Reads a little-endian 32-bit number.
    pub fn read_u32(&self, at: GuestVirt) -> Result<u32, AccessError> {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads a little-endian 64-bit number.
    pub fn read_u64(&self, at: GuestVirt) -> Result<u64, AccessError> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a little-endian 32-bit number.
    pub fn write_u32(&mut self, at: GuestVirt, value: u32) -> Result<(), AccessError> {
        self.write(at, &value.to_le_bytes())
    }

    /// Writes a little-endian 64-bit number.
    pub fn write_u64(&mut self, at: GuestVirt, value: u64) -> Result<(), AccessError> {
        self.write(at, &value.to_le_bytes())
    }

    /// Copies `len` bytes out, or says [`AccessKind::TooLong`] where they are more than `max`.
    pub fn read_bytes(&self, at: GuestVirt, len: u64, max: usize) -> Result<Vec<u8>, AccessError> {
        if len > to_u64(max) {
            return Err(AccessError {
                address: at,
                len,
                kind: AccessKind::TooLong,
            });
        }
        let mut bytes = vec![0; to_usize(len)];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// Copies a C string out, without its NUL; [`AccessKind::TooLong`] where no NUL comes within
    /// `max` bytes.
    pub fn read_cstr(&self, at: GuestVirt, max: usize) -> Result<Vec<u8>, AccessError> {
        let mut text = Vec::new();
        let mut page = [0; to_usize(PAGE_SIZE)];
        let mut next = at;
        while text.len() <= max {
            let len = to_usize(PAGE_SIZE - next.page_offset());
            let Some(chunk) = page.get_mut(..len) else {
                break;
            };
            self.read(next, chunk)?;
            if let Some(end) = chunk.iter().position(|&byte| byte == 0) {
                text.extend(chunk.iter().take(end));
                if text.len() > max {
                    break;
                }
                return Ok(text);
            }
            text.extend_from_slice(chunk);
            next = next.checked_add(to_u64(len)).ok_or(AccessError {
                address: at,
                len: to_u64(text.len()),
                kind: AccessKind::Unmapped,
            })?;
        }
        Err(AccessError {
            address: at,
            len: to_u64(max),
            kind: AccessKind::TooLong,
        })
    }

    /// Appends the host's view of readable guest memory to `out`, merged where it is contiguous.
    pub fn pieces(
        &self,
        at: GuestVirt,
        len: u64,
        max_pieces: usize,
        out: &mut Vec<Piece>,
    ) -> Result<(), AccessError> {
        self.each_run(at, len, false, |ptr, len| {
            if let Some(last) = out.last_mut()
                && last.ptr.wrapping_add(last.len) == ptr.cast_const()
            {
                last.len += len;
                return true;
            }
            out.push(Piece { ptr, len });
            out.len() <= max_pieces
        })
    }

    /// Appends the host's view of writable guest memory to `out`; all of it counts as written.
    pub fn pieces_mut(
        &mut self,
        at: GuestVirt,
        len: u64,
        max_pieces: usize,
        out: &mut Vec<PieceMut>,
    ) -> Result<(), AccessError> {
        self.each_run(at, len, true, |ptr, len| {
            if let Some(last) = out.last_mut()
                && last.ptr.wrapping_add(last.len) == ptr
            {
                last.len += len;
                return true;
            }
            out.push(PieceMut { ptr, len });
            out.len() <= max_pieces
        })
    }

    fn each_run(
        &self,
        at: GuestVirt,
        len: u64,
        write: bool,
        mut visit: impl FnMut(*mut u8, usize) -> bool,
    ) -> Result<(), AccessError> {
        let mut fits = true;
        self.each_page(at, len, write, |memory, frame, len| {
            match memory.backing.pointer(frame, to_u64(len)) {
                Some(ptr) if fits => {
                    fits = visit(ptr, len);
                    true
                }
                Some(_) => true,
                None => false,
            }
        })?;
        if fits {
            Ok(())
        } else {
            Err(AccessError {
                address: at,
                len,
                kind: AccessKind::Fragmented,
            })
        }
    }

    /// Calls `visit` with the physical place and length of each page's share of a range.
    fn each_page(
        &self,
        at: GuestVirt,
        len: u64,
        write: bool,
        mut visit: impl FnMut(&Self, crate::GuestPhys, usize) -> bool,
    ) -> Result<(), AccessError> {
        let error = |kind| AccessError {
            address: at,
            len,
            kind,
        };
        if at.checked_add(len).is_none() {
            return Err(error(AccessKind::Unmapped));
        }
        let mut va = at;
        let mut left = len;
        while left > 0 {
            let (at, entry) = paging::entry_for(&self.backing, va, write).map_err(|denied| {
                error(match denied {
                    Denied::Unmapped => AccessKind::Unmapped,
                    Denied::ReadOnly => AccessKind::ReadOnly,
                })
            })?;
            if write && entry & DIRTY == 0 {
                if !self.has_room_for(paging::frame_of(entry)) {
                    return Err(error(AccessKind::NoRoom));
                }
                paging::mark_dirty(&self.backing, va, at, entry);
            }
            let share = left.min(PAGE_SIZE - va.page_offset());
            let inside = paging::frame_of(entry).checked_add(va.page_offset());
            if !inside.is_some_and(|place| visit(self, place, to_usize(share))) {
                return Err(error(AccessKind::Unmapped));
            }
            left -= share;
            va = va.checked_add(share).ok_or(error(AccessKind::Unmapped))?;
        }
        Ok(())
    }
}
