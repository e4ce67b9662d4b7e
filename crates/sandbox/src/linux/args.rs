//! What a 64-bit register means as a C type, and structures as the kernel lays them out: all
//! little-endian, written field by field so that no padding of ours reaches the guest.

use crate::address::GuestVirt;
use crate::memory::{AccessError, Memory};

/// The `unsigned int` in a register: the kernel ignores the upper half.
pub(super) fn low_u32(register: u64) -> u32 {
    let [a, b, c, d, ..] = register.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The `int` in a register.
pub(super) fn low_i32(register: u64) -> i32 {
    let [a, b, c, d, ..] = register.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

/// The `long` in a register.
pub(super) fn signed(register: u64) -> i64 {
    i64::from_le_bytes(register.to_le_bytes())
}

/// A `long` as it goes into a register.
pub(super) fn unsigned(value: i64) -> u64 {
    u64::from_le_bytes(value.to_le_bytes())
}

/// An `int` of flags, as an unsigned word.
pub(super) fn flags(value: i32) -> u64 {
    u64::from(u32::from_le_bytes(value.to_le_bytes()))
}

/// Reads `N` consecutive 64-bit words.
pub(super) fn read_words<const N: usize>(
    memory: &Memory,
    at: GuestVirt,
) -> Result<[u64; N], AccessError> {
    let mut words = [0; N];
    let mut next = at;
    for word in &mut words {
        *word = memory.read_u64(next)?;
        next = GuestVirt::new(next.raw().wrapping_add(8));
    }
    Ok(words)
}

/// A structure of `N` bytes in the making; what is not put stays zero.
#[derive(Debug, Clone)]
pub(super) struct Record<const N: usize>([u8; N]);

impl<const N: usize> Record<N> {
    pub(super) fn new() -> Self {
        Self([0; N])
    }

    /// Puts `bytes` at `offset`; what does not fit is left out.
    pub(super) fn bytes(mut self, offset: usize, bytes: &[u8]) -> Self {
        let rest = self.0.iter_mut().skip(offset);
        rest.zip(bytes).for_each(|(to, from)| *to = *from);
        self
    }

    pub(super) fn u16(self, offset: usize, value: u16) -> Self {
        self.bytes(offset, &value.to_le_bytes())
    }

    pub(super) fn u32(self, offset: usize, value: u32) -> Self {
        self.bytes(offset, &value.to_le_bytes())
    }

    pub(super) fn u64(self, offset: usize, value: u64) -> Self {
        self.bytes(offset, &value.to_le_bytes())
    }

    pub(super) fn i64(self, offset: usize, value: i64) -> Self {
        self.bytes(offset, &value.to_le_bytes())
    }

    pub(super) fn write(&self, memory: &mut Memory, at: u64) -> Result<(), AccessError> {
        memory.write(GuestVirt::new(at), &self.0)
    }
}
