//! The tables of all keys: names, values, limits, meanings, and whether they have an effect.

use std::path::PathBuf;
use std::time::Duration;

use super::program::ProgramConfig;
use super::settings::{Download, PathRule, Server, Settings, Warmup};
use super::shapes;
use super::table::{Beyond, Key, Kind, Read};

/// 512 GiB, in MiB: what four levels of page tables and the layout can hold.
const MOST_MEMORY: u64 = 512 * 1024;
const TWO_MIB: u64 = 2 << 20;
const NO_LARGE_PAGES: &str = "requests get pages of 4 KiB, which are copied one by one";

const fn flag<T>(field: fn(&mut T) -> &mut bool) -> Kind<T> {
    Kind::Flag(field)
}

/// Up to a day.
const fn seconds(field: fn(&mut Settings) -> &mut Duration) -> Kind<Settings> {
    Kind::Seconds {
        from: Duration::from_millis(1),
        to: Duration::from_secs(86400),
        field,
    }
}

const fn mib(from: u64, field: fn(&mut Settings) -> &mut u64) -> Kind<Settings> {
    Kind::Mib {
        from,
        to: MOST_MEMORY,
        multiple: 1,
        field,
    }
}

const fn arena(field: fn(&mut Settings) -> &mut u64) -> Kind<Settings> {
    Kind::Mib {
        from: 0,
        to: MOST_MEMORY,
        multiple: 2,
        field,
    }
}

const fn number<T>(from: u32, to: u32, field: fn(&mut T) -> &mut u32) -> Kind<T> {
    Kind::Number {
        from,
        to,
        beyond: Beyond::Refused,
        field,
    }
}

const fn path<T>(field: fn(&mut T) -> &mut Option<PathBuf>) -> Kind<T> {
    Kind::Path(field)
}

const fn text<T>(field: fn(&mut T) -> &mut String) -> Kind<T> {
    Kind::Text {
        expanded: false,
        field,
    }
}

const fn special<T>(expects: &'static str, read: Read<T>) -> Kind<T> {
    Kind::Special {
        expects,
        default: "none",
        adds: false,
        read,
    }
}

const fn adding<T>(expects: &'static str, read: Read<T>) -> Kind<T> {
    Kind::Special {
        expects,
        default: "none",
        adds: true,
        read,
    }
}

/// The address space holds the memory and ends where a large page ends.
fn widen(settings: &mut Settings) {
    settings.address_space = settings
        .address_space
        .max(settings.max_memory)
        .next_multiple_of(TWO_MIB);
}

/// Keys that define a program.
pub(super) const PROGRAM: &[Key<ProgramConfig>] = &[
    Key::new(
        "group",
        text(|p| &mut p.group),
        "The group whose settings the program starts from; `test` if absent.",
    ),
    Key::new(
        "filename",
        path(|p| &mut p.filename),
        "The program, an ELF file. With `uri`: where the fetched program is kept, and \
         what is used while the server is down. `$HOME` and `$PWD` are replaced.",
    ),
    Key::new(
        "uri",
        special(shapes::ADDRESS, shapes::uri),
        "Where the program is fetched from when it is loaded, as an ELF file or in an archive.",
    ),
    Key::new(
        "key",
        special("a string", shapes::key),
        "What a live update has to know. Without a key there are no live updates.",
    ),
    Key::new(
        "sha256",
        special(shapes::SHA256, shapes::sha256),
        "Hash of what is fetched, or of the program in it. A matching `filename` is not \
         fetched again; what does not match is not started.",
    ),
    Key::new(
        "md5",
        special(shapes::MD5, shapes::md5),
        "An older kind of hash.",
    )
    .never("use sha256"),
    Key::new(
        "start",
        flag(|p| &mut p.start),
        "Load the program with the VCL instead of at its first request.",
    ),
];

