//! ELF files made by hand: a sound small program, and whatever a test does to it.

/// Indexes of the fields of a program header.
pub(super) const TYPE: usize = 0;
pub(super) const FLAGS: usize = 1;
pub(super) const OFFSET: usize = 2;
pub(super) const VADDR: usize = 3;
pub(super) const FILESZ: usize = 5;
pub(super) const MEMSZ: usize = 6;
pub(super) const ALIGN: usize = 7;

pub(super) const LOAD: u64 = 1;
pub(super) const DYNAMIC: u64 = 2;
pub(super) const INTERP: u64 = 3;
pub(super) const TLS: u64 = 7;
pub(super) const GNU_STACK: u64 = 0x6474_e551;

pub(super) const R: u64 = 4;
pub(super) const RW: u64 = 6;
pub(super) const RX: u64 = 5;
pub(super) const RWX: u64 = 7;

/// A file with code at 0x400000 and data at 0x402000, and its bytes when it is asked for them.
#[derive(Debug, Clone)]
pub(super) struct Craft {
    pub(super) kind: u16,
    pub(super) machine: u16,
    pub(super) entry: u64,
    pub(super) headers: Vec<[u64; 8]>,
    pub(super) len: usize,
    /// Written over the finished file.
    pub(super) patches: Vec<(usize, Vec<u8>)>,
}

pub(super) fn load(flags: u64, offset: u64, address: u64, file: u64, memory: u64) -> [u64; 8] {
    [LOAD, flags, offset, address, address, file, memory, 4096]
}

pub(super) fn program() -> Craft {
    Craft {
        kind: 2,
        machine: 62,
        entry: 0x40_0800,
        headers: vec![
            load(RX, 0, 0x40_0000, 0x1000, 0x1000),
            load(RW, 0x1000, 0x40_2000, 0x800, 0x3000),
        ],
        len: 0x1800,
        patches: Vec::new(),
    }
}

pub(super) fn pie() -> Craft {
    let mut craft = program();
    craft.kind = 3;
    craft.entry = 0x800;
    for header in &mut craft.headers {
        header[VADDR] -= 0x40_0000;
    }
    craft
}

impl Craft {
    pub(super) fn set(mut self, header: usize, field: usize, value: u64) -> Self {
        self.headers[header][field] = value;
        self
    }

    pub(super) fn add(mut self, header: [u64; 8]) -> Self {
        self.headers.push(header);
        self
    }

    pub(super) fn loads(mut self, headers: Vec<[u64; 8]>) -> Self {
        self.headers = headers;
        self
    }

    pub(super) fn patch(mut self, at: usize, bytes: &[u8]) -> Self {
        self.patches.push((at, bytes.to_vec()));
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        // Every byte behind the headers tells where it is from.
        let mut file: Vec<u8> = (0..self.len)
            .map(|at| u8::try_from(at >> 8 & 0x7f).unwrap() | 0x80)
            .collect();
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        put(16, &self.kind.to_le_bytes());
        put(18, &self.machine.to_le_bytes());
        put(20, &1_u32.to_le_bytes());
        put(24, &self.entry.to_le_bytes());
        put(32, &64_u64.to_le_bytes());
        put(40, &[0; 8]);
        put(48, &[0; 4]);
        put(52, &64_u16.to_le_bytes());
        put(54, &56_u16.to_le_bytes());
        put(
            56,
            &u16::try_from(self.headers.len()).unwrap().to_le_bytes(),
        );
        put(58, &[0; 6]);
        for (number, header) in self.headers.iter().enumerate() {
            let at = 64 + 56 * number;
            put(at, &header[TYPE].to_le_bytes()[..4]);
            put(at + 4, &header[FLAGS].to_le_bytes()[..4]);
            for (index, field) in header[OFFSET..].iter().enumerate() {
                put(at + 8 + 8 * index, &field.to_le_bytes());
            }
        }
        for (at, bytes) in &self.patches {
            put(*at, bytes);
        }
        file
    }
}
