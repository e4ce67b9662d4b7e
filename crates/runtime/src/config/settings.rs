//! The settings of a program, resolved: a value for each, in the type and unit it is used in.
//! The defaults stand here, everything else about a setting in `keys.rs`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::outgoing::FetchRule;

/// A size without limit.
pub const UNLIMITED: u64 = u64::MAX;

const MIB: u64 = 1 << 20;

/// What groups, programs and `configure()` can set. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    pub max_boot_time: Duration,
    pub max_request_time: Duration,
    pub max_storage_time: Duration,
    pub max_queue_time: Duration,
    pub max_queue_length: u32,
    pub max_memory: u64,
    /// At least `max_memory`, and a multiple of 2 MiB.
    pub address_space: u64,
    pub max_request_memory: u64,
    pub limit_workmem_after_req: u64,
    pub shared_memory: u64,
    pub cold_start_file: Option<PathBuf>,
    /// 1 to 255.
    pub concurrency: u32,
    pub storage: bool,
    pub hugepages: bool,
    pub hugepage_arena_size: u64,
    pub request_hugepage_arena_size: u64,
    pub split_hugepages: bool,
    pub transparent_hugepages: bool,
    pub stdout: bool,
    /// 0 to 16.
    pub smp: u32,
    pub allow_debug: bool,
    pub remote_debug_on_exception: bool,
    /// 1 to 65535.
    pub debug_port: u32,
    pub control_ephemeral: bool,
    pub ephemeral: bool,
    pub ephemeral_keep_working_memory: bool,
    pub mmap_backed_files: bool,
    pub relocate_fixed_mmap: bool,
    pub main_arguments: Vec<Vec<u8>>,
    /// `NAME=value` each.
    pub environment: Vec<String>,
    pub remappings: Vec<Remapping>,
    pub executable_heap: bool,
    pub allowed_paths: Vec<PathRule>,
    /// What the program may fetch besides its own Varnish.
    pub allowed_fetch: Vec<FetchRule>,
    /// An absolute path of the guest.
    pub current_working_directory: String,
    pub download: Vec<Download>,
    pub verbose: bool,
    pub verbose_syscalls: bool,
    pub verbose_pagetables: bool,
    pub server: Option<Server>,
    pub websocket_server: Option<Server>,
    pub warmup: Option<Warmup>,
    pub strict: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_boot_time: Duration::from_secs(16),
            max_request_time: Duration::from_secs(8),
            max_storage_time: Duration::from_secs(10),
            max_queue_time: Duration::from_secs(60),
            max_queue_length: 1000,
            max_memory: 256 * MIB,
            address_space: 256 * MIB,
            max_request_memory: 64 * MIB,
            limit_workmem_after_req: UNLIMITED,
            shared_memory: 0,
            cold_start_file: None,
            concurrency: 2,
            storage: false,
            hugepages: false,
            hugepage_arena_size: 0,
            request_hugepage_arena_size: 0,
            split_hugepages: true,
            transparent_hugepages: false,
            stdout: false,
            smp: 0,
            allow_debug: false,
            remote_debug_on_exception: false,
            debug_port: 2159,
            control_ephemeral: false,
            ephemeral: true,
            ephemeral_keep_working_memory: true,
            mmap_backed_files: true,
            relocate_fixed_mmap: true,
            main_arguments: Vec::new(),
            environment: Vec::new(),
            remappings: Vec::new(),
            executable_heap: false,
            allowed_paths: Vec::new(),
            allowed_fetch: Vec::new(),
            current_working_directory: "/".into(),
            download: Vec::new(),
            verbose: false,
            verbose_syscalls: false,
            verbose_pagetables: false,
            server: None,
            websocket_server: None,
            warmup: None,
            strict: false,
        }
    }
}

/// An extra area of the guest's address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Remapping {
    pub address: u64,
    /// In bytes, whole MiB.
    pub size: u64,
    pub access: Access,
}

/// What a remapped area is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    ReadWrite,
    ReadWriteExecute,
    /// Nothing may ever be mapped there.
    Nothing,
}

/// A file or directory of the host that the guest may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PathRule {
    /// What the host opens.
    pub real: String,
    /// What the guest calls it.
    pub virtual_path: String,
    /// Everything below it, too.
    pub prefix: bool,
    pub writable: bool,
    /// `readlink` of `virtual_path` answers `real`.
    pub symlink: bool,
}

/// A file fetched before the program starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Download {
    pub uri: String,
    pub filepath: String,
    pub sha256: Option<[u8; 32]>,
}

/// A raw server beside HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    pub port: Option<u16>,
    /// Of a Unix socket.
    pub path: String,
    pub address: String,
    pub systems: u32,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            port: None,
            path: String::new(),
            address: String::new(),
            systems: 1,
        }
    }
}

/// Requests that a program answers before it is frozen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Warmup {
    pub num_requests: u32,
    /// Exactly that many; otherwise it ends when they get no faster.
    pub exact: bool,
    pub url: String,
    pub method: String,
    pub headers: BTreeSet<String>,
}

impl Default for Warmup {
    fn default() -> Self {
        Self {
            num_requests: 20,
            exact: false,
            url: "/".into(),
            method: "GET".into(),
            headers: BTreeSet::from(["User-Agent: tinykvm".into()]),
        }
    }
}
