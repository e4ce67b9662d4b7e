//! From PT_LOAD headers to pages: what Linux's own loader would map, checked, each page once.

use std::ops::Range;

use object::elf;
use object::endian::LittleEndian as LE;
use object::read::ReadRef;

use super::{ElfError, ParseOptions, Part, ProgramHeader};
use crate::address::{GuestVirt, PAGE_SIZE};
use crate::arith::{to_u64, to_usize};
use crate::layout::{USER_BEGIN, USER_END};
use crate::memory::Protection;

/// Whole pages with one set of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// The first page.
    pub address: GuestVirt,
    /// What the pages begin with; zeros follow.
    pub data: &'a [u8],
    /// The length of the pages, at least that of `data`.
    pub mem_len: u64,
    /// What the program may do with them once they are filled.
    pub prot: Protection,
}

impl Segment<'_> {
    /// The address behind the last page.
    pub fn end(&self) -> GuestVirt {
        GuestVirt::new(self.address.raw().saturating_add(self.mem_len))
    }
}

/// One PT_LOAD, checked by itself: its addresses are biased and in user space, its bytes are in
/// the file, and address and file offset agree within a page.
#[derive(Debug, Clone)]
pub(super) struct Load {
    number: usize,
    file: Range<u64>,
    memory: Range<u64>,
    prot: Protection,
}

impl Load {
    fn file_len(&self) -> u64 {
        self.file.end.saturating_sub(self.file.start)
    }

    /// Whether `address` is an instruction of this segment.
    pub(super) fn runs(&self, address: u64) -> bool {
        self.prot.execute && self.memory.contains(&address)
    }

    /// Whether `len` bytes at `address` come from this segment's part of the file.
    pub(super) fn holds(&self, address: u64, len: u64) -> bool {
        let end = self.memory.start.saturating_add(self.file_len());
        address >= self.memory.start && address.checked_add(len).is_some_and(|it| it <= end)
    }

    /// Where the `len` bytes at file offset `offset` are mapped.
    pub(super) fn address_of(&self, offset: u64, len: u64) -> Option<u64> {
        let distance = offset.checked_sub(self.file.start)?;
        let address = self.memory.start.checked_add(distance)?;
        self.holds(address, len).then_some(address)
    }

    /// Whether both map the same pages of the file to the same addresses.
    fn continues(&self, before: &Self) -> bool {
        let shift = |load: &Self| load.memory.start.wrapping_sub(load.file.start);
        shift(self) == shift(before)
            && before.memory.end.checked_sub(before.memory.start) == Some(before.file_len())
    }
}

/// The PT_LOAD headers that map anything, with their numbers.
pub(super) fn loadable(
    headers: &[ProgramHeader],
) -> impl Iterator<Item = (usize, &ProgramHeader)> + Clone {
    (0_usize..).zip(headers).filter(|(_, header)| {
        header.p_type.get(LE) == elf::PT_LOAD
            && (header.p_memsz.get(LE), header.p_filesz.get(LE)) != (0, 0)
    })
}

/// Checks every PT_LOAD and their order.
pub(super) fn loads(
    bytes: &[u8],
    headers: &[ProgramHeader],
    bias: u64,
    options: &ParseOptions,
) -> Result<Vec<Load>, ElfError> {
    let mut loads: Vec<Load> = Vec::new();
    for (number, header) in loadable(headers) {
        let load = load(bytes, number, header, bias)?;
        let address = GuestVirt::new(load.memory.start);
        if load.prot.write && load.prot.execute && !options.executable_heap {
            return Err(ElfError::WriteExecute { number, address });
        }
        if let Some(before) = loads.last()
            && load.memory.start < before.memory.end
        {
            return Err(ElfError::Overlap {
                number,
                address,
                end: GuestVirt::new(before.memory.end),
            });
        }
        loads.push(load);
    }
    if loads.is_empty() {
        return Err(ElfError::NoSegments);
    }
    Ok(loads)
}