/// Keys of groups, of programs and of `configure()`.
pub(super) const SETTINGS: &[Key<Settings>] = &[
    Key::new(
        "max_boot_time",
        seconds(|s| &mut s.max_boot_time),
        "How long `main()` may take until it waits for requests.",
    ),
    Key::new(
        "max_request_time",
        seconds(|s| &mut s.max_request_time),
        "How long the program may take for a request.",
    ),
    Key::new(
        "max_storage_time",
        seconds(|s| &mut s.max_storage_time),
        "How long a call into the storage VM may take; a task may take half as long again.",
    ),
    Key::new(
        "max_queue_time",
        seconds(|s| &mut s.max_queue_time),
        "How long a request waits for the program to start and for a free VM.",
    ),
    Key::new(
        "max_queue_length",
        number(0, 100_000, |s| &mut s.max_queue_length),
        "How many requests may wait for a free VM; further ones fail at once. While the program \
         starts, that many and `concurrency` more.",
    ),
    Key::new(
        "max_memory",
        mib(1, |s| &mut s.max_memory),
        "Memory that `main()` may touch, and that the storage VM may use. A file that they write, \
         the state file too, has no more.",
    )
    .then(widen),
    Key::new(
        "address_space",
        mib(1, |s| &mut s.address_space),
        "Size of the VM's memory, rounded up to 2 MiB and to `max_memory`.",
    )
    .then(widen),
    Key::new(
        "max_request_memory",
        mib(1, |s| &mut s.max_request_memory),
        "Memory that a request may change, its body included, which has 512 MiB at most (bodies taken in parts: no limit).",
    ),
    Key::new(
        "limit_workmem_after_req",
        mib(0, |s| &mut s.limit_workmem_after_req),
        "A VM that holds more than this after a request gives its memory back.",
    )
    .alias(&["req_mem_limit_after_reset"]),
    Key::new(
        "shared_memory",
        mib(0, |s| &mut s.shared_memory),
        "Memory that the main VM and all request VMs share: nothing in it is copied or reset. It is \
         zero again in the next instance (`shared_memory_area()`).",
    ),
    Key::new(
        "cold_start_file",
        path(|s: &mut Settings| &mut s.cold_start_file),
        "File that keeps the started program, so that the next start is faster. `$HOME` \
         and `$PWD` are replaced.",
    )
    .idle("programs start from their binaries"),
    Key::new(
        "concurrency",
        number(1, 255, |s| &mut s.concurrency),
        "How many VMs serve requests at the same time.",
    ),
    Key::new(
        "storage",
        flag(|s| &mut s.storage),
        "Keep one more VM, never reset, that holds the program's state.",
    ),
    Key::new(
        "hugepages",
        flag(|s: &mut Settings| &mut s.hugepages),
        "Use reserved large pages for the program's memory.",
    )
    .idle(NO_LARGE_PAGES),
    Key::new(
        "hugepage_arena_size",
        arena(|s| &mut s.hugepage_arena_size),
        "How much of the program's memory is in large pages. Not 0 switches `hugepages` on.",
    )
    .then(|s| s.hugepages = s.hugepage_arena_size != 0)
    .idle(NO_LARGE_PAGES),
    Key::new(
        "request_hugepage_arena_size",
        arena(|s| &mut s.request_hugepage_arena_size),
        "How much of a request's memory is in large pages.",
    )
    .alias(&["request_hugepages"])
    .idle(NO_LARGE_PAGES),
    Key::new(
        "split_hugepages",
        flag(|s: &mut Settings| &mut s.split_hugepages),
        "Whether a request that changes a large page copies 4 KiB of it only.",
    )
    .always("nothing is split because there are no large pages"),
    Key::new(
        "transparent_hugepages",
        flag(|s| &mut s.transparent_hugepages),
        "Ask the host for large pages for the memory that `main()` uses, which then counts in steps \
             of 2 MiB. Needs `advise` in the host's `shmem_enabled`.",
    ),
    Key::new(
        "stdout",
        flag(|s| &mut s.stdout),
        "Print what the program prints to Varnish's standard output as well.",
    ),
    Key::new(
        "smp",
        Kind::Number {
            from: 0,
            to: 16,
            beyond: Beyond::Clamped,
            field: |s: &mut Settings| &mut s.smp,
        },
        "How many virtual CPUs a VM may use at the same time; more than 16 counts as 16.",
    )
    .idle("there is no multiprocessing"),
    Key::new(
        "allow_debug",
        flag(|s| &mut s.allow_debug),
        "Let calls of `sys_breakpoint()` wait for gdb ([how](../guest/README.md)).",
    ),
    Key::new(
        "remote_debug_on_exception",
        flag(|s| &mut s.remote_debug_on_exception),
        "Wait for gdb when the program fails, at its start or in a request.",
    ),
    Key::new(
        "debug_port",
        number(1, 65535, |s| &mut s.debug_port),
        "TCP port of this machine's own address (127.0.0.1) where gdb connects.",
    ),
    Key::new(
        "control_ephemeral",
        flag(|s| &mut s.control_ephemeral),
        "Let `main()` decide by `sys_make_ephemeral()` whether VMs are reset.",
    ),
    Key::new(
        "ephemeral",
        flag(|s| &mut s.ephemeral),
        "Reset the VM after every request. With `false` each VM keeps its own state, and which one a \
             request gets is not defined, until a request fails in it (a client that leaves during an upload is no \
             failure), or a program that waits in a loop makes a body in parts; the log says so.",
    ),
    Key::new(
        "ephemeral_keep_working_memory",
        flag(|s: &mut Settings| &mut s.ephemeral_keep_working_memory),
        "Reset by copying back what was written. With `false` a reset gives all memory back to the \
             host, which is slower. `true` switches `ephemeral` on.",
    )
    .then(|s| s.ephemeral |= s.ephemeral_keep_working_memory),
    Key::new(
        "mmap_backed_files",
        flag(|s: &mut Settings| &mut s.mmap_backed_files),
        "Let the program map large files without copying them.",
    )
    .always("files are copied into the program's memory, whatever their size"),
    Key::new(
        "relocate_fixed_mmap",
        flag(|s: &mut Settings| &mut s.relocate_fixed_mmap),
        "Move mappings at fixed addresses that do not fit.",
    )
    .always("a mapping at a fixed address is made there, anywhere below 128 TiB"),
    Key::new(
        "main_arguments",
        Kind::Texts {
            adds: false,
            field: |s| &mut s.main_arguments,
        },
        "Arguments of `main()` behind the program's name. `$HOME` and `$PWD` are replaced.",
    ),
    Key::new(
        "environment",
        adding(shapes::VARIABLES, shapes::environment),
        "Environment variables. `$HOME` and `$PWD` are replaced.",
    ),
    Key::new(
        "remapping",
        adding(shapes::AREA, shapes::remapping),
        "Areas that can be read and written without being mapped; the program may map over them. Of those \
             above 1 GiB it has to map what it uses.",
    ),
    Key::new(
        "executable_remapping",
        adding(shapes::AREA, shapes::executable),
        "The same, for memory that the program writes and executes.",
    ),
    Key::new(
        "blackout_area",
        adding(shapes::AREA, shapes::blackout),
        "Areas where nothing is ever mapped.",
    ),
    Key::new(
        "executable_heap",
        flag(|s| &mut s.executable_heap),
        "Let the program execute memory that it has written, as a JIT compiler does.",
    ),
    Key::new(
        "allowed_paths",
        adding(shapes::PATHS, shapes::allowed_paths),
        "Files of the host that the program may use. `$HOME` and `$PWD` are replaced in \
         plain paths and in `real`.",
    ),
    Key::new(
        "allowed_fetch",
        adding(shapes::FETCHES, shapes::allowed_fetch),
        "What the program may fetch over HTTP besides its own Varnish (self-requests are always \
         allowed): origins, or paths and all below them; `*` is everything.",
    ),
    Key::new(
        "current_working_directory",
        Kind::Special {
            expects: shapes::ABSOLUTE,
            default: "\"/\"",
            adds: false,
            read: shapes::working_directory,
        },
        "The working directory that the program starts in. `$HOME` and `$PWD` are replaced.",
    ),
    Key::new(
        "download",
        adding(shapes::DOWNLOADS, shapes::downloads),
        "Files to fetch each time before the program is loaded from its configuration.",
    ),
    Key::new(
        "verbose",
        flag(|s| &mut s.verbose),
        "Log more when the program starts: sizes, addresses, entry points.",
    ),
    Key::new(
        "verbose_syscalls",
        flag(|s| &mut s.verbose_syscalls),
        "Log the program's system calls with their results.",
    ),
    Key::new(
        "verbose_pagetables",
        flag(|s| &mut s.verbose_pagetables),
        "Log which addresses are mapped, and how, when the program has started.",
    ),
    Key::new(
        "server",
        special(shapes::SERVER, shapes::server),
        "Let the program serve raw connections.",
    )
    .idle("programs serve HTTP through Varnish only"),
    Key::new(
        "websocket_server",
        special(shapes::WEBSOCKET_SERVER, shapes::websocket_server),
        "Let the program serve WebSocket connections.",
    )
    .never("there is no WebSocket server"),
    Key::new(
        "warmup",
        special("an object", shapes::warmup),
        "Requests that the program answers before its first real one.",
    ),
    Key::new(
        "strict",
        flag(|s| &mut s.strict),
        "Refuse unknown keys instead of warning about them.",
    ),
];

