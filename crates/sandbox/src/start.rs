//! What a program finds on its stack when it starts: arguments, environment, auxiliary vector.
//!
//! ```text
//! top      strings: platform, file name, environment, arguments
//!          auxv pairs, AT_NULL last
//!          NULL, envp pointers (first one lowest)
//!          NULL, argv pointers (first one lowest)
//! rsp ->   argc                                        16-byte aligned
//! ```
//!
//! Arguments and environment may take a quarter of it, as on Linux.
//!
//! Guards: the stack is what the System V ABI and Linux promise to `_start`, and one user id is
//! told everywhere.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use crate::address::{GuestVirt, PAGE_SIZE};
use crate::arith::{to_u64, to_usize};
use crate::elf::Elf;
use crate::layout::{FRAME, FRAME_RANDOM, VDSO};
use crate::memory::{AccessError, Memory};

/// User and group, real and effective: nobody in particular, and AT_SECURE stays 0.
pub(crate) const USER_ID: u64 = 1000;

const HWCAP2_FSGSBASE: u64 = 1 << 1;
const CLOCK_TICKS: u64 = 100;
const HEADER_ENTRY: u64 = 56;
const PLATFORM: &[u8] = b"x86_64";
/// A signal frame with the largest extended state that guests get (AVX-512, 2696 bytes).
const SIGNAL_STACK: u64 = 3632;

/// What the auxiliary vector says beyond what is the same for every program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Auxv {
    /// AT_PHDR.
    pub(crate) phdr: GuestVirt,
    /// AT_PHNUM.
    pub(crate) phnum: u16,
    /// AT_ENTRY.
    pub(crate) entry: GuestVirt,
    /// AT_RANDOM: 16 bytes that are new for every request.
    pub(crate) random: GuestVirt,
    /// AT_SYSINFO_EHDR.
    pub(crate) vdso: Option<GuestVirt>,
    /// AT_HWCAP: CPUID.1:EDX.
    pub(crate) hwcap: u64,
}

/// Why a program's arguments could not be put on its stack.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Together they are too long.
    #[error(
        "arguments and environment take {bytes} bytes on the program's stack, at most {max} fit: \
         give it a file instead"
    )]
    TooLong { bytes: u64, max: u64 },
    /// C strings cannot say this.
    #[error("argument or environment string {0:?} contains a NUL byte")]
    Nul(String),
    /// The stack is not there.
    #[error("the program's stack: {0}")]
    Stack(#[from] AccessError),
}

impl Auxv {
    /// For this program, with the sandbox's own pages in place. `hwcap` is CPUID.1:EDX.
    pub(crate) fn new(elf: &Elf<'_>, hwcap: u64) -> Self {
        Self {
            phdr: elf.phdr,
            phnum: elf.phnum,
            entry: elf.entry,
            random: GuestVirt::new(FRAME.saturating_add(FRAME_RANDOM)),
            vdso: (!tinykvm_sys::VDSO.is_empty()).then_some(GuestVirt::new(VDSO)),
            hwcap,
        }
    }
}

/// Writes the initial stack below `top`, the end of `len` bytes of stack, and returns the stack
/// pointer to start with.
pub(crate) fn write_stack(
    memory: &mut Memory,
    top: GuestVirt,
    len: u64,
    argv: &[&[u8]],
    envp: &[&[u8]],
    aux: &Auxv,
) -> Result<GuestVirt, StartError> {
    let (rsp, bytes) = build(top, len / 4, argv, envp, aux)?;
    memory.write(rsp, &bytes)?;
    Ok(rsp)
}

/// The bytes from the stack pointer up to `top`, at most `max`.
fn build(
    top: GuestVirt,
    max: u64,
    argv: &[&[u8]],
    envp: &[&[u8]],
    aux: &Auxv,
) -> Result<(GuestVirt, Vec<u8>), StartError> {
    if let Some(text) = argv.iter().chain(envp).find(|it| it.contains(&0)) {
        return Err(StartError::Nul(text.escape_ascii().to_string()));
    }
    let file = argv.first().copied().unwrap_or_default();
    let strings_len = [PLATFORM, file]
        .iter()
        .chain(argv)
        .chain(envp)
        .fold(0_u64, |sum, it| {
            sum.saturating_add(to_u64(it.len())).saturating_add(1)
        });
    // argc, two NULLs, and the auxiliary vector with room to spare.
    let words = to_u64(argv.len())
        .saturating_add(to_u64(envp.len()))
        .saturating_add(3 + 64);
    let bytes = words.saturating_mul(8).saturating_add(strings_len);
    let too_long = || StartError::TooLong { bytes, max };
    if bytes > max {
        return Err(too_long());
    }
    let base = aligned_below(top.raw(), strings_len).ok_or_else(too_long)?;
    let mut strings = Strings {
        base,
        bytes: Vec::new(),
    };
    let platform = strings.add(PLATFORM);
    let file = strings.add(file);
    let mut words = vec![to_u64(argv.len())];
    words.extend(argv.iter().map(|text| strings.add(text)));
    words.push(0);
    words.extend(envp.iter().map(|text| strings.add(text)));
    words.push(0);
    for (key, value) in pairs(aux, platform, file) {
        words.extend([key, value]);
    }

    let words: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    let rsp = aligned_below(base, to_u64(words.len())).ok_or_else(too_long)?;
    let mut stack = words;
    stack.resize(to_usize(base.saturating_sub(rsp)), 0);
    stack.extend(strings.bytes);
    Ok((GuestVirt::new(rsp), stack))
}

