//! A request body on its way into guest memory, where it is collected: programs that take it in
//! parts get it from `stream_post.rs`. It goes there in the chunks it arrives in and is never held by
//! the host.
//!
//! Guards: the room grows by doubling where that fits, up to what the program may use, and what was
//! announced is only believed up to that.

use sandbox::{AccessError, AccessKind, GuestVirt, MapError, Place, Protection, Vm};

use crate::{exchange::Limit, request_abi::Content};

/// Bodies up to this size lie in the request area, where they cost no mapping.
const SMALL: u64 = 64 << 10;
/// The first mapping for a body of unknown length.
const FIRST: u64 = 256 << 10;
/// More than this no program gets in one piece; upstream's limit.
const MOST: u64 = 512 << 20;

/// Why a body was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is bigger than the program may use.
    #[error("it is bigger than {}", told(*limit))]
    TooLarge { limit: u64 },
    /// The VM has no room left for it.
    #[error("no room for the request body: {0}")]
    NoRoom(MapError),
    /// The VM's memory could not be written, which is our fault.
    #[error("the request body could not be written: {0}")]
    Unwritable(#[from] AccessError),
    /// The program said that it had taken another number of bytes than it was given.
    #[error("the program was given {len} bytes of it and took {returned}")]
    NotTaken { returned: i64, len: u64 },
    /// The program failed while it took a part.
    #[error("the program failed while it took it: {told}{}", out_of_time.map(|limit| format!(" ({limit})")).unwrap_or_default())]
    Failed {
        told: String,
        out_of_time: Option<Limit>,
    },
    /// A part came before the request that it belongs to.
    #[error("it came before its request")]
    NotBegun,
    /// `handle` was called before, or the VM broke.
    #[error("the request is over")]
    Over,
}

fn told(limit: u64) -> String {
    if limit == MOST {
        format!("the {limit} bytes that a program gets in one piece")
    } else {
        format!("the program's request memory of {limit} bytes (max_request_memory)")
    }
}

/// Whether a program that may use `max` bytes gets a body of that length in one piece: what it gets
/// at most.
pub(crate) fn check(len: u64, max: u64) -> Result<u64, BodyError> {
    let limit = max.min(MOST);
    if len > limit {
        return Err(BodyError::TooLarge { limit });
    }
    Ok(limit)
}

/// A body that has begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body {
    at: GuestVirt,
    len: u64,
    room: u64,
    mapped: bool,
    rest: u64,
}

impl Body {
    /// Leaves the program `rest` of the bytes that it may use.
    pub(crate) fn begin(rest: u64) -> Self {
        Self {
            rest,
            at: GuestVirt::default(),
            len: 0,
            room: 0,
            mapped: false,
        }
    }

    /// So many bytes went to the program and are not kept.
    pub(crate) fn passed(&mut self, len: u64) {
        self.len = self.len.saturating_add(len);
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Where the guest finds it; nowhere when it is empty.
    pub(crate) fn content(&self) -> Option<Content> {
        (self.len > 0).then_some(Content {
            at: self.at,
            len: self.len,
        })
    }

    /// Makes room for `expected` bytes in total.
    pub(crate) fn expect(&mut self, vm: &mut Vm, expected: u64, max: u64) -> Result<(), BodyError> {
        let limit = check(expected, max)?;
        if expected <= self.room {
            return Ok(());
        }
        if self.room == 0
            && expected <= SMALL
            && let Ok(at) = vm.request_alloc(expected)
        {
            (self.at, self.room) = (at, expected);
            return Ok(());
        }
        self.map(vm, expected, limit)
    }

    pub(crate) fn push(&mut self, vm: &mut Vm, chunk: &[u8], max: u64) -> Result<(), BodyError> {
        vm.memory_mut().leave_free(Some(self.rest));
        let pushed = self.add(vm, chunk, max);
        vm.memory_mut().leave_free(None);
        pushed
    }

    fn add(&mut self, vm: &mut Vm, chunk: &[u8], max: u64) -> Result<(), BodyError> {
        let limit = max.min(MOST);
        let len = u64::try_from(chunk.len())
            .ok()
            .and_then(|len| self.len.checked_add(len))
            .ok_or(BodyError::TooLarge { limit })?;
        if len > self.room {
            let wanted = len
                .max(self.room.saturating_mul(2))
                .max(FIRST)
                .min(limit.max(len));
            // What is missing for more may still be enough for this.
            self.expect(vm, wanted, max)
                .or_else(|_| self.expect(vm, len, max))?;
        }
        let place = self
            .at
            .checked_add(self.len)
            .ok_or(BodyError::TooLarge { limit })?;
        let written = vm.memory_mut().write(place, chunk);
        written.map_err(|error| match error.kind {
            AccessKind::NoRoom => BodyError::TooLarge { limit },
            _ => BodyError::Unwritable(error),
        })?;
        self.len = len;
        Ok(())
    }

    /// Gives the room back in a VM that is not reset. What lies in the request area is overwritten.
    pub(crate) fn release(self, vm: &mut Vm) -> Result<(), MapError> {
        if self.mapped {
            vm.memory_mut().unmap(self.at, self.room)?;
        }
        Ok(())
    }

    fn map(&mut self, vm: &mut Vm, room: u64, limit: u64) -> Result<(), BodyError> {
        let memory = vm.memory_mut();
        let no_room = |error| match error {
            MapError::NoMemory => BodyError::TooLarge { limit },
            other => BodyError::NoRoom(other),
        };
        if self.mapped {
            self.at = memory
                .remap(self.at, self.room, room, true)
                .map_err(no_room)?;
        } else {
            let at = memory
                .map(Place::Anywhere, room, Protection::READ_WRITE)
                .map_err(no_room)?;
            if self.len > 0 {
                let max = usize::try_from(SMALL).unwrap_or(0);
                let begun = memory.read_bytes(self.at, self.len, max)?;
                memory.write(at, &begun)?;
            }
            self.at = at;
            self.mapped = true;
        }
        self.room = room.next_multiple_of(sandbox::PAGE_SIZE);
        Ok(())
    }
}
