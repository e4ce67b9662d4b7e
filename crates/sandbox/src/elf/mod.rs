//! Reads a static or static-PIE x86-64 Linux program: what to map where, and where to start.
//!
//! Guards: a file is hostile. Whatever its bytes are, the answer is an [`Elf`] whose segments are
//! page-aligned, page-disjoint, ascending and inside user space, or an [`ElfError`]; never a
//! panic, and never more memory than a small multiple of its program headers.
//!
//! Pages are laid out as Linux lays them out: a segment maps whole pages of the file, and where
//! two segments meet in one page of the file the later one's rights hold for that page.
//!
//! A static PIE relocates itself in its own start code: only addresses are moved here.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod error;
mod segments;
mod symbols;
#[cfg(test)]
mod tests;

pub use error::{ElfError, Part};
pub use segments::Segment;
pub use symbols::Symbols;

use object::endian::LittleEndian as LE;
use object::read::ReadRef;
use object::{elf, elf::FileHeader64};

use crate::address::GuestVirt;
use crate::arith::to_u64;
use crate::layout::PIE_BASE;

pub(crate) type FileHeader = FileHeader64<LE>;
pub(crate) type ProgramHeader = elf::ProgramHeader64<LE>;

/// Linkers write about ten; upstream takes up to 63.
const MAX_HEADERS: u16 = 128;
/// Of a name from the file, what a message shows.
const MAX_TEXT: usize = 255;
const HEADER_SIZE: u64 = to_u64(size_of::<FileHeader>());
const ENTRY_SIZE: u64 = to_u64(size_of::<ProgramHeader>());

/// What the program's configuration allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ParseOptions {
    /// Segments may be writable and executable at once.
    pub executable_heap: bool,
}

/// The two kinds of program there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Linked at fixed addresses (ET_EXEC).
    Static,
    /// Position-independent and relocated by itself (ET_DYN).
    StaticPie,
}

/// A program that can be loaded. All addresses are where it is going to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf<'a> {
    /// Whether its addresses are its own choice.
    pub kind: Kind,
    /// What was added to the addresses in the file.
    pub bias: u64,
    /// The first instruction.
    pub entry: GuestVirt,
    /// Where the program headers are mapped; 0 where they are not (AT_PHDR, as Linux gives it).
    pub phdr: GuestVirt,
    /// How many program headers there are (AT_PHNUM).
    pub phnum: u16,
    /// What to map: whole pages, ascending, none twice.
    pub segments: Vec<Segment<'a>>,
    /// The end of the last page.
    pub image_end: GuestVirt,
    /// PT_GNU_STACK asks for an executable stack, which no guest gets.
    pub executable_stack: bool,
}

/// Checks a program and says how to load it.
pub fn parse<'a>(bytes: &'a [u8], options: &ParseOptions) -> Result<Elf<'a>, ElfError> {
    let (header, kind) = file_header(bytes)?;
    let headers = program_headers(bytes, header)?;
    if let Some(interp) = first(headers, elf::PT_INTERP) {
        return Err(ElfError::Dynamic {
            interpreter: text(content(bytes, interp)),
        });
    }
    if let Some(library) = needed_library(bytes, headers) {
        return Err(ElfError::NeedsLibrary { library });
    }
    let bias = match kind {
        Kind::Static => 0,
        Kind::StaticPie => pie_bias(headers)?,
    };
    let loads = segments::loads(bytes, headers, bias, options)?;
    check_tls(bytes, headers, &loads, bias)?;

    let raw_entry = header.e_entry.get(LE);
    let entry = raw_entry
        .checked_add(bias)
        .filter(|entry| raw_entry != 0 && loads.iter().any(|load| load.runs(*entry)))
        .ok_or(ElfError::Entry { entry: raw_entry })?;
    let table = header.e_phoff.get(LE);
    let table_len = ENTRY_SIZE.saturating_mul(to_u64(headers.len()));
    let phdr = loads
        .iter()
        .find_map(|load| load.address_of(table, table_len))
        .unwrap_or(0);
    let segments = segments::pages(bytes, &loads)?;
    let image_end = segments.last().ok_or(ElfError::NoSegments)?.end();
    let stack = first(headers, elf::PT_GNU_STACK);
    Ok(Elf {
        kind,
        bias,
        entry: GuestVirt::new(entry),
        phdr: GuestVirt::new(phdr),
        phnum: header.e_phnum.get(LE),
        segments,
        image_end,
        executable_stack: stack.is_some_and(|it| it.p_flags.get(LE).0 & elf::PF_X.0 != 0),
    })
}