/// Keys of an object in `allowed_paths`.
pub(super) const PATH_RULE: &[Key<PathRule>] = &[
    Key::new(
        "real",
        Kind::Text {
            expanded: true,
            field: |r| &mut r.real,
        },
        "The path on the host; needed.",
    ),
    Key::new(
        "virtual",
        text(|r| &mut r.virtual_path),
        "The path that the program uses; `real` if absent.",
    ),
    Key::new(
        "prefix",
        flag(|r| &mut r.prefix),
        "Everything below the path is allowed as well.",
    ),
    Key::new(
        "writable",
        flag(|r| &mut r.writable),
        "Writing is allowed as well, before the program is frozen and in storage. A file has at \
         most `max_memory`.",
    ),
    Key::new(
        "symlink",
        flag(|r| &mut r.symlink),
        "`virtual` is a symbolic link to `real`. Ignored where `writable` is given.",
    ),
];

/// Keys of an object in `download`.
pub(super) const DOWNLOAD: &[Key<Download>] = &[
    Key::new(
        "uri",
        special(shapes::ADDRESS, shapes::download_uri),
        "Where the file is fetched from; needed.",
    ),
    Key::new(
        "filepath",
        special("a string", shapes::download_filepath),
        "Where it is kept; needed.",
    ),
    Key::new(
        "sha256",
        special(shapes::SHA256, shapes::download_sha256),
        "Hash of the file. A matching file is not fetched again; without a matching one the \
         program does not start.",
    ),
    Key::new(
        "md5",
        special(shapes::MD5, shapes::md5),
        "An older kind of hash.",
    )
    .never("use sha256"),
];