fn pairs(aux: &Auxv, platform: u64, file: u64) -> Vec<(u64, u64)> {
    let id = USER_ID;
    let mut pairs = Vec::with_capacity(24);
    if let Some(vdso) = aux.vdso {
        pairs.push((libc::AT_SYSINFO_EHDR, vdso.raw()));
    }
    pairs.extend([
        (libc::AT_MINSIGSTKSZ, SIGNAL_STACK),
        (libc::AT_HWCAP, aux.hwcap),
        (libc::AT_PAGESZ, PAGE_SIZE),
        (libc::AT_CLKTCK, CLOCK_TICKS),
        (libc::AT_PHDR, aux.phdr.raw()),
        (libc::AT_PHENT, HEADER_ENTRY),
        (libc::AT_PHNUM, aux.phnum.into()),
        (libc::AT_BASE, 0),
        (libc::AT_FLAGS, 0),
        (libc::AT_ENTRY, aux.entry.raw()),
        (libc::AT_UID, id),
        (libc::AT_EUID, id),
        (libc::AT_GID, id),
        (libc::AT_EGID, id),
        (libc::AT_SECURE, 0),
        (libc::AT_RANDOM, aux.random.raw()),
        (libc::AT_HWCAP2, HWCAP2_FSGSBASE),
        (libc::AT_EXECFN, file),
        (libc::AT_PLATFORM, platform),
        (libc::AT_NULL, 0),
    ]);
    pairs
}

/// C strings one behind the other.
struct Strings {
    base: u64,
    bytes: Vec<u8>,
}

impl Strings {
    /// Adds one and says where it is going to be.
    fn add(&mut self, text: &[u8]) -> u64 {
        let address = self.base.saturating_add(to_u64(self.bytes.len()));
        self.bytes.extend_from_slice(text);
        self.bytes.push(0);
        address
    }
}