fn file_header(bytes: &[u8]) -> Result<(&FileHeader, Kind), ElfError> {
    if !bytes.starts_with(&elf::ELFMAG) {
        return Err(ElfError::NotElf(looks_like(bytes)));
    }
    // 32-bit headers are shorter, and e_machine is at the same place in both.
    let machine = |read: fn([u8; 2]) -> u16| {
        let field = bytes.get(18..20).and_then(|field| field.try_into().ok());
        field.map_or_else(|| "unknown machine".to_owned(), |it| machine_name(read(it)))
    };
    match (bytes.get(4), bytes.get(5)) {
        (_, Some(2)) => {
            return Err(ElfError::BigEndian {
                machine: machine(u16::from_be_bytes),
            });
        }
        (Some(1), Some(_)) => {
            return Err(ElfError::ThirtyTwoBit {
                machine: machine(u16::from_le_bytes),
            });
        }
        (Some(2), Some(1)) | (None, _) | (_, None) => {}
        (Some(&class), Some(&data)) => {
            let (field, value) = if class == 2 {
                ("EI_DATA", data)
            } else {
                ("EI_CLASS", class)
            };
            return Err(ElfError::Damaged {
                field,
                value: value.into(),
            });
        }
    }
    let header: &FileHeader = bytes.read_at(0).map_err(|()| ElfError::Truncated {
        part: Part::Header,
        needed: HEADER_SIZE,
        len: to_u64(bytes.len()),
    })?;
    let machine = header.e_machine.get(LE);
    if machine != elf::EM_X86_64 {
        return Err(ElfError::WrongMachine {
            machine: machine_name(machine.0),
        });
    }
    let kind = match header.e_type.get(LE) {
        elf::ET_EXEC => Kind::Static,
        elf::ET_DYN => Kind::StaticPie,
        elf::ET_REL => {
            return Err(ElfError::WrongType {
                found: "an object file (.o)",
            });
        }
        elf::ET_CORE => {
            return Err(ElfError::WrongType {
                found: "a core dump",
            });
        }
        _ => {
            return Err(ElfError::WrongType {
                found: "an ELF file of unknown type",
            });
        }
    };
    Ok((header, kind))
}

fn program_headers<'a>(
    bytes: &'a [u8],
    header: &FileHeader,
) -> Result<&'a [ProgramHeader], ElfError> {
    let count = header.e_phnum.get(LE);
    if count == 0 {
        return Err(ElfError::NoSegments);
    }
    if count > MAX_HEADERS {
        return Err(ElfError::TooManyHeaders {
            count,
            max: MAX_HEADERS,
        });
    }
    let size = header.e_phentsize.get(LE);
    if u64::from(size) != ENTRY_SIZE {
        return Err(ElfError::Damaged {
            field: "e_phentsize",
            value: size.into(),
        });
    }
    let offset = header.e_phoff.get(LE);
    let needed = offset.saturating_add(ENTRY_SIZE.saturating_mul(count.into()));
    bytes
        .read_slice_at(offset, count.into())
        .map_err(|()| ElfError::Truncated {
            part: Part::ProgramHeaders,
            needed,
            len: to_u64(bytes.len()),
        })
}

/// Moves a position-independent program to PIE_BASE, keeping the alignment its segments ask for.
fn pie_bias(headers: &[ProgramHeader]) -> Result<u64, ElfError> {
    let loads = || segments::loadable(headers).map(|(_, header)| header);
    let lowest = loads()
        .map(|it| GuestVirt::new(it.p_vaddr.get(LE)).page_floor().raw())
        .min()
        .ok_or(ElfError::NoSegments)?;
    let align = loads()
        .map(|it| it.p_align.get(LE))
        .filter(|align| align.is_power_of_two())
        .max()
        .unwrap_or(1)
        .max(crate::address::PAGE_SIZE);
    PIE_BASE
        .saturating_sub(lowest)
        .checked_next_multiple_of(align)
        .ok_or(ElfError::Damaged {
            field: "p_align",
            value: align,
        })
}

