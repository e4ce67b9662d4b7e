//! Changing the host's file system: only below `writable` paths, only in VMs that may write.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use super::args::{low_i32, low_u32, read_words, signed};
use super::fds::Kind;
use super::open::{self, Target};
use super::paths::{Use, open_host, owned};
use super::status::Status;
use super::{Answer, Call, Errno, Stop, limits, refuse, status};
use crate::address::GuestVirt;

/// A writable path, opened up to its parent: the last component is never followed.
struct Place {
    parent: OwnedFd,
    name: CString,
}

fn place(call: &Call<'_>, dirfd: i32, path: u64, wanted: Use) -> Result<Place, Stop> {
    let host = changeable_path(call, dirfd, path, wanted)?;
    let bytes = host.as_bytes();
    let split = bytes
        .iter()
        .rposition(|&byte| byte == b'/')
        .ok_or(Errno(libc::EPERM))?;
    let (parent, name) = bytes.split_at(split);
    let parent = if parent.is_empty() { b"/" } else { parent };
    let name = name
        .get(1..)
        .filter(|name| !name.is_empty())
        .ok_or(Errno(libc::EPERM))?;
    let c_string = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno(libc::EINVAL));
    let parent = open_host(&c_string(parent)?, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    Ok(Place {
        parent,
        name: c_string(name)?,
    })
}

fn writable_path(call: &Call<'_>, dirfd: i32, path: u64) -> Result<CString, Stop> {
    changeable_path(call, dirfd, path, Use::Write)
}

fn changeable_path(call: &Call<'_>, dirfd: i32, path: u64, wanted: Use) -> Result<CString, Stop> {
    let name = open::name(call, dirfd, path)?;
    match open::find(call, &name, wanted) {
        Target::Host(host) => Ok(host),
        Target::Device(_) | Target::Ancestor | Target::Refused => refuse(libc::EPERM),
    }
}

fn done(result: i32) -> Answer {
    if result == 0 {
        Ok(0)
    } else {
        Err(Errno::last().into())
    }
}

pub(super) fn mkdir(call: &mut Call<'_>) -> Answer {
    let [path, mode, ..] = call.args();
    make_directory(call, libc::AT_FDCWD, path, low_u32(mode))
}

pub(super) fn mkdirat(call: &mut Call<'_>) -> Answer {
    let [dirfd, path, mode, ..] = call.args();
    make_directory(call, low_i32(dirfd), path, low_u32(mode))
}

fn make_directory(call: &Call<'_>, dirfd: i32, path: u64, mode: u32) -> Answer {
    let at = place(call, dirfd, path, Use::Write)?;
    let mode = mode & 0o777 & !call.process.umask;
    // SAFETY: an open descriptor and a C string.
    done(unsafe { libc::mkdirat(at.parent.as_raw_fd(), at.name.as_ptr(), mode) })
}

pub(super) fn unlink(call: &mut Call<'_>) -> Answer {
    let [path, ..] = call.args();
    remove(call, libc::AT_FDCWD, path, 0)
}

pub(super) fn rmdir(call: &mut Call<'_>) -> Answer {
    let [path, ..] = call.args();
    remove(call, libc::AT_FDCWD, path, libc::AT_REMOVEDIR)
}

pub(super) fn unlinkat(call: &mut Call<'_>) -> Answer {
    let [dirfd, path, flags, ..] = call.args();
    let flags = low_i32(flags);
    if flags & !libc::AT_REMOVEDIR != 0 {
        return refuse(libc::EINVAL);
    }
    remove(call, low_i32(dirfd), path, flags)
}

/// Not of a path that is allowed by itself: a file that was removed while it is open still takes
/// room, and the next of that name would take as much again.
fn remove(call: &Call<'_>, dirfd: i32, path: u64, flags: i32) -> Answer {
    let at = place(call, dirfd, path, Use::Remove)?;
    // SAFETY: an open descriptor and a C string.
    done(unsafe { libc::unlinkat(at.parent.as_raw_fd(), at.name.as_ptr(), flags) })
}

