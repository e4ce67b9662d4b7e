//! How much memory a VM uses, and how much more it may.
//!
//! What the program writes itself shows when somebody looks. What the host writes on its behalf is
//! much faster than that, so it is counted page by page, and refused where there is no room.

use std::cell::Cell;

use super::paging::{self, Bits};
use super::{Memory, Role};
use crate::address::{GuestPhys, PAGE_SIZE};

/// A VM's limit, and what is known about its use.
#[derive(Debug)]
pub(super) struct Room {
    /// In bytes: of the image that a main VM may touch, of what a request may write.
    configured: u64,
    /// The same, or more for what tells of a request that has used too much.
    limit: u64,
    /// Bytes that still count as dirty from earlier requests, on hosts where dirty bits stay.
    inherited: u64,
    /// Pages that have to stay free of what the host writes; none: it writes what is its own, and little.
    reserve: Cell<Option<u64>>,
    /// Pages that the host may write before it has to look at how much is used, if so many stay free.
    unseen: Cell<u64>,
    accounted: Cell<u64>,
    /// The host was asked to write more than there is room for.
    refused: Cell<bool>,
}

impl Default for Room {
    /// No limit.
    fn default() -> Self {
        Self::new(u64::MAX, 0)
    }
}

impl Room {
    fn new(limit: u64, inherited: u64) -> Self {
        let room = Self {
            configured: limit,
            limit,
            inherited,
            reserve: Cell::new(None),
            unseen: Cell::new(0),
            accounted: Cell::new(0),
            refused: Cell::new(false),
        };
        room.seen(0);
        room
    }

    /// A request begins; these bytes count as dirty from earlier ones.
    pub(super) fn renew(&mut self, inherited: u64) {
        *self = Self::new(self.configured, inherited);
    }

    /// Pages of its own that a VM may have between two requests, if it is to keep `keep_pages`.
    pub(super) fn most_held(&self, keep_pages: u64) -> u64 {
        keep_pages.min(self.configured / PAGE_SIZE)
    }

    /// So much is used. Half of what is left may be written without another look: the program writes too.
    fn seen(&self, used: u64) {
        let left = self.limit.saturating_sub(used) / PAGE_SIZE;
        let reserve = self.reserve.get().unwrap_or(0);
        self.accounted.set(reserve);
        self.unseen.set(left.saturating_sub(reserve).div_ceil(2));
    }

    /// Takes a page of what may be written without a look.
    fn take_page(&self) -> bool {
        let rest = self.unseen.get().checked_sub(1);
        self.unseen.set(rest.unwrap_or(0));
        rest.is_some()
    }
}

impl Memory {
    /// Sets what [`Self::used_bytes`] may come to.
    pub(crate) fn set_limit(&mut self, bytes: u64) {
        self.room = Room::new(bytes, self.room.inherited);
    }

    /// What [`Self::used_bytes`] may come to.
    pub(crate) fn limit(&self) -> u64 {
        self.room.limit
    }

    /// From now on the host writes for the program, and leaves it so many bytes of what it may use;
    /// `None`: it writes what is its own again, of which there is little.
    pub fn leave_free(&mut self, bytes: Option<u64>) {
        let room = &self.room;
        let reserve = bytes.map(|bytes| bytes / PAGE_SIZE);
        room.reserve.set(reserve);
        let more = reserve.unwrap_or(0).saturating_sub(room.accounted.get());
        if more > 0 {
            room.unseen.set(room.unseen.get().saturating_sub(more));
            room.accounted
                .set(room.accounted.get().saturating_add(more));
        }
        room.refused.set(false);
    }

    /// The request has failed for the bytes that it uses. What tells of it gets some more, until the next
    /// reset.
    pub(crate) fn overrun(&mut self, used: u64) {
        const MORE: u64 = 1 << 20;
        self.room.limit = used.max(self.room.limit).saturating_add(MORE);
        self.room.seen(used);
    }

    /// Bytes in use as the limit counts them: of a main VM what exists of the image, of a request VM
    /// what the request has written and no earlier one had.
    pub(crate) fn used_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let used = match &self.role {
            Role::Main { file, .. } => file.metadata().map_or(0, |data| data.blocks() * 512),
            Role::Request { .. } => self.dirty_bytes().saturating_sub(self.room.inherited),
        };
        self.room.seen(used);
        used
    }

    /// Bytes of pages written since the fork or the last reset, and of those that still count as dirty
    /// from before it.
    pub fn dirty_bytes(&self) -> u64 {
        let mut pages: u64 = 0;
        self.each_dirty_page(|_page| pages += 1);
        pages * PAGE_SIZE
    }

    /// The numbers of the pages that are dirty, but for those that all VMs share.
    pub(super) fn each_dirty_page(&self, mut visit: impl FnMut(u64)) {
        let own = self.backing.shared_from();
        let outline = self.role.outline();
        paging::visit_dirty(&self.backing, outline, Bits::Keep, &mut |frame| {
            if frame.raw() < own {
                visit(frame.raw() / PAGE_SIZE);
            }
        });
    }

    /// Whether the host may write this page of the program's, which was not written before. Where not,
    /// [`Self::was_refused`] tells.
    pub(super) fn has_room_for(&self, page: GuestPhys) -> bool {
        if self.room.take_page() || self.room.reserve.get().is_none() {
            return true;
        }
        if page.raw() >= self.backing.shared_from() {
            return true;
        }
        self.used_bytes();
        let room = self.room.take_page();
        if !room {
            self.room.refused.set(true);
        }
        room
    }

    /// Whether the host was asked to write more than there is room for, since the last time somebody
    /// asked this.
    pub(crate) fn was_refused(&self) -> bool {
        self.room.refused.take()
    }
}
