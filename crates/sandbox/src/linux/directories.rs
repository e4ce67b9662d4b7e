//! Directories and links: listing, the working directory, what a link points to.

use std::os::fd::{AsRawFd, OwnedFd};

use super::args::{low_i32, low_u32};
use super::fds::Kind;
use super::open::{self, Target};
use super::paths::{Use, open_host, owned};
use super::{Answer, Call, Errno, Stop, refuse};
use crate::address::GuestVirt;
use crate::arith::to_u64;

/// Bytes of entries that one getdents64 gives.
const LISTING: usize = 32_768;
/// A `struct linux_dirent64` with a name of one letter.
const SMALLEST_ENTRY: usize = 24;

pub(super) fn getdents64(call: &mut Call<'_>) -> Answer {
    let [fd, at, len, ..] = call.args();
    let (fd, len) = (
        low_i32(fd),
        usize::try_from(low_u32(len)).unwrap_or(LISTING),
    );
    let Kind::Directory(directory) = &call.process.files().get(fd)?.kind else {
        return refuse(libc::ENOTDIR);
    };
    if !directory.readable {
        return refuse(libc::EBADF);
    }
    if len < SMALLEST_ENTRY {
        return refuse(libc::EINVAL);
    }
    // A descriptor of its own: the offset of a shared one belongs to no VM.
    let file = reopen(&directory.file)?;
    // SAFETY: the descriptor is open; seeking has no other effect.
    if unsafe { libc::lseek(file.as_raw_fd(), directory.position, libc::SEEK_SET) } < 0 {
        return Err(Errno::last().into());
    }
    let mut entries = vec![0_u8; len.min(LISTING)];
    let (host, buffer, room) = (file.as_raw_fd(), entries.as_mut_ptr(), entries.len());
    // SAFETY: the buffer is writable for `room` bytes.
    let filled = unsafe { libc::syscall(libc::SYS_getdents64, host, buffer, room) };
    let Ok(filled) = usize::try_from(filled) else {
        return Err(Errno::last().into());
    };
    // SAFETY: the descriptor is open; asking for the offset has no effect.
    let position = unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_CUR) };
    let Some(entries) = entries.get(..filled) else {
        return refuse(libc::EIO);
    };
    call.memory.write(GuestVirt::new(at), entries)?;
    if let Kind::Directory(directory) = &mut call.process.files_mut().get_mut(fd)?.kind {
        directory.position = position;
    }
    Ok(to_u64(filled))
}

fn reopen(directory: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the path is a C string literal.
    owned(unsafe { libc::openat(directory.as_raw_fd(), c".".as_ptr(), flags) })
}

pub(super) fn getcwd(call: &mut Call<'_>) -> Answer {
    let [at, len, ..] = call.args();
    let mut path = call.process.cwd.to_vec();
    path.push(0);
    if len < to_u64(path.len()) {
        return refuse(libc::ERANGE);
    }
    call.memory.write(GuestVirt::new(at), &path)?;
    Ok(to_u64(path.len()))
}

pub(super) fn chdir(call: &mut Call<'_>) -> Answer {
    let [path, ..] = call.args();
    let name = open::name(call, libc::AT_FDCWD, path)?;
    match open::find(call, &name, Use::Read) {
        Target::Host(host) => {
            open_host(&host, libc::O_PATH | libc::O_DIRECTORY, 0)?;
        }
        Target::Ancestor => {}
        Target::Device(_) => return refuse(libc::ENOTDIR),
        Target::Refused => return refuse(libc::EACCES),
    }
    call.process.cwd = name.path.into();
    Ok(0)
}

pub(super) fn fchdir(call: &mut Call<'_>) -> Answer {
    let [fd, ..] = call.args();
    let path = match &call.process.files().get(low_i32(fd))?.kind {
        Kind::Directory(directory) => std::sync::Arc::clone(&directory.path),
        _ => return refuse(libc::ENOTDIR),
    };
    call.process.cwd = path;
    Ok(0)
}

pub(super) fn readlink(call: &mut Call<'_>) -> Answer {
    let [path, at, len, ..] = call.args();
    read_link(call, libc::AT_FDCWD, path, at, len)
}

pub(super) fn readlinkat(call: &mut Call<'_>) -> Answer {
    let [dirfd, path, at, len, ..] = call.args();
    read_link(call, low_i32(dirfd), path, at, len)
}

fn read_link(call: &mut Call<'_>, dirfd: i32, path: u64, at: u64, len: u64) -> Answer {
    let len = low_i32(len);
    let Some(len) = usize::try_from(len).ok().filter(|&len| len > 0) else {
        return refuse(libc::EINVAL);
    };
    let target = link_target(call, dirfd, path)?;
    let target = target.get(..len).unwrap_or(&target);
    call.memory.write(GuestVirt::new(at), target)?;
    Ok(to_u64(target.len()))
}

fn link_target(call: &Call<'_>, dirfd: i32, path: u64) -> Result<Vec<u8>, Stop> {
    let name = open::name(call, dirfd, path)?;
    let facts = &call.process.facts;
    match name.path.as_slice() {
        b"/proc/self/exe" => return Ok(facts.executable.clone()),
        b"/proc/self/cwd" => return Ok(call.process.cwd.to_vec()),
        path => {
            if let Some(target) = facts.policy.link_target(path) {
                return Ok(target.to_vec());
            }
        }
    }
    match open::find(call, &name, Use::Read) {
        Target::Host(host) => {
            let link = open_host(&host, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
            let mut target = vec![0_u8; 4096];
            let (fd, buffer, room) = (link.as_raw_fd(), target.as_mut_ptr(), target.len());
            // SAFETY: the buffer is writable for `room` bytes, the path is a C string literal.
            let len = unsafe { libc::readlinkat(fd, c"".as_ptr(), buffer.cast(), room) };
            match usize::try_from(len) {
                Ok(len) => {
                    target.truncate(len);
                    Ok(target)
                }
                // The host's word for "this descriptor is no link".
                Err(_) => match Errno::last() {
                    Errno(libc::ENOENT) => refuse(libc::EINVAL),
                    errno => Err(errno.into()),
                },
            }
        }
        Target::Device(_) | Target::Ancestor => refuse(libc::EINVAL),
        Target::Refused => refuse(libc::EACCES),
    }
}
