//! Bodies that the host holds because no request VM has them: of answers that wait for the next
//! program of a chain or for VCL, and what the item `fetch` brings.
//!
//! Guards: what has no VM is bounded by no program's `concurrency`, so all such bodies together are
//! bounded here. Those of one program have half of that: none takes the room of all others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

/// For all of them together.
const MOST: u64 = 512 << 20;
/// For those of one program, or of the item `fetch`.
const MOST_OF_ONE: u64 = MOST / 2;
/// Bodies up to this size are not counted, so that they always find room: whoever holds one has a
/// thread, which takes more.
pub const SMALL: u64 = 16 << 10;

static ALL: Room = Room::new(MOST, None);
static FETCHED: LazyLock<Arc<Room>> = LazyLock::new(|| Arc::new(Room::for_one()));

/// How much of the room for all of them is taken.
pub fn detached_bytes() -> u64 {
    ALL.taken.load(Ordering::Relaxed)
}

/// Why the host does not hold a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    #[error("{len} bytes are more than the host keeps of a response")]
    TooLarge { len: u64 },
    #[error(
        "no room for {len} bytes: of responses without a request VM the host keeps {MOST} bytes, {MOST_OF_ONE} of one program's; raise concurrency of the program that they wait for"
    )]
    Taken { len: u64 },
}

/// Bytes that may be taken, within a larger room or not.
#[derive(Debug)]
pub(crate) struct Room {
    most: u64,
    taken: AtomicU64,
    within: Option<&'static Room>,
}

impl Room {
    const fn new(most: u64, within: Option<&'static Room>) -> Self {
        Self {
            most,
            taken: AtomicU64::new(0),
            within,
        }
    }

    /// For one program's answers, within the room for all.
    pub(crate) fn for_one() -> Self {
        Self::new(MOST_OF_ONE, Some(&ALL))
    }

    fn take(&self, len: u64) -> bool {
        let more = |taken: u64| taken.checked_add(len).filter(|sum| *sum <= self.most);
        let relaxed = Ordering::Relaxed;
        if self.taken.fetch_update(relaxed, relaxed, more).is_err() {
            return false;
        }
        let found = self.within.is_none_or(|all| all.take(len));
        if !found {
            self.taken.fetch_sub(len, relaxed);
        }
        found
    }

    fn give_back(&self, len: u64) {
        self.taken.fetch_sub(len, Ordering::Relaxed);
        if let Some(all) = self.within {
            all.give_back(len);
        }
    }
}

/// A body, whole or on its way, and how far it is read. Dropping it gives its room back.
#[derive(Debug, Default)]
pub(crate) struct Detached {
    bytes: Vec<u8>,
    read: usize,
    /// Bytes that there will be at least.
    expected: u64,
    /// Nothing for what is the host's own.
    taken: Option<Taken>,
}

/// What a body has of a room.
#[derive(Debug)]
struct Taken {
    of: Arc<Room>,
    len: u64,
}

impl Taken {
    /// Takes more, up to `len` bytes in total.
    fn raise(&mut self, len: u64) -> Result<(), NoRoom> {
        if len > self.of.most {
            return Err(NoRoom::TooLarge { len });
        }
        let more = len.saturating_sub(self.len);
        if !self.of.take(more) {
            return Err(NoRoom::Taken { len });
        }
        self.len = len;
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.of.give_back(self.len);
    }
}

impl Detached {
    pub(crate) fn new(room: &Arc<Room>) -> Self {
        Self {
            taken: Some(Taken {
                of: Arc::clone(room),
                len: 0,
            }),
            ..Self::default()
        }
    }

    /// What the item `fetch` brings.
    pub(crate) fn fetched() -> Self {
        Self::new(&FETCHED)
    }

