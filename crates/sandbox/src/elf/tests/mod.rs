//! What real linkers write is loaded; what is wrong with a file is said exactly; no file, however
//! damaged, gets further than that.

mod craft;
mod errors;
mod mutations;
mod names;
mod real;

use super::*;
use crate::address::PAGE_SIZE;
use crate::layout::{USER_BEGIN, USER_END};

const STRICT: ParseOptions = ParseOptions {
    executable_heap: false,
};

/// What every accepted file promises to the loader.
fn check(elf: &Elf<'_>) {
    let mut end = USER_BEGIN;
    for segment in &elf.segments {
        assert_eq!(segment.address.page_offset(), 0);
        assert!(segment.mem_len > 0 && segment.mem_len.is_multiple_of(PAGE_SIZE));
        assert!(segment.data.len() as u64 <= segment.mem_len);
        assert!(segment.address.raw() >= end, "segments overlap");
        end = segment.end().raw();
    }
    assert_eq!(end, elf.image_end.raw());
    assert!(end <= USER_END);
    assert!(
        elf.segments
            .iter()
            .any(|segment| (segment.address..segment.end()).contains(&elf.entry))
    );
}

/// The memory that a loader makes of it, or `None` where nothing is mapped.
fn memory(elf: &Elf<'_>, address: u64, len: usize) -> Option<Vec<u8>> {
    (address..)
        .take(len)
        .map(|at| {
            let inside = |it: &&Segment<'_>| (it.address.raw()..it.end().raw()).contains(&at);
            let segment = elf.segments.iter().find(inside)?;
            let offset = usize::try_from(at - segment.address.raw()).unwrap();
            Some(segment.data.get(offset).copied().unwrap_or(0))
        })
        .collect()
}
