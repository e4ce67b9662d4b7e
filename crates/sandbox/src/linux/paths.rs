//! Which files of the host a program may name, and how a name becomes an open file.
//!
//! The invariant: no host path is ever opened that is not the `host` of an entry, or below it for
//! a prefix entry. Guest names are made absolute and freed of `.` and `..` before they are
//! compared, and compared by whole components, so `/data/../etc` and `/database` do not pass for
//! `/data`. Symbolic links that the operator keeps below an entry are followed; links of `/proc`
//! into other processes' files are not.

use std::ffi::{CStr, CString};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::Errno;
use super::args::{flags as flag_bits, low_i32};

/// A file or directory of the host that a program may use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowedPath {
    /// The name the guest uses; one without a leading slash counts from the working directory
    /// that the program starts in.
    pub guest: Vec<u8>,
    /// What the host opens.
    pub host: PathBuf,
    /// Everything below is allowed as well.
    pub prefix: bool,
    /// It may also be written to, by VMs that may write at all.
    pub writable: bool,
    /// `readlink` of `guest` answers `host`.
    pub symlink: bool,
}

/// What a name is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
    /// To take the name away: a change of the folder that it is in.
    Remove,
}

/// The allowed paths of one program, in the order of its configuration: the first match counts.
#[derive(Debug)]
pub(super) struct Policy {
    entries: Vec<AllowedPath>,
}

impl Policy {
    pub(super) fn new(cwd: &[u8], allowed: &[AllowedPath]) -> Self {
        let absolute = |path: &AllowedPath| AllowedPath {
            guest: normalise(cwd, &path.guest),
            ..path.clone()
        };
        Self {
            entries: allowed.iter().map(absolute).collect(),
        }
    }

    /// The host's name of a normalised guest path, if it is allowed.
    pub(super) fn host_path(&self, guest: &[u8], wanted: Use) -> Option<CString> {
        self.entries
            .iter()
            .filter(|entry| entry.writable || wanted == Use::Read)
            .find_map(|entry| {
                let rest = below(guest, &entry.guest)?;
                (entry.prefix || rest.is_empty()).then_some((entry, rest))
            })
            .filter(|(_, rest)| wanted != Use::Remove || !rest.is_empty())
            .and_then(|(entry, rest)| {
                let mut host = entry.host.as_os_str().as_bytes().to_vec();
                host.extend_from_slice(rest);
                CString::new(host).ok()
            })
    }

    /// What `readlink` of this path answers, where an entry says so.
    pub(super) fn link_target(&self, guest: &[u8]) -> Option<&[u8]> {
        let entry = self
            .entries
            .iter()
            .find(|entry| entry.symlink && entry.guest == guest)?;
        let target = entry.host.as_os_str().as_bytes();
        (target != guest).then_some(target)
    }

    /// Whether an allowed path lies below this one. The guest may know that it is a directory.
    pub(super) fn is_ancestor(&self, guest: &[u8]) -> bool {
        self.entries
            .iter()
            .any(|entry| below(&entry.guest, guest).is_some())
    }
}

/// What follows `parent` in `path`: empty or starting with a slash. `None`: it is not below.
pub(super) fn below<'a>(path: &'a [u8], parent: &[u8]) -> Option<&'a [u8]> {
    if parent == b"/" {
        return Some(if path == b"/" { b"" } else { path });
    }
    let rest = path.strip_prefix(parent)?;
    (rest.is_empty() || rest.starts_with(b"/")).then_some(rest)
}

/// `path` seen from `base` (which is absolute), without `.`, `..`, and double slashes.
pub(super) fn normalise(base: &[u8], path: &[u8]) -> Vec<u8> {
    let base: &[u8] = if path.starts_with(b"/") { b"" } else { base };
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in base
        .split(|&byte| byte == b'/')
        .chain(path.split(|&byte| byte == b'/'))
    {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    let mut absolute = Vec::with_capacity(base.len() + path.len() + 1);
    for part in parts {
        absolute.push(b'/');
        absolute.extend_from_slice(part);
    }
    if absolute.is_empty() {
        absolute.push(b'/');
    }
    absolute
}

/// The kernel's `struct open_how`.
#[repr(C)]
#[derive(Debug)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Opens a host file without ever waiting for it, becoming its terminal's owner, or following one
/// of `/proc`'s links.
pub(super) fn open_host(path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK;
    let path_only = flags & libc::O_PATH != 0;
    // openat2 refuses flags that O_PATH ignores.
    let flags = if path_only {
        flags & !(libc::O_NOCTTY | libc::O_NONBLOCK)
    } else {
        flags
    };
    let mode = if flags & libc::O_CREAT != 0 { mode } else { 0 };
    let how = OpenHow {
        flags: flag_bits(flags),
        mode: u64::from(mode),
        resolve: libc::RESOLVE_NO_MAGICLINKS,
    };
    let how_size = size_of::<OpenHow>();
    // SAFETY: `path` is a C string and `how` a structure of the size given; both outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            libc::AT_FDCWD,
            path.as_ptr(),
            &raw const how,
            how_size,
        )
    };
    if fd >= 0 {
        return owned(low_i32(super::args::unsigned(fd)));
    }
    match Errno::last() {
        // Kernels before 5.6, and seccomp filters of containers.
        Errno(libc::ENOSYS | libc::EPERM) => {
            // SAFETY: `path` is a C string that outlives the call.
            owned(unsafe { libc::open(path.as_ptr(), flags, mode) })
        }
        errno => Err(errno),
    }
}

/// Takes over what open(2) returned.
pub(super) fn owned(fd: i32) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