    /// A text of the host's own, which is short.
    pub(crate) fn said(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What is left to be read.
    pub(crate) fn rest(&self) -> &[u8] {
        self.bytes.get(self.read..).unwrap_or_default()
    }

    /// Takes room for `len` bytes in total.
    pub(crate) fn expect(&mut self, len: u64) -> Result<(), NoRoom> {
        if len <= self.expected {
            return Ok(());
        }
        if let Some(taken) = &mut self.taken
            && len > SMALL
        {
            taken.raise(len)?;
        }
        self.expected = len;
        Ok(())
    }

    /// Lets `make` write what comes next, up to `most` bytes for which there is room: how much it was.
    /// Memory is taken as it comes: what a program announces is not yet there.
    pub(crate) fn fill<E: From<NoRoom>>(
        &mut self,
        most: usize,
        make: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let begun = self.len();
        let expected = usize::try_from(self.expected).unwrap_or(usize::MAX);
        let most = expected.saturating_sub(begun).min(most);
        if most == 0 {
            return Ok(0);
        }
        let len = self.expected;
        self.bytes
            .try_reserve(most)
            .map_err(|_| NoRoom::TooLarge { len })?;
        self.bytes.resize(begun.saturating_add(most), 0);
        let made = make(self.bytes.get_mut(begun..).unwrap_or_default());
        let len = made.as_ref().map_or(0, |made| *made);
        self.bytes.truncate(begun.saturating_add(len));
        made
    }

    /// Takes what comes next of a body whose length nobody knows.
    pub(crate) fn push(&mut self, part: &[u8]) -> Result<(), NoRoom> {
        let len = self.len().saturating_add(part.len());
        self.expect(u64::try_from(len).unwrap_or(u64::MAX))?;
        self.fill(part.len(), |room| {
            room.copy_from_slice(part);
            Ok(part.len())
        })
        .map(drop)
    }

    /// Copies what comes next, as much as there is room for.
    pub(crate) fn pull(&mut self, into: &mut [u8]) -> usize {
        let rest = self.rest();
        let len = rest.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        self.read = self.read.saturating_add(len);
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(room: &Room) -> u64 {
        room.taken.load(Ordering::Relaxed)
    }

    /// A room for all, and two within it that have half of it each at most.
    fn rooms(most: u64) -> (&'static Room, [Arc<Room>; 2]) {
        let all: &'static Room = Box::leak(Box::new(Room::new(most, None)));
        let one = || Arc::new(Room::new(most / 2, Some(all)));
        (all, [one(), one()])
    }

    #[test]
    fn what_is_held_is_counted_as_it_comes_and_given_back_with_it() {
        let (all, [room, _]) = rooms(200_000);
        let mut held = Detached::new(&room);
        let mut more = |len| {
            held.push(&vec![b'x'; len])
                .map(|()| (taken(&room), taken(all)))
        };
        assert_eq!(more(16_384), Ok((0, 0)));
        assert_eq!(more(1), Ok((16_385, 16_385)));
        assert_eq!(more(83_615), Ok((100_000, 100_000)));
        assert_eq!(more(1), Err(NoRoom::TooLarge { len: 100_001 }));
        assert_eq!((held.len(), held.pull(&mut [0; 10])), (100_000, 10));
        assert_eq!((held.rest().len(), taken(&room)), (99_990, 100_000));
        drop(held);
        assert_eq!((taken(&room), taken(all)), (0, 0));
    }

    #[test]
    fn no_program_takes_the_room_of_others_and_small_bodies_always_find_some() {
        let (all, [one, other]) = rooms(200_000);
        let held = |room: &Arc<Room>, len| {
            let mut held = Detached::new(room);
            held.expect(len).map(|()| held)
        };
        let first = held(&one, 80_000).unwrap();
        let len = 20_001;
        let refused = held(&one, len).unwrap_err();
        assert_eq!(refused, NoRoom::Taken { len });
        let small = held(&one, SMALL).unwrap();
        let others = held(&other, 100_000).unwrap();
        assert_eq!((taken(&one), taken(all)), (80_000, 180_000));
        drop((first, small));
        let again = held(&one, len).unwrap();
        drop((others, again));
        assert_eq!((taken(&one), taken(all)), (0, 0));
    }

    #[test]
    fn what_finds_no_room_among_all_takes_none_of_its_own() {
        let (all, [one, other]) = rooms(200_000);
        let third = Arc::new(Room::new(100_000, Some(all)));
        let mut held = [&one, &other, &third].map(Detached::new);
        let len = 90_000;
        let found = held.each_mut().map(|held| held.expect(len));
        assert_eq!(found, [Ok(()), Ok(()), Err(NoRoom::Taken { len })]);
        assert_eq!((taken(&third), taken(all)), (0, 180_000));
    }
}