pub(super) fn rename(call: &mut Call<'_>) -> Answer {
    let [from, to, ..] = call.args();
    move_file(call, (libc::AT_FDCWD, from), (libc::AT_FDCWD, to), 0)
}

pub(super) fn renameat(call: &mut Call<'_>) -> Answer {
    let [from_dir, from, to_dir, to, ..] = call.args();
    move_file(call, (low_i32(from_dir), from), (low_i32(to_dir), to), 0)
}

pub(super) fn renameat2(call: &mut Call<'_>) -> Answer {
    let [from_dir, from, to_dir, to, flags, _] = call.args();
    let flags = low_u32(flags);
    if flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) != 0 {
        return refuse(libc::EINVAL);
    }
    move_file(
        call,
        (low_i32(from_dir), from),
        (low_i32(to_dir), to),
        flags,
    )
}

/// What has this name, links not followed.
fn status_at(at: &Place) -> Result<Status, Errno> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: an open descriptor and a C string; the result is a fresh descriptor or an error.
    let file = owned(unsafe { libc::openat(at.parent.as_raw_fd(), at.name.as_ptr(), flags) })?;
    status::of_host(&file)
}

/// A link with `..` in it that the operator keeps leads elsewhere from another folder: links stay where
/// they are, and folders, which may have some inside, keep their parent.
fn may_move(from: &Place, to: &Place) -> Result<(), Errno> {
    match status_at(from)?.mode & libc::S_IFMT {
        libc::S_IFLNK => Err(Errno(libc::EPERM)),
        libc::S_IFDIR => {
            let place = |at: &Place| status::of_host(&at.parent).map(|at| (at.dev, at.ino));
            if place(from)? == place(to)? {
                Ok(())
            } else {
                Err(Errno(libc::EXDEV))
            }
        }
        _ => Ok(()),
    }
}

