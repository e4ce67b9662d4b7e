//! The integer conversions that are lossless on x86-64 but that `From` does not offer.

/// `u64` to `usize`: both are 64 bits wide on the only architecture there is.
#[allow(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits on x86-64"
)]
pub(crate) const fn to_usize(value: u64) -> usize {
    value as usize
}

/// `usize` to `u64`.
pub(crate) const fn to_u64(value: usize) -> u64 {
    value as u64
}
