//! Names for addresses, for reports about faults.
//!
//! Guards: tables are hostile. What does not fit is left out; the memory used is bounded by the
//! size of the file, and a name is cut and cleaned before anyone prints it.

use object::elf::{self, FileHeader64, SectionHeader64, Sym64};
use object::endian::LittleEndian as LE;
use object::read::ReadRef;
use object::read::elf::FileHeader;

use super::{ParseOptions, text};
use crate::arith::to_usize;

/// The functions of a program, by address. Empty for a stripped program.
#[derive(Debug, Clone, Default)]
pub struct Symbols {
    /// Ascending by address, one for each.
    functions: Box<[Function]>,
    /// The string table of the file.
    names: Box<[u8]>,
}

#[derive(Debug, Clone, Copy)]
struct Function {
    address: u64,
    /// 0: up to the next one.
    size: u64,
    name: u32,
    /// Untyped, not public: the lower, the better a name.
    rank: (bool, bool),
}

impl Symbols {
    /// The symbols of a program; none where the file is no program or has no table.
    pub fn from_elf(bytes: &[u8]) -> Self {
        let lenient = ParseOptions {
            executable_heap: true,
        };
        super::parse(bytes, &lenient)
            .ok()
            .and_then(|program| table(bytes, program.bias))
            .unwrap_or_default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// The function that `address` is in, and the distance from its start.
    pub fn name_of(&self, address: u64) -> Option<(String, u64)> {
        let after = self.functions.partition_point(|it| it.address <= address);
        let function = self.functions.get(after.checked_sub(1)?)?;
        let offset = address.checked_sub(function.address)?;
        // The last function of unknown size would otherwise own the rest of the address space.
        let open_end = after == self.functions.len() && function.size == 0;
        if (function.size != 0 && offset >= function.size) || (open_end && offset >= 4096) {
            return None;
        }
        let name = text(self.names.get(to_usize(function.name.into())..)?);
        (!name.is_empty()).then_some((name, offset))
    }
}

fn table(bytes: &[u8], bias: u64) -> Option<Symbols> {
    let header = FileHeader64::<LE>::parse(bytes).ok()?;
    let sections: &[SectionHeader64<LE>] = header.section_headers(LE, bytes).ok()?;
    let find = |kind| sections.iter().find(|it| it.sh_type.get(LE) == kind);
    let section = find(elf::SHT_SYMTAB).or_else(|| find(elf::SHT_DYNSYM))?;
    let strings = sections.get(to_usize(section.sh_link.get(LE).into()))?;
    let names = content(bytes, strings)?;
    let symbols = content(bytes, section)?;
    let count = symbols.len().checked_div(size_of::<Sym64<LE>>())?;
    let symbols: &[Sym64<LE>] = symbols.read_slice_at(0, count).ok()?;

    // Functions written in assembly often have no type.
    let is_code = |symbol: &Sym64<LE>| {
        let section = sections.get(usize::from(symbol.st_shndx.get(LE).0));
        section.is_some_and(|it| it.sh_flags.get(LE).0 & elf::SHF_EXECINSTR.0 != 0)
    };
    let mut functions: Vec<Function> = symbols
        .iter()
        .filter(|it| match it.st_type() {
            elf::STT_FUNC | elf::STT_GNU_IFUNC => it.st_shndx.get(LE) != elf::SHN_UNDEF,
            elf::STT_NOTYPE => is_code(it),
            _ => false,
        })
        .filter_map(|it| {
            Some(Function {
                address: it.st_value.get(LE).checked_add(bias)?,
                size: it.st_size.get(LE),
                name: it.st_name.get(LE),
                rank: (
                    it.st_type() == elf::STT_NOTYPE,
                    it.st_bind() != elf::STB_GLOBAL,
                ),
            })
        })
        .collect();
    // Of several names for one address the public one, then the one with a size is kept.
    functions.sort_by_key(|it| (it.address, it.rank, it.size == 0));
    functions.dedup_by_key(|it| it.address);
    Some(Symbols {
        functions: functions.into(),
        names: names.into(),
    })
}

fn content<'a>(bytes: &'a [u8], section: &SectionHeader64<LE>) -> Option<&'a [u8]> {
    bytes
        .read_bytes_at(section.sh_offset.get(LE), section.sh_size.get(LE))
        .ok()
}
