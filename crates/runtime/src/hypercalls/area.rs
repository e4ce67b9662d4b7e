//! Memory of the guest that the host fills with what comes in: a buffer of the program's, or an area
//! that the host maps for it as mmap(2) would, and that goes with the request like any other.
//!
//! Guards: never more than the program may have; an area that was not handed over is unmapped.

use sandbox::{Fault, GuestVirt, MapError, Memory, PAGE_SIZE, Place, Protection};

/// The first mapping for content of unknown length.
const FIRST: u64 = 64 << 10;

/// Bytes on their way into the guest.
#[derive(Debug)]
pub(super) struct Area {
    at: GuestVirt,
    len: u64,
    room: u64,
    /// Mapped by the host, so that it can grow.
    own: bool,
    /// How far it may grow.
    most: u64,
}

/// It does not fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The program's buffer has so many bytes.
    Buffer(u64),
    /// The program may have no more memory.
    Memory,
}

impl Area {
    /// A buffer of the program's, or, without an address, one of up to `most` bytes that the host
    /// maps.
    pub(super) fn new(at: u64, room: u64, most: u64) -> Self {
        let own = at == 0;
        Self {
            at: GuestVirt::new(at),
            len: 0,
            room: if own { 0 } else { room },
            own,
            most,
        }
    }

    pub(super) fn at(&self) -> u64 {
        self.at.raw()
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Makes room for `len` bytes in all.
    pub(super) fn expect(&mut self, memory: &mut Memory, len: u64) -> Result<(), Full> {
        if len <= self.room {
            return Ok(());
        }
        if !self.own {
            return Err(Full::Buffer(self.room));
        }
        if len > self.most {
            return Err(Full::Memory);
        }
        let at = if self.room == 0 {
            memory.map(Place::Anywhere, len, Protection::READ_WRITE)
        } else {
            memory.remap(self.at, self.room, len, true)
        };
        self.at = at.map_err(|_: MapError| Full::Memory)?;
        self.room = len.next_multiple_of(PAGE_SIZE);
        Ok(())
    }

    pub(super) fn push(
        &mut self,
        memory: &mut Memory,
        part: &[u8],
    ) -> Result<Result<(), Full>, Fault> {
        let len = u64::try_from(part.len())
            .ok()
            .and_then(|part| self.len.checked_add(part));
        let Some(len) = len else {
            return Ok(Err(Full::Memory));
        };
        if len > self.room {
            let wished = len.max(self.room.saturating_mul(2)).max(FIRST);
            // What is missing for more may still be enough for this.
            let grown = self
                .expect(memory, wished)
                .or_else(|_| self.expect(memory, len));
            if let Err(full) = grown {
                return Ok(Err(full));
            }
        }
        let place = GuestVirt::new(self.at.raw().wrapping_add(self.len));
        memory.write(place, part)?;
        self.len = len;
        Ok(Ok(()))
    }

    /// Gives back what is not needed, but for one page, so that there is an address in any case.
    pub(super) fn finish(&mut self, memory: &mut Memory) -> Result<(), Full> {
        if !self.own {
            return Ok(());
        }
        self.expect(memory, self.len.max(1))?;
        let needed = self.len.max(1).next_multiple_of(PAGE_SIZE);
        if needed < self.room
            && let Ok(at) = memory.remap(self.at, self.room, needed, false)
        {
            (self.at, self.room) = (at, needed);
        }
        Ok(())
    }

    /// Unmaps what the program is not going to hear of.
    pub(super) fn discard(self, memory: &mut Memory) {
        if self.own && self.room > 0 {
            // The reset undoes what cannot be unmapped.
            let _reset = memory.unmap(self.at, self.room);
        }
    }
}