fn load(bytes: &[u8], number: usize, header: &ProgramHeader, bias: u64) -> Result<Load, ElfError> {
    let (offset, file_len) = (header.p_offset.get(LE), header.p_filesz.get(LE));
    let (vaddr, size) = (header.p_vaddr.get(LE), header.p_memsz.get(LE));
    if file_len > size {
        return Err(ElfError::LargerInFile {
            number,
            file: file_len,
            memory: size,
        });
    }
    let memory = vaddr
        .checked_add(bias)
        .and_then(|start| Some(start..start.checked_add(size)?))
        .filter(|memory| memory.start >= USER_BEGIN && memory.end <= USER_END)
        .ok_or(ElfError::OutOfRange {
            number,
            address: vaddr,
            size,
        })?;
    // A segment without bytes in the file may have any offset.
    let offset = if file_len == 0 { 0 } else { offset };
    let end = offset.saturating_add(file_len);
    if end > to_u64(bytes.len()) {
        return Err(ElfError::Truncated {
            part: Part::Segment(number),
            needed: end,
            len: to_u64(bytes.len()),
        });
    }
    let address = GuestVirt::new(memory.start);
    if file_len != 0 && GuestVirt::new(offset).page_offset() != address.page_offset() {
        return Err(ElfError::Misaligned {
            number,
            address,
            offset,
        });
    }
    let flags = header.p_flags.get(LE).0;
    let (write, execute) = (flags & elf::PF_W.0 != 0, flags & elf::PF_X.0 != 0);
    Ok(Load {
        number,
        file: offset..end,
        memory,
        prot: Protection {
            read: flags & elf::PF_R.0 != 0 || write || execute,
            write,
            execute,
        },
    })
}

/// Turns segments of bytes into segments of pages.
pub(super) fn pages<'a>(bytes: &'a [u8], loads: &[Load]) -> Result<Vec<Segment<'a>>, ElfError> {
    let mut segments: Vec<Segment<'a>> = Vec::new();
    let mut previous: Option<&Load> = None;
    for load in loads {
        let number = load.number;
        let mut segment = whole_pages(bytes, load)?;
        if let (Some(before), Some(last)) = (previous, segments.last_mut())
            && last.end() > segment.address
        {
            let shared = ElfError::SharedPage {
                number,
                address: GuestVirt::new(load.memory.start),
            };
            if load.file_len() == 0 && before.prot == load.prot {
                // Zeros that begin in the last page of the data before them.
                let zeros = load.memory.start.saturating_sub(last.address.raw());
                last.data = last.data.get(..to_usize(zeros)).unwrap_or(last.data);
                let skipped = last.end().raw().saturating_sub(segment.address.raw());
                segment.address = last.end();
                segment.mem_len = segment.mem_len.saturating_sub(skipped);
            } else if load.continues(before) {
                // The later mapping of the same page of the file wins, as on Linux.
                let kept = segment.address.raw().saturating_sub(last.address.raw());
                last.data = last.data.get(..to_usize(kept)).unwrap_or(last.data);
                last.mem_len = kept;
                if kept == 0 {
                    segments.pop();
                }
            } else {
                return Err(shared);
            }
        }
        previous = Some(load);
        if segment.mem_len != 0 {
            segments.push(segment);
        }
    }
    Ok(segments)
}

/// The pages a segment lies in, with what the file has there: also what stands before and, where
/// no zeros must follow, behind the segment's own bytes.
fn whole_pages<'a>(bytes: &'a [u8], load: &Load) -> Result<Segment<'a>, ElfError> {
    let out_of_range = || ElfError::OutOfRange {
        number: load.number,
        address: load.memory.start,
        size: load.memory.end.saturating_sub(load.memory.start),
    };
    let address = GuestVirt::new(load.memory.start).page_floor();
    let end = load.memory.end.checked_next_multiple_of(PAGE_SIZE);
    let mem_len = end
        .and_then(|end| end.checked_sub(address.raw()))
        .ok_or_else(out_of_range)?;
    let data = if load.file_len() == 0 {
        &[]
    } else {
        let zeros_follow = load.memory.start.saturating_add(load.file_len()) < load.memory.end;
        let start = GuestVirt::new(load.file.start).page_floor().raw();
        let end = if zeros_follow {
            load.file.end
        } else {
            load.file
                .end
                .checked_next_multiple_of(PAGE_SIZE)
                .map_or(load.file.end, |end| end.min(to_u64(bytes.len())))
        };
        let len = end.saturating_sub(start);
        bytes.read_bytes_at(start, len).unwrap_or(&[])
    };
    Ok(Segment {
        address,
        data,
        mem_len,
        prot: load.prot,
    })
}