/// Links stay, also where the operator allows one by itself: it may be in a folder of others.
fn may_be_replaced(at: &Place) -> Result<(), Errno> {
    match status_at(at) {
        Ok(status) if status.mode & libc::S_IFMT == libc::S_IFLNK => Err(Errno(libc::EPERM)),
        Err(error) if error != Errno(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

fn move_file(call: &Call<'_>, from: (i32, u64), to: (i32, u64), flags: u32) -> Answer {
    let exchange = flags & libc::RENAME_EXCHANGE != 0;
    let use_of_to = if exchange { Use::Remove } else { Use::Write };
    let from = place(call, from.0, from.1, Use::Remove)?;
    let to = place(call, to.0, to.1, use_of_to)?;
    may_move(&from, &to)?;
    if exchange {
        may_move(&to, &from)?;
    } else {
        may_be_replaced(&to)?;
    }
    let (from_dir, to_dir) = (from.parent.as_raw_fd(), to.parent.as_raw_fd());
    // SAFETY: open descriptors and C strings.
    done(unsafe {
        libc::renameat2(
            from_dir,
            from.name.as_ptr(),
            to_dir,
            to.name.as_ptr(),
            flags,
        )
    })
}

/// The host file behind a descriptor that the guest may change.
fn writable_file(call: &Call<'_>, fd: u64) -> Result<Arc<OwnedFd>, Stop> {
    match &call.process.files().get(low_i32(fd))?.kind {
        Kind::File(file) if !file.writable => refuse(libc::EBADF),
        Kind::File(_) if !call.process.may_write => refuse(libc::EPERM),
        Kind::File(file) => Ok(Arc::clone(&file.file)),
        _ => refuse(libc::EINVAL),
    }
}

pub(super) fn ftruncate(call: &mut Call<'_>) -> Answer {
    let [fd, len, ..] = call.args();
    resize(call, &*writable_file(call, fd)?, len)
}

pub(super) fn truncate(call: &mut Call<'_>) -> Answer {
    let [path, len, ..] = call.args();
    let file = open_regular(&writable_path(call, libc::AT_FDCWD, path)?, libc::O_WRONLY)?;
    resize(call, &file, len)
}

fn resize(call: &Call<'_>, file: &OwnedFd, len: u64) -> Answer {
    let len = signed(len);
    let grows = |to| Ok::<_, Errno>(to > super::status::of_host(file)?.size);
    match u64::try_from(len) {
        Ok(to) if to > limits::max_file_size(call) && grows(to)? => refuse(libc::EFBIG),
        // SAFETY: an open descriptor.
        _ => done(unsafe { libc::ftruncate(file.as_raw_fd(), len) }),
    }
}

fn open_regular(path: &CStr, flags: i32) -> Result<OwnedFd, Errno> {
    let file = open_host(path, flags, 0)?;
    let status = super::status::of_host(&file)?;
    if status.is_regular() || status.is_directory() {
        Ok(file)
    } else {
        Err(Errno(libc::EACCES))
    }
}

/// fsync(2) and fdatasync(2): there is nothing to write back in a VM that may not write.
pub(super) fn fsync(call: &mut Call<'_>) -> Answer {
    let [fd, ..] = call.args();
    let file = match &call.process.files().get(low_i32(fd))?.kind {
        Kind::File(file) if file.writable && call.process.may_write => Arc::clone(&file.file),
        Kind::File(_) | Kind::Directory(_) => return Ok(0),
        _ => return refuse(libc::EINVAL),
    };
    // SAFETY: an open descriptor.
    done(unsafe { libc::fsync(file.as_raw_fd()) })
}

pub(super) fn fchmod(call: &mut Call<'_>) -> Answer {
    let [fd, mode, ..] = call.args();
    let file = writable_file(call, fd)?;
    // SAFETY: an open descriptor.
    done(unsafe { libc::fchmod(file.as_raw_fd(), low_u32(mode) & 0o777) })
}

pub(super) fn chmod(call: &mut Call<'_>) -> Answer {
    let [path, mode, ..] = call.args();
    change_mode(call, libc::AT_FDCWD, path, mode)
}

pub(super) fn fchmodat(call: &mut Call<'_>) -> Answer {
    let [dirfd, path, mode, ..] = call.args();
    change_mode(call, low_i32(dirfd), path, mode)
}

fn change_mode(call: &Call<'_>, dirfd: i32, path: u64, mode: u64) -> Answer {
    let file = open_regular(&writable_path(call, dirfd, path)?, libc::O_RDONLY)?;
    // SAFETY: an open descriptor.
    done(unsafe { libc::fchmod(file.as_raw_fd(), low_u32(mode) & 0o777) })
}

pub(super) fn utimensat(call: &mut Call<'_>) -> Answer {
    let [dirfd, path, times, _flags, ..] = call.args();
    let [a_sec, a_nsec, m_sec, m_nsec] = if times == 0 {
        let now = u64::from_le_bytes(libc::UTIME_NOW.to_le_bytes());
        [0, now, 0, now]
    } else {
        read_words(call.memory, GuestVirt::new(times))?
    };
    let spec = |sec, nsec| libc::timespec {
        tv_sec: signed(sec),
        tv_nsec: signed(nsec),
    };
    let times = [spec(a_sec, a_nsec), spec(m_sec, m_nsec)];
    if path == 0 {
        let file = writable_file(call, dirfd)?;
        // SAFETY: an open descriptor and an array of two.
        return done(unsafe { libc::futimens(file.as_raw_fd(), times.as_ptr()) });
    }
    let path = writable_path(call, low_i32(dirfd), path)?;
    let file = open_regular(&path, libc::O_RDONLY)?;
    // SAFETY: an open descriptor and an array of two.
    done(unsafe { libc::futimens(file.as_raw_fd(), times.as_ptr()) })
}

/// chown(2) and its relatives: nobody here may give files away.
pub(super) fn forbidden(_call: &mut Call<'_>) -> Answer {
    refuse(libc::EPERM)
}
