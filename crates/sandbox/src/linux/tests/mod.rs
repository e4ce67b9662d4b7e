//! A process over real guest memory, without a VM around it: what every family is tested with.

mod docs;
mod files;
mod forks;
mod fuzz;
mod growth;
mod identity;
mod mapping;
mod paths;
mod polling;
mod signals;
mod time;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::args::unsigned;
use super::{AllowedPath, Call, FsBase, Outcome, Process, ProcessConfig, dispatch};
use crate::memory::{Place, Protection};
use crate::{Action, GuestVirt, Hypercalls, Memory, Regs, VmCall};

/// Two megabytes of memory that the guest may read and write.
pub(super) const DATA: u64 = 0x40_0000;
pub(super) const DATA_LEN: u64 = 2 << 20;
/// A page that it may only read.
pub(super) const CONST: u64 = 0x80_0000;
/// Nothing is here.
pub(super) const NOWHERE: u64 = 0x7000_0000;
/// What `max_memory` is here, and so what a file may have.
pub(super) const MAX_FILE: u64 = 64 << 20;
pub(super) const MINUS_1: u64 = u64::MAX;

/// What a program wrote to its standard streams.
#[derive(Debug, Default)]
pub(super) struct Log(pub(super) Vec<(u8, Vec<u8>)>);

impl Hypercalls for Log {
    fn hypercall(&mut self, _vm: &mut VmCall<'_>, _number: u32) -> Action {
        Action::Stop
    }

    fn output(&mut self, stream: u8, text: &[u8]) {
        self.0.push((stream, text.to_vec()));
    }
}

impl Log {
    pub(super) fn text(&self) -> String {
        self.0
            .iter()
            .map(|(_, text)| String::from_utf8_lossy(text))
            .collect()
    }
}

/// A guest that makes one system call after the other.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) memory: Memory,
    pub(super) process: Process,
    pub(super) log: Log,
    pub(super) bases: FsBase,
    pub(super) time: Duration,
}

impl Guest {
    pub(super) fn new() -> Self {
        Self::with(&[], false)
    }

    pub(super) fn with(paths: &[AllowedPath], may_write: bool) -> Self {
        let mut memory = Memory::new_main(64 << 20, false).unwrap();
        let at = GuestVirt::new;
        memory.set_layout(
            at(0x100_0000)..at(0x200_0000),
            at(0x1000_0000)..at(0x4000_0000),
        );
        memory
            .map(Place::Fixed(at(DATA)), DATA_LEN, Protection::READ_WRITE)
            .unwrap();
        memory
            .map(Place::Fixed(at(CONST)), 4096, Protection::READ)
            .unwrap();
        let process = Process::new(&ProcessConfig {
            name: b"hello".to_vec(),
            executable: b"/srv/hello".to_vec(),
            paths: paths.to_vec(),
            cwd: b"/work".to_vec(),
            may_write,
            memory: MAX_FILE,
            stack: 4 << 20,
        });
        let (log, bases) = (Log::default(), FsBase::default());
        Self {
            memory,
            process,
            log,
            bases,
            time: Duration::from_secs(10),
        }
    }

    /// A guest whose `/data` is a directory of the host.
    pub(super) fn in_directory(directory: &Path, may_write: bool) -> Self {
        let path = AllowedPath {
            guest: b"/data".to_vec(),
            host: directory.to_path_buf(),
            prefix: true,
            writable: true,
            symlink: false,
        };
        Self::with(&[path], may_write)
    }

    pub(super) fn outcome(&mut self, number: i64, args: &[u64]) -> Outcome {
        let arg = |index: usize| args.get(index).copied().unwrap_or(0);
        let regs = Regs {
            rax: unsigned(number),
            rdi: arg(0),
            rsi: arg(1),
            rdx: arg(2),
            r10: arg(3),
            r8: arg(4),
            r9: arg(5),
            ..Regs::default()
        };
        let mut call = Call {
            regs: &regs,
            memory: &mut self.memory,
            process: &mut self.process,
            output: &mut self.log,
            fs_base: &mut self.bases,
            deadline: Instant::now() + self.time,
        };
        dispatch(&mut call, unsigned(number))
    }

    /// The result of a call that succeeds.
    #[track_caller]
    pub(super) fn ok(&mut self, number: i64, args: &[u64]) -> u64 {
        match self.outcome(number, args) {
            Outcome::Return(value) if value >= 0 => unsigned(value),
            other => panic!("call {number} {args:x?}: {other:?}"),
        }
    }

    /// The errno of a call that fails.
    #[track_caller]
    pub(super) fn errno(&mut self, number: i64, args: &[u64]) -> i32 {
        match self.outcome(number, args) {
            Outcome::Return(value) if value < 0 => i32::try_from(-value).unwrap(),
            other => panic!("call {number} {args:x?}: {other:?}"),
        }
    }

    /// What ends the program at this call.
    #[track_caller]
    pub(super) fn fault(&mut self, number: i64, args: &[u64]) -> crate::Fault {
        match self.outcome(number, args) {
            Outcome::Fault(fault) => fault,
            other => panic!("call {number} {args:x?}: {other:?}"),
        }
    }

    pub(super) fn put(&mut self, at: u64, bytes: &[u8]) -> u64 {
        self.memory.write(GuestVirt::new(at), bytes).unwrap();
        at
    }

    /// Puts a path where paths are put.
    pub(super) fn path(&mut self, path: &str) -> u64 {
        let mut bytes = path.as_bytes().to_vec();
        bytes.push(0);
        self.put(DATA + 0x1000, &bytes)
    }

    pub(super) fn put_words(&mut self, at: u64, words: &[u64]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(at, &bytes)
    }

    pub(super) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(GuestVirt::new(at), &mut bytes).unwrap();
        bytes
    }

    pub(super) fn u32(&self, at: u64) -> u32 {
        self.memory.read_u32(GuestVirt::new(at)).unwrap()
    }

    pub(super) fn u64(&self, at: u64) -> u64 {
        self.memory.read_u64(GuestVirt::new(at)).unwrap()
    }

    /// Opens a path, or says why not.
    pub(super) fn open(&mut self, path: &str, flags: i32) -> Result<u64, i32> {
        let at = self.path(path);
        let flags = super::args::flags(flags);
        match self.outcome(libc::SYS_open, &[at, flags, 0o666]) {
            Outcome::Return(fd) if fd >= 0 => Ok(unsigned(fd)),
            Outcome::Return(errno) => Err(i32::try_from(-errno).unwrap()),
            other => panic!("open {path}: {other:?}"),
        }
    }
}

/// A directory that goes away with the test.
#[derive(Debug)]
pub(super) struct Directory(pub(super) PathBuf);

impl Directory {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tinykvm-linux-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