/// Keys of `server` and `websocket_server`.
pub(super) const SERVER: &[Key<Server>] = &[
    Key::new("port", special(shapes::PORT, shapes::port), "TCP port."),
    Key::new(
        "path",
        text(|s| &mut s.path),
        "Unix socket, instead of a port.",
    ),
    Key::new("address", text(|s| &mut s.address), "Address to listen on."),
    Key::new(
        "systems",
        number(1, 255, |s| &mut s.systems),
        "How many VMs serve connections.",
    ),
];

/// Keys of `warmup`.
pub(super) const WARMUP: &[Key<Warmup>] = &[
    Key::new(
        "num_requests",
        number(0, 65535, |w| &mut w.num_requests),
        "How many requests, or, unless `exact`, how many without getting faster.",
    ),
    Key::new(
        "exact",
        flag(|w| &mut w.exact),
        "Make exactly `num_requests`.",
    ),
    Key::new("url", text(|w| &mut w.url), "URL of each request."),
    Key::new("method", text(|w| &mut w.method), "Method of each request."),
    Key::new(
        "headers",
        Kind::Special {
            expects: shapes::HEADERS,
            default: "\"User-Agent: tinykvm\"",
            adds: true,
            read: shapes::headers,
        },
        "Header fields of each request.",
    ),
];