/// The libraries' own start code sets thread-local storage up from the header found by AT_PHDR;
/// this only tells a damaged header from a sound one before the guest trips over it.
fn check_tls(
    bytes: &[u8],
    headers: &[ProgramHeader],
    loads: &[segments::Load],
    bias: u64,
) -> Result<(), ElfError> {
    let mut all = (0_usize..)
        .zip(headers)
        .filter(|(_, header)| header.p_type.get(LE) == elf::PT_TLS);
    let Some((number, tls)) = all.next() else {
        return Ok(());
    };
    let bad = |number, problem| Err(ElfError::Tls { number, problem });
    if let Some((second, _)) = all.next() {
        return bad(second, "there is more than one");
    }
    let (offset, file, memory) = (
        tls.p_offset.get(LE),
        tls.p_filesz.get(LE),
        tls.p_memsz.get(LE),
    );
    if file > memory {
        return bad(number, "it has more bytes in the file than in memory");
    }
    if !(tls.p_align.get(LE) == 0 || tls.p_align.get(LE).is_power_of_two()) {
        return bad(number, "its alignment is not a power of two");
    }
    if offset
        .checked_add(file)
        .is_none_or(|end| end > to_u64(bytes.len()))
    {
        return bad(number, "its content is outside the file");
    }
    let address = tls.p_vaddr.get(LE).checked_add(bias);
    let loaded = file == 0
        || address.is_some_and(|address| loads.iter().any(|load| load.holds(address, file)));
    if !loaded {
        return bad(number, "its content is not part of a loaded segment");
    }
    Ok(())
}

/// The first library of DT_NEEDED. A static PIE has a dynamic section too, but needs nothing.
fn needed_library(bytes: &[u8], headers: &[ProgramHeader]) -> Option<String> {
    let dynamic = content(bytes, first(headers, elf::PT_DYNAMIC)?);
    let mut needed = None;
    let mut names = None;
    for entry in dynamic.chunks_exact(16) {
        let (tag, value) = (word(entry, 0)?, word(entry, 8)?);
        match tag {
            0 => break,
            1 => needed = needed.or(Some(value)), // DT_NEEDED
            5 => names = Some(value),             // DT_STRTAB
            _ => {}
        }
    }
    let needed = needed?;
    let name = names.and_then(|table| {
        let address = table.checked_add(needed)?;
        segments::loadable(headers).find_map(|(_, load)| {
            let start = address.checked_sub(load.p_vaddr.get(LE))?;
            content(bytes, load).get(crate::arith::to_usize(start)..)
        })
    });
    Some(name.map_or_else(|| "a library".to_owned(), text))
}

fn first(headers: &[ProgramHeader], kind: elf::ProgramType) -> Option<&ProgramHeader> {
    headers.iter().find(|header| header.p_type.get(LE) == kind)
}

/// The bytes of a segment in the file; none where they are not all there.
fn content<'a>(bytes: &'a [u8], header: &ProgramHeader) -> &'a [u8] {
    bytes
        .read_bytes_at(header.p_offset.get(LE), header.p_filesz.get(LE))
        .unwrap_or(&[])
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let end = at.checked_add(8)?;
    Some(u64::from_le_bytes(bytes.get(at..end)?.try_into().ok()?))
}

/// A C string of the file for a message: short, and nothing that upsets a terminal or a log.
fn text(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take(MAX_TEXT)
        .take_while(|&&byte| byte != 0)
        .map(|&byte| match byte {
            b' '..=b'~' => char::from(byte),
            _ => '?',
        })
        .collect()
}

fn machine_name(machine: u16) -> String {
    let name = match elf::Machine(machine) {
        elf::EM_386 => "x86 (i386)",
        elf::EM_X86_64 => "x86-64",
        elf::EM_AARCH64 => "aarch64 (64-bit ARM)",
        elf::EM_ARM => "arm (32-bit ARM)",
        elf::EM_RISCV => "riscv",
        elf::EM_PPC => "ppc",
        elf::EM_PPC64 => "ppc64",
        elf::EM_S390 => "s390x",
        elf::EM_MIPS => "mips",
        elf::EM_LOONGARCH => "loongarch",
        elf::EM_SPARC | elf::EM_SPARC32PLUS | elf::EM_SPARCV9 => "sparc",
        elf::EM_68K => "m68k",
        elf::EM_BPF => "BPF",
        _ => return format!("machine number {machine}"),
    };
    name.to_owned()
}

/// What a file that is no ELF file seems to be.
fn looks_like(bytes: &[u8]) -> &'static str {
    const MAGICS: &[(&[u8], &str)] = &[
        (b"#!", "a script"),
        (b"MZ", "a Windows program"),
        (b"\0asm", "a WebAssembly module"),
        (b"\xcf\xfa\xed\xfe", "a macOS program"),
        (b"\xca\xfe\xba\xbe", "a macOS program or a Java class"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"\xfd7zXZ", "an xz archive"),
        (b"\x28\xb5\x2f\xfd", "a zstd archive"),
        (b"BZh", "a bzip2 archive"),
        (b"PK", "a zip archive"),
        (b"!<arch>", "a static library (.a)"),
        (b"<", "an HTML or XML page"),
        (b"{", "a JSON document"),
    ];
    if bytes.is_empty() {
        return "empty";
    }
    MAGICS
        .iter()
        .find(|(magic, _)| bytes.starts_with(magic))
        .map_or("something else", |(_, name)| name)
}
