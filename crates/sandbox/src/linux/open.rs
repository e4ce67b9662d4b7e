//! From a guest's path to an open file: names are resolved against the working directory, looked
//! up in the policy, and opened only if they are regular files or directories.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::args::{low_i32, low_u32};
use super::fds::{Device, HostDirectory, HostFile, Kind};
use super::paths::{Use, normalise, open_host};
use super::{Answer, Call, Errno, Stop, files, refuse, status};
use crate::address::GuestVirt;
use crate::descriptors::Holder;

/// As on Linux, with the NUL.
const PATH_MAX: usize = 4096;

/// A path as the guest means it: absolute and normalised.
#[derive(Debug, Clone)]
pub(super) struct Name {
    pub(super) path: Vec<u8>,
    /// It ended in a slash (or in `.`), so it has to be a directory.
    pub(super) directory: bool,
}

/// What a name leads to.
#[derive(Debug)]
pub(super) enum Target {
    /// A file of the host, by the host's name.
    Host(CString),
    Device(Device),
    /// A directory that is only known to exist.
    Ancestor,
    Refused,
}

/// Reads a path and makes it absolute.
pub(super) fn name(call: &Call<'_>, dirfd: i32, path: u64) -> Result<Name, Stop> {
    let path = call.memory.read_cstr(GuestVirt::new(path), PATH_MAX - 1)?;
    if path.is_empty() {
        return refuse(libc::ENOENT);
    }
    let last = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let directory = matches!(last, b"" | b"." | b"..");
    let path = if path.starts_with(b"/") || dirfd == libc::AT_FDCWD {
        normalise(&call.process.cwd, &path)
    } else {
        match &call.process.files().get(dirfd)?.kind {
            Kind::Directory(base) => normalise(&base.path, &path),
            _ => return refuse(libc::ENOTDIR),
        }
    };
    Ok(Name { path, directory })
}

/// Whether the path argument is the empty string (or, as newer kernels allow, a null pointer).
pub(super) fn is_empty_path(call: &Call<'_>, path: u64) -> Result<bool, Stop> {
    let mut first = [0];
    if path != 0 {
        call.memory.read(GuestVirt::new(path), &mut first)?;
    }
    Ok(first == [0])
}

/// Looks a name up. Writing is refused to VMs that may not write, whatever the policy says.
pub(super) fn find(call: &Call<'_>, name: &Name, wanted: Use) -> Target {
    let facts = &call.process.facts;
    let path: &[u8] = match name.path.as_slice() {
        b"/proc/self/exe" => &facts.executable,
        b"/dev/null" => return Target::Device(Device::Null),
        b"/dev/zero" => return Target::Device(Device::Zero),
        b"/dev/random" | b"/dev/urandom" => return Target::Device(Device::Random),
        path => path,
    };
    if wanted != Use::Read && !call.process.may_write {
        return Target::Refused;
    }
    if let Some(host) = facts.policy.host_path(path, wanted) {
        return Target::Host(host);
    }
    let leads_on =
        facts.policy.is_ancestor(path) || super::paths::below(&call.process.cwd, path).is_some();
    if leads_on && wanted == Use::Read {
        Target::Ancestor
    } else {
        Target::Refused
    }
}

pub(super) fn open(call: &mut Call<'_>) -> Answer {
    let [path, flags, mode, ..] = call.args();
    open_at(call, libc::AT_FDCWD, path, low_i32(flags), low_u32(mode))
}

pub(super) fn creat(call: &mut Call<'_>) -> Answer {
    let [path, mode, ..] = call.args();
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    open_at(call, libc::AT_FDCWD, path, flags, low_u32(mode))
}

pub(super) fn openat(call: &mut Call<'_>) -> Answer {
    let [dirfd, path, flags, mode, ..] = call.args();
    open_at(call, low_i32(dirfd), path, low_i32(flags), low_u32(mode))
}

/// Flags that the host gets to see; the rest means nothing here.
const PASSED_ON: i32 = libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_EXCL
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_SYNC;

fn open_at(call: &mut Call<'_>, dirfd: i32, path: u64, flags: i32, mode: u32) -> Answer {
    let name = name(call, dirfd, path)?;
    if flags & libc::O_TMPFILE == libc::O_TMPFILE {
        return refuse(libc::EOPNOTSUPP);
    }
    let path_only = flags & libc::O_PATH != 0;
    let access = flags & libc::O_ACCMODE;
    // O_TRUNC empties files that are opened read-only, too.
    let changes = access != libc::O_RDONLY || flags & (libc::O_CREAT | libc::O_TRUNC) != 0;
    let wanted = if changes && !path_only {
        Use::Write
    } else {
        Use::Read
    };
    let nonblocking = flags & libc::O_NONBLOCK != 0;
    let close_on_exec = flags & libc::O_CLOEXEC != 0;
    let kind = match find(call, &name, wanted) {
        Target::Device(_) if flags & libc::O_DIRECTORY != 0 || name.directory => {
            return refuse(libc::ENOTDIR);
        }
        Target::Device(device) => Kind::Device(device),
        Target::Ancestor => return refuse(libc::EACCES),
        Target::Refused => {
            return refuse(if wanted == Use::Write {
                libc::EPERM
            } else {
                libc::EACCES
            });
        }
        Target::Host(host) => {
            let mut passed = flags & PASSED_ON;
            if path_only {
                passed = libc::O_PATH | flags & (libc::O_DIRECTORY | libc::O_NOFOLLOW);
            }
            if name.directory {
                passed |= libc::O_DIRECTORY;
            }
            let mode = mode & 0o777 & !call.process.umask;
            let file = open_host(&host, passed, mode)?;
            if !Holder::Guest.may_keep(&file) {
                return refuse(libc::ENFILE);
            }
            host_kind(call, file, name.path, flags)?
        }
    };
    let fd = call
        .process
        .files_mut()
        .insert(kind, nonblocking, close_on_exec)?;
    Ok(files::fd_value(fd))
}

/// What a freshly opened host file is. Anything that could block or act on being read is let go.
fn host_kind(call: &Call<'_>, file: OwnedFd, path: Vec<u8>, flags: i32) -> Result<Kind, Errno> {
    let status = status::of_host(&file)?;
    let file = Arc::new(file);
    let readable = flags & libc::O_PATH == 0;
    let access = flags & libc::O_ACCMODE;
    if status.is_directory() {
        return Ok(Kind::Directory(HostDirectory {
            file,
            path: path.into(),
            position: 0,
            readable,
        }));
    }
    if !status.is_regular() {
        return Err(Errno(libc::EACCES));
    }
    Ok(Kind::File(HostFile {
        file,
        offset: 0,
        readable: readable && access != libc::O_WRONLY,
        writable: readable && access != libc::O_RDONLY && call.process.may_write,
        append: flags & libc::O_APPEND != 0,
    }))
}
