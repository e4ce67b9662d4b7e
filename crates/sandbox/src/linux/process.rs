//! The state of the one process in a VM: what a fork copies and a reset restores.
//!
//! Everything large is shared with the frozen image until it changes, so forking and resetting a
//! VM whose program changed nothing allocates nothing and takes no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::fds::Descriptors;
use super::paths::{AllowedPath, Policy};
use super::signals::{AltStack, Dispositions};

/// Bytes of output that one request may write; the rest is dropped.
pub(super) const OUTPUT_BUDGET: u64 = 1 << 20;

/// The only process there is. Its number is not 1: programs take 1 for "I am init".
pub(super) const PID: u64 = 2;

/// What a process is made from.
#[derive(Debug, Clone)]
pub(crate) struct ProcessConfig {
    /// The program's name: what `prctl(PR_GET_NAME)` starts with.
    pub(crate) name: Vec<u8>,
    /// What `/proc/self/exe` points to, as the guest names it.
    pub(crate) executable: Vec<u8>,
    /// The files the program may use.
    pub(crate) paths: Vec<AllowedPath>,
    /// The working directory it starts in.
    pub(crate) cwd: Vec<u8>,
    /// Whether `writable` paths are: true for main and storage VMs.
    pub(crate) may_write: bool,
    /// Bytes of memory the program may use, for sysinfo(2); a file that it writes has no more.
    pub(crate) memory: u64,
    /// Bytes of its main stack, for getrlimit(2).
    pub(crate) stack: u64,
}

/// What never changes while the program runs, and what its forks share.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) executable: Vec<u8>,
    pub(super) policy: Policy,
    pub(super) started: Instant,
    pub(super) memory: u64,
    pub(super) stack: u64,
    /// One bit per call number that was already reported as missing; the last word is for numbers
    /// beyond the table. Not part of any reset: a program is told once, not once per request.
    reported: [AtomicU64; 9],
}

impl Facts {
    /// True the first time it is asked about `number`.
    pub(super) fn first_report_of(&self, number: u64) -> bool {
        let (word, bit) = match usize::try_from(number / 64) {
            Ok(word) if word < 8 => (word, 1 << (number % 64)),
            _ => (8, 1),
        };
        let old = self
            .reported
            .get(word)
            .map_or(bit, |word| word.fetch_or(bit, Ordering::Relaxed));
        old & bit == 0
    }
}

/// Everything the Linux side of a VM remembers between two system calls.
#[derive(Debug)]
pub(crate) struct Process {
    pub(super) facts: Arc<Facts>,
    pub(super) may_write: bool,
    files: Arc<Descriptors>,
    pub(super) cwd: Arc<[u8]>,
    pub(super) dispositions: Arc<Dispositions>,
    pub(super) blocked: u64,
    pub(super) pending: u64,
    pub(super) alt_stack: AltStack,
    pub(super) thread_name: [u8; 16],
    pub(super) umask: u32,
    /// Bytes of output still accepted, and whether their end was reported.
    pub(super) output_left: u64,
    pub(super) output_cut: bool,
}

impl Process {
    /// A process as `execve` leaves it: standard streams, default signals.
    pub(crate) fn new(config: &ProcessConfig) -> Self {
        let cwd = super::paths::normalise(b"/", &config.cwd);
        let mut thread_name = [0; 16];
        thread_name
            .iter_mut()
            .zip(config.name.iter().take(15))
            .for_each(|(to, from)| *to = *from);
        Self {
            facts: Arc::new(Facts {
                executable: super::paths::normalise(&cwd, &config.executable),
                policy: Policy::new(&cwd, &config.paths),
                started: Instant::now(),
                memory: config.memory,
                stack: config.stack,
                reported: Default::default(),
            }),
            may_write: config.may_write,
            files: Arc::new(Descriptors::standard()),
            cwd: cwd.into(),
            dispositions: Arc::new(Dispositions::default()),
            blocked: 0,
            pending: 0,
            alt_stack: AltStack::default(),
            thread_name,
            umask: 0o022,
            output_left: OUTPUT_BUDGET,
            output_cut: false,
        }
    }

    /// The process of a request VM: as this one is, without the right to write files.
    pub(crate) fn fork(&self) -> Self {
        Self {
            facts: Arc::clone(&self.facts),
            may_write: false,
            files: Arc::clone(&self.files),
            cwd: Arc::clone(&self.cwd),
            dispositions: Arc::clone(&self.dispositions),
            blocked: self.blocked,
            pending: self.pending,
            alt_stack: self.alt_stack,
            thread_name: self.thread_name,
            umask: self.umask,
            output_left: OUTPUT_BUDGET,
            output_cut: false,
        }
    }

    /// The process of a VM that keeps what it is told: as `fork`, with this one's right to write.
    pub(crate) fn fork_to_last(&self) -> Self {
        Self {
            may_write: self.may_write,
            ..self.fork()
        }
    }

    /// Lets the process print as much again as after a fork.
    pub(crate) fn renew_output(&mut self) {
        self.output_left = OUTPUT_BUDGET;
        self.output_cut = false;
    }

    /// Undoes everything since the fork from `frozen`. What was opened since is closed.
    pub(crate) fn reset_to(&mut self, frozen: &Self) {
        let Self {
            facts: _,     // never changes
            may_write: _, // belongs to the VM, not to the request
            files,
            cwd,
            dispositions,
            blocked,
            pending,
            alt_stack,
            thread_name,
            umask,
            output_left,
            output_cut,
        } = self;
        if !Arc::ptr_eq(files, &frozen.files) {
            *files = Arc::clone(&frozen.files);
        }
        if !Arc::ptr_eq(cwd, &frozen.cwd) {
            *cwd = Arc::clone(&frozen.cwd);
        }
        if !Arc::ptr_eq(dispositions, &frozen.dispositions) {
            *dispositions = Arc::clone(&frozen.dispositions);
        }
        *blocked = frozen.blocked;
        *pending = frozen.pending;
        *alt_stack = frozen.alt_stack;
        *thread_name = frozen.thread_name;
        *umask = frozen.umask;
        *output_left = OUTPUT_BUDGET;
        *output_cut = false;
    }

    pub(super) fn files(&self) -> &Descriptors {
        &self.files
    }

    /// The open files, to be changed: from here on they are this VM's own.
    pub(super) fn files_mut(&mut self) -> &mut Descriptors {
        Arc::make_mut(&mut self.files)
    }
}