fn aligned_below(address: u64, len: u64) -> Option<u64> {
    Some(address.checked_sub(len)? & !15)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: u64 = 0x7f_f000;
    const MAX: u64 = 1 << 20;

    fn aux() -> Auxv {
        Auxv {
            phdr: GuestVirt::new(0x40_0040),
            phnum: 9,
            entry: GuestVirt::new(0x40_1234),
            random: GuestVirt::new(0x19080),
            vdso: Some(GuestVirt::new(0x1a000)),
            hwcap: 0x1f8b_fbff,
        }
    }

    /// A stack read back the way `_start` reads it.
    struct Reader {
        rsp: u64,
        bytes: Vec<u8>,
        next: usize,
    }

    impl Reader {
        fn new(argv: &[&[u8]], envp: &[&[u8]], aux: &Auxv) -> Self {
            let (rsp, bytes) = build(GuestVirt::new(TOP), MAX, argv, envp, aux).unwrap();
            let rsp = rsp.raw();
            assert_eq!(rsp % 16, 0, "the ABI wants rsp 16-byte aligned");
            assert!(rsp + bytes.len() as u64 <= TOP);
            Self {
                rsp,
                bytes,
                next: 0,
            }
        }

        fn word(&mut self) -> u64 {
            let bytes = &self.bytes[self.next..self.next + 8];
            self.next += 8;
            u64::from_le_bytes(bytes.try_into().unwrap())
        }

        fn text(&self, address: u64) -> Vec<u8> {
            let start = usize::try_from(address - self.rsp).unwrap();
            let rest = &self.bytes[start..];
            rest[..rest.iter().position(|&it| it == 0).unwrap()].to_vec()
        }

        fn strings(&mut self) -> Vec<Vec<u8>> {
            let mut all = Vec::new();
            loop {
                match self.word() {
                    0 => return all,
                    address => all.push(self.text(address)),
                }
            }
        }

        fn pairs(&mut self) -> Vec<(u64, u64)> {
            let mut all = Vec::new();
            loop {
                let pair = (self.word(), self.word());
                if pair.0 == libc::AT_NULL {
                    return all;
                }
                all.push(pair);
            }
        }
    }

    #[test]
    fn a_program_finds_its_arguments_and_environment() {
        for (argc, envc) in [(0, 0), (1, 0), (1, 1), (2, 1), (5, 4), (64, 33)] {
            let argv: Vec<Vec<u8>> = (0..argc).map(|n| vec![b'a'; n]).collect();
            let envp: Vec<Vec<u8>> = (0..envc).map(|n| format!("K{n}=v").into_bytes()).collect();
            let argv: Vec<&[u8]> = argv.iter().map(Vec::as_slice).collect();
            let envp: Vec<&[u8]> = envp.iter().map(Vec::as_slice).collect();
            let mut stack = Reader::new(&argv, &envp, &aux());
            assert_eq!(stack.word(), argc as u64);
            assert_eq!(stack.strings(), argv);
            assert_eq!(stack.strings(), envp);
            assert!(!stack.pairs().is_empty());
        }
    }

    #[test]
    fn the_auxiliary_vector_describes_the_program_and_the_machine() {
        let mut stack = Reader::new(&[b"hello"], &[b"A=1"], &aux());
        stack.word();
        stack.strings();
        stack.strings();
        let pairs = stack.pairs();
        let get = |key| pairs.iter().find(|pair| pair.0 == key).map(|pair| pair.1);
        assert_eq!(get(libc::AT_PHDR), Some(0x40_0040));
        assert_eq!(get(libc::AT_PHENT), Some(56));
        assert_eq!(get(libc::AT_PHNUM), Some(9));
        assert_eq!(get(libc::AT_ENTRY), Some(0x40_1234));
        assert_eq!(get(libc::AT_PAGESZ), Some(4096));
        assert_eq!(get(libc::AT_CLKTCK), Some(100));
        assert_eq!(get(libc::AT_RANDOM), Some(0x19080));
        assert_eq!(get(libc::AT_SYSINFO_EHDR), Some(0x1a000));
        assert_eq!(get(libc::AT_HWCAP), Some(0x1f8b_fbff));
        assert_eq!(get(libc::AT_HWCAP2), Some(2));
        assert_eq!(get(libc::AT_MINSIGSTKSZ), Some(3632));
        assert_eq!(get(libc::AT_SECURE), Some(0));
        assert_eq!(get(libc::AT_UID), get(libc::AT_EUID));
        assert_eq!(get(libc::AT_GID), get(libc::AT_EGID));
        assert_eq!(stack.text(get(libc::AT_PLATFORM).unwrap()), b"x86_64");
        assert_eq!(stack.text(get(libc::AT_EXECFN).unwrap()), b"hello");
        let mut keys: Vec<u64> = pairs.iter().map(|pair| pair.0).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), pairs.len(), "a key twice");
    }

    #[test]
    fn without_a_vdso_there_is_no_address_of_one() {
        let aux = Auxv {
            vdso: None,
            ..aux()
        };
        let mut stack = Reader::new(&[], &[], &aux);
        stack.word();
        stack.strings();
        stack.strings();
        assert!(
            stack
                .pairs()
                .iter()
                .all(|pair| pair.0 != libc::AT_SYSINFO_EHDR)
        );
    }

    #[test]
    fn arguments_that_do_not_fit_are_refused_with_their_size() {
        let long = vec![b'x'; 1 << 20];
        let error = build(GuestVirt::new(TOP), MAX, &[b"a", &long], &[], &aux()).unwrap_err();
        assert!(matches!(error, StartError::TooLong { bytes, .. } if bytes > 1 << 20));
        let many: Vec<&[u8]> = vec![b""; 200_000];
        let error = build(GuestVirt::new(TOP), MAX, &[], &many, &aux()).unwrap_err();
        assert!(matches!(error, StartError::TooLong { .. }));
        // No room below the top of the stack at all.
        let error = build(GuestVirt::new(64), MAX, &[b"a"], &[], &aux()).unwrap_err();
        assert!(matches!(error, StartError::TooLong { .. }));
    }

    #[test]
    fn a_string_with_a_nul_is_refused() {
        let error = build(GuestVirt::new(TOP), MAX, &[b"a", b"b\0c"], &[], &aux()).unwrap_err();
        assert_eq!(error, StartError::Nul("b\\x00c".into()));
    }
}
