//! Which pages a request VM has of its own: written by any request since all were last given back. A reset
//! leaves them in place, and most are not dirty any more when the next one looks.

use crate::address::PAGE_SIZE;
use crate::arith::to_usize;

#[derive(Debug)]
pub(super) struct Held {
    /// One bit per guest-physical page.
    pages: Vec<u64>,
    count: u64,
}

impl Held {
    /// Of a VM with so many bytes.
    pub(super) fn none_of(bytes: u64) -> Self {
        let words = (bytes / PAGE_SIZE).div_ceil(64);
        Self {
            pages: vec![0; to_usize(words)],
            count: 0,
        }
    }

    pub(super) fn add(&mut self, page: u64) {
        let bit = 1 << (page % 64);
        if let Some(word) = self.pages.get_mut(to_usize(page / 64)) {
            self.count += u64::from(*word & bit == 0);
            *word |= bit;
        }
    }

    pub(super) fn has(&self, page: u64) -> bool {
        let word = self.pages.get(to_usize(page / 64));
        word.is_some_and(|word| word & 1 << (page % 64) != 0)
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn clear(&mut self) {
        self.pages.fill(0);
        self.count = 0;
    }
}
