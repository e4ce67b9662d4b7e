//! What an instance of a program is made from: settings, resolved, and the bytes of its binary.

use std::time::Duration;

use sandbox::gdb::Debugging;
use sandbox::{AllowedPath, Region};

use crate::outgoing::FetchRule;

use crate::source::Binaries;
use crate::update::Stored;

/// Where a program's settings and binaries come from, each time it is started. All of it may
/// block: it is called on threads of ours. Errors are what an operator reads.
pub trait Source: Send + Sync {
    /// The settings; what they ask for besides the binaries is there when this returns.
    fn recipe(&self) -> Result<Recipe, String>;

    /// What a load starts from. A live update brings its own.
    fn binaries(&self) -> Result<Binaries, String>;

    /// Keeps what a live update has brought where the next load finds it, if there is such a place.
    fn keep(&self, _binaries: &Binaries) -> Stored {
        Stored::No
    }
}

/// The settings that matter to the runtime. Sizes are bytes.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub name: String,
    pub group: String,
    /// `argv[1]` and on.
    pub main_arguments: Vec<Vec<u8>>,
    /// `NAME=value`.
    pub environment: Vec<Vec<u8>>,
    /// What `/proc/self/exe` points to.
    pub executable: Vec<u8>,
    pub paths: Vec<AllowedPath>,
    pub current_working_directory: Vec<u8>,
    /// What the program may fetch besides its own Varnish.
    pub allowed_fetch: Vec<FetchRule>,
    pub max_boot_time: Duration,
    pub max_request_time: Duration,
    /// For one call into the storage VM.
    pub max_storage_time: Duration,
    pub max_memory: u64,
    pub address_space: u64,
    pub max_request_memory: u64,
    /// What all request VMs and the main VM share.
    pub shared_memory: u64,
    /// Areas of address space that are not the program's to arrange.
    pub regions: Vec<Region>,
    pub large_pages: bool,
    /// What a request VM keeps of its memory for the next request (`limit_workmem_after_req`).
    pub keep_memory: u64,
    pub executable_heap: bool,
    /// Request VMs are reset after each request.
    pub ephemeral: bool,
    /// `main()` may decide about that.
    pub control_ephemeral: bool,
    /// What more than usual is said about the program.
    pub voice: Voice,
    /// When it waits for a debugger.
    pub debugging: Debugging,
    /// The program has a storage VM.
    pub storage: bool,
    /// Request VMs.
    pub concurrency: usize,
    /// Requests that may wait for one of those.
    pub max_waiting: usize,
    /// Requests that the main VM answers before it is frozen.
    pub warmup: Option<Warming>,
}

/// Requests for a program, to fill its caches with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warming {
    /// So many; unless `exact`, it ends when that many in a row were not faster than the fastest.
    pub requests: u32,
    pub exact: bool,
    pub method: Vec<u8>,
    pub url: Vec<u8>,
    /// "Name: value".
    pub headers: Vec<Vec<u8>>,
}

impl Recipe {
    /// A program with default settings.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            group: String::new(),
            main_arguments: Vec::new(),
            environment: Vec::new(),
            executable: Vec::new(),
            paths: Vec::new(),
            current_working_directory: b"/".to_vec(),
            allowed_fetch: Vec::new(),
            max_boot_time: Duration::from_secs(16),
            max_request_time: Duration::from_secs(8),
            max_storage_time: Duration::from_secs(10),
            max_memory: 256 << 20,
            address_space: 256 << 20,
            max_request_memory: 64 << 20,
            shared_memory: 0,
            regions: Vec::new(),
            large_pages: false,
            keep_memory: u64::MAX,
            executable_heap: false,
            ephemeral: true,
            control_ephemeral: false,
            voice: Voice::default(),
            debugging: Debugging::default(),
            storage: false,
            concurrency: 2,
            max_waiting: 1000,
            warmup: None,
        }
    }
}

/// What more than usual is said about a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Voice {
    /// What it prints goes to standard output, too.
    pub stdout: bool,
    /// Its start, in detail.
    pub start: bool,
    /// Its system calls.
    pub system_calls: bool,
    /// Its mappings after the start.
    pub mappings: bool,
}

/// What a program expects of callers that it has no VM for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long each of them waits, for the program to start and for a VM, together.
    pub time: Duration,
    /// So many wait for the program to start: those it has VMs for, and those who may wait for one.
    pub callers: usize,
}

impl Default for Patience {
    fn default() -> Self {
        let Recipe {
            concurrency,
            max_waiting,
            ..
        } = Recipe::new("");
        Self {
            time: Duration::from_secs(60),
            callers: concurrency.saturating_add(max_waiting),
        }
    }
}

/// Which thread a request VM runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Threads {
    /// The caller's where the host changes a virtual CPU's thread cheaply, otherwise its own.
    #[default]
    AsHostLikes,
    /// The caller's.
    Callers,
    /// Its own.
    Own,
}

/// What statistics call the type of a binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BinaryKind {
    Static,
    StaticPie,
    Unknown,
}

impl BinaryKind {
    /// By the e_type field of a binary that was found loadable.
    pub(crate) fn of(elf: &[u8]) -> Self {
        match elf.get(16..18) {
            Some([2, 0]) => Self::Static,
            Some([3, 0]) => Self::StaticPie,
            _ => Self::Unknown,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::StaticPie => "static-pie",
            Self::Unknown => "unknown",
        }
    }
}
