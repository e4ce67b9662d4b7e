//! Why a file cannot be a guest program, in words its builder can act on.

use crate::address::GuestVirt;
use crate::layout::USER_BEGIN;

/// A part of an ELF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The header at its front.
    Header,
    /// The table of program headers.
    ProgramHeaders,
    /// The content of a segment, named by the number of its program header.
    Segment(usize),
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header => write!(f, "the ELF header"),
            Self::ProgramHeaders => write!(f, "the program headers"),
            Self::Segment(number) => write!(f, "segment {number}"),
        }
    }
}

/// Why a file cannot be loaded. Segments are named as `readelf -l` numbers them, from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Some other kind of file.
    #[error("not an ELF file but {0}: give the program built with -static for x86-64 Linux")]
    NotElf(&'static str),
    /// The file ends too early.
    #[error(
        "truncated: {part} should end at byte {needed}, the file has {len}; copy or download it again"
    )]
    Truncated { part: Part, needed: u64, len: u64 },
    /// A field has a value that no linker writes.
    #[error("damaged ELF file: {field} is {value:#x}")]
    Damaged { field: &'static str, value: u64 },
    /// ELFCLASS32.
    #[error("a 32-bit program ({machine}): build it for 64-bit x86-64 (-m64)")]
    ThirtyTwoBit { machine: String },
    /// ELFDATA2MSB.
    #[error("a big-endian program ({machine}): build it for x86-64")]
    BigEndian { machine: String },
    /// Another CPU.
    #[error("a program for {machine}: build it for x86-64")]
    WrongMachine { machine: String },
    /// Neither an executable nor a static PIE.
    #[error("{found}, not a program: link it with -static")]
    WrongType { found: &'static str },
    /// It needs a dynamic linker.
    #[error("dynamically linked (it asks for {interpreter}): link it with -static, or -static-pie")]
    Dynamic { interpreter: String },
    /// It needs other files but asks for no dynamic linker: a shared library.
    #[error("a shared library, or a program that needs {library}: link a program with -static")]
    NeedsLibrary { library: String },
    /// More program headers than any real program has.
    #[error("{count} program headers, at most {max} are supported")]
    TooManyHeaders { count: u16, max: u16 },
    /// No PT_LOAD with any bytes.
    #[error("nothing to load: the file has no PT_LOAD segment")]
    NoSegments,
    /// p_filesz > p_memsz.
    #[error("segment {number} has {file} bytes in the file but only {memory} in memory")]
    LargerInFile {
        number: usize,
        file: u64,
        memory: u64,
    },
    /// Address and file offset differ within a page.
    #[error(
        "segment {number} at {address} has file offset {offset:#x}, which is at another place \
         within a page: link with 4096-byte pages (-z max-page-size=4096)"
    )]
    Misaligned {
        number: usize,
        address: GuestVirt,
        offset: u64,
    },
    /// Outside what user mode may have.
    #[error(
        "segment {number} ({size} bytes at {address:#x}) is outside {USER_BEGIN:#x}..{end:#x}: \
         link it at a usual address (default of gcc: 0x400000)",
        end = crate::layout::USER_END
    )]
    OutOfRange {
        number: usize,
        address: u64,
        size: u64,
    },
    /// Two segments cover the same bytes, or their headers are not in ascending order.
    #[error("segment {number} at {address} starts before the end of the one before it ({end})")]
    Overlap {
        number: usize,
        address: GuestVirt,
        end: GuestVirt,
    },
    /// Two segments share a page that cannot hold the bytes of both.
    #[error(
        "segment {number} at {address} shares a page with the one before it: link with \
         4096-byte pages (-z max-page-size=4096)"
    )]
    SharedPage { number: usize, address: GuestVirt },
    /// A segment that is writable and executable.
    #[error(
        "segment {number} at {address} is writable and executable: link without -N and \
         --omagic, or set \"executable_heap\": true"
    )]
    WriteExecute { number: usize, address: GuestVirt },
    /// The first instruction is not code.
    #[error(
        "the entry point {entry:#x} is not in an executable segment: is it a program with a main()?"
    )]
    Entry { entry: u64 },
    /// PT_TLS makes no sense.
    #[error("bad thread-local storage segment (number {number}): {problem}")]
    Tls {
        number: usize,
        problem: &'static str,
    },
}
