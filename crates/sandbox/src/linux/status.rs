//! stat(2) and its relatives. What exists only here (standard streams, pipes, directories on the
//! way to an allowed path) gets a made-up status.

use std::os::fd::{AsRawFd, OwnedFd};

use super::args::{Record, low_i32, low_u32};
use super::fds::{Device, Kind};
use super::open::{self, Target};
use super::paths::{Use, open_host};
use super::{Answer, Call, Errno, Stop, refuse};

/// A file's status, whatever structure it is delivered in.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Status {
    pub(super) dev: u64,
    pub(super) ino: u64,
    links: u64,
    pub(super) mode: u32,
    uid: u32,
    gid: u32,
    rdev: u64,
    pub(super) size: u64,
    block_size: u32,
    blocks: u64,
    /// Access, modification, change: seconds and nanoseconds.
    times: [(i64, i64); 3],
}

impl Status {
    pub(super) fn is_directory(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }

    pub(super) fn is_regular(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }

    fn made_up(mode: u32, rdev: u64) -> Self {
        Self {
            mode,
            rdev,
            ino: 1,
            links: 1,
            block_size: 4096,
            ..Self::default()
        }
    }

    /// A directory that leads to an allowed path.
    fn ancestor() -> Self {
        Self {
            links: 2,
            ..Self::made_up(libc::S_IFDIR | 0o555, 0)
        }
    }

    /// `struct stat`.
    fn as_stat(&self) -> Record<144> {
        let record = Record::new()
            .u64(0, self.dev)
            .u64(8, self.ino)
            .u64(16, self.links)
            .u32(24, self.mode)
            .u32(28, self.uid)
            .u32(32, self.gid)
            .u64(40, self.rdev)
            .u64(48, self.size)
            .u64(56, u64::from(self.block_size))
            .u64(64, self.blocks);
        self.times
            .iter()
            .zip([72, 88, 104])
            .fold(record, |record, (&(seconds, nanos), offset)| {
                record.i64(offset, seconds).i64(offset + 8, nanos)
            })
    }

    /// `struct statx`.
    fn as_statx(&self) -> Record<256> {
        let [_, _, mode_low, mode_high] =
            [0, 0, self.mode.to_le_bytes()[0], self.mode.to_le_bytes()[1]];
        let (dev_major, dev_minor) = (libc::major(self.dev), libc::minor(self.dev));
        let record = Record::new()
            .u32(0, libc::STATX_BASIC_STATS)
            .u32(4, self.block_size)
            .u32(16, u32::try_from(self.links).unwrap_or(u32::MAX))
            .u32(20, self.uid)
            .u32(24, self.gid)
            .u16(28, u16::from_le_bytes([mode_low, mode_high]))
            .u64(32, self.ino)
            .u64(40, self.size)
            .u64(48, self.blocks)
            .u32(128, libc::major(self.rdev))
            .u32(132, libc::minor(self.rdev))
            .u32(136, dev_major)
            .u32(140, dev_minor);
        self.times
            .iter()
            .zip([64, 112, 96])
            .fold(record, |record, (&(seconds, nanos), offset)| {
                record
                    .i64(offset, seconds)
                    .u32(offset + 8, u32::try_from(nanos).unwrap_or(0))
            })
    }
}

/// The status of an open host file.
pub(super) fn of_host(file: &OwnedFd) -> Result<Status, Errno> {
    // SAFETY: all-zero bytes are a valid stat structure.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and the structure is of the kernel's type.
    if unsafe { libc::fstat(file.as_raw_fd(), &raw mut stat) } != 0 {
        return Err(Errno::last());
    }
    Ok(Status {
        dev: stat.st_dev,
        ino: stat.st_ino,
        links: stat.st_nlink,
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        block_size: u32::try_from(stat.st_blksize).unwrap_or(4096),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        times: [
            (stat.st_atime, stat.st_atime_nsec),
            (stat.st_mtime, stat.st_mtime_nsec),
            (stat.st_ctime, stat.st_ctime_nsec),
        ],
    })
}

fn of_device(device: Device) -> Status {
    let minor = match device {
        Device::Null => 3,
        Device::Zero => 5,
        Device::Random => 9,
    };
    Status::made_up(libc::S_IFCHR | 0o666, libc::makedev(1, minor))
}

/// The status of an open descriptor.
fn of_descriptor(call: &Call<'_>, fd: i32) -> Result<Status, Errno> {
    Ok(match &call.process.files().get(fd)?.kind {
        Kind::Input => of_device(Device::Null),
        // A terminal, so that C libraries write line by line and nothing waits in a buffer when
        // the program is frozen.
        Kind::Output(_) => Status::made_up(libc::S_IFCHR | 0o620, libc::makedev(136, 0)),
        Kind::Device(device) => of_device(*device),
        Kind::File(file) => of_host(&file.file)?,
        Kind::Directory(directory) => of_host(&directory.file)?,
        Kind::PipeReader(_) | Kind::PipeWriter(_) => Status::made_up(libc::S_IFIFO | 0o600, 0),
        Kind::Event(_) | Kind::Epoll(_) => Status::made_up(0o600, 0),
    })
}

/// The status of what a path names.
fn of_path(call: &Call<'_>, dirfd: i32, path: u64, follow: bool) -> Result<Status, Stop> {
    let name = open::name(call, dirfd, path)?;
    let status = match open::find(call, &name, Use::Read) {
        Target::Host(host) => {
            let no_follow = if follow { 0 } else { libc::O_NOFOLLOW };
            of_host(&open_host(&host, libc::O_PATH | no_follow, 0)?)?
        }
        Target::Device(device) => of_device(device),
        Target::Ancestor => Status::ancestor(),
        Target::Refused => return refuse(libc::EACCES),
    };
    if name.directory && !status.is_directory() {
        return refuse(libc::ENOTDIR);
    }
    Ok(status)
}

pub(super) fn fstat(call: &mut Call<'_>) -> Answer {
    let [fd, at, ..] = call.args();
    of_descriptor(call, low_i32(fd))?
        .as_stat()
        .write(call.memory, at)?;
    Ok(0)
}

pub(super) fn stat(call: &mut Call<'_>) -> Answer {
    let [path, at, ..] = call.args();
    of_path(call, libc::AT_FDCWD, path, true)?
        .as_stat()
        .write(call.memory, at)?;
    Ok(0)
}

pub(super) fn lstat(call: &mut Call<'_>) -> Answer {
    let [path, at, ..] = call.args();
    of_path(call, libc::AT_FDCWD, path, false)?
        .as_stat()
        .write(call.memory, at)?;
    Ok(0)
}

/// What newfstatat(2) and statx(2) name: a path, or with `AT_EMPTY_PATH` the descriptor itself.
fn of_at(call: &Call<'_>, dirfd: u64, path: u64, flags: i32) -> Result<Status, Stop> {
    let dirfd = low_i32(dirfd);
    if flags & libc::AT_EMPTY_PATH != 0 && open::is_empty_path(call, path)? {
        if dirfd == libc::AT_FDCWD {
            let cwd = open::Name {
                path: call.process.cwd.to_vec(),
                directory: true,
            };
            return match open::find(call, &cwd, Use::Read) {
                Target::Host(host) => Ok(of_host(&open_host(&host, libc::O_PATH, 0)?)?),
                _ => Ok(Status::ancestor()),
            };
        }
        return Ok(of_descriptor(call, dirfd)?);
    }
    of_path(call, dirfd, path, flags & libc::AT_SYMLINK_NOFOLLOW == 0)
}

pub(super) fn newfstatat(call: &mut Call<'_>) -> Answer {
    let [dirfd, path, at, flags, ..] = call.args();
    let flags = low_i32(flags);
    if flags & !(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT) != 0 {
        return refuse(libc::EINVAL);
    }
    of_at(call, dirfd, path, flags)?
        .as_stat()
        .write(call.memory, at)?;
    Ok(0)
}

pub(super) fn statx(call: &mut Call<'_>) -> Answer {
    let [dirfd, path, flags, _mask, at, _] = call.args();
    let flags = low_i32(flags);
    let sync = libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC;
    let known = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | sync;
    if flags & !known != 0 || flags & sync == sync {
        return refuse(libc::EINVAL);
    }
    of_at(call, dirfd, path, flags)?
        .as_statx()
        .write(call.memory, at)?;
    Ok(0)
}

pub(super) fn access(call: &mut Call<'_>) -> Answer {
    let [path, mode, ..] = call.args();
    access_at(call, libc::AT_FDCWD, path, low_i32(mode), true)
}

pub(super) fn faccessat(call: &mut Call<'_>) -> Answer {
    let [dirfd, path, mode, ..] = call.args();
    access_at(call, low_i32(dirfd), path, low_i32(mode), true)
}

pub(super) fn faccessat2(call: &mut Call<'_>) -> Answer {
    let [dirfd, path, mode, flags, ..] = call.args();
    let flags = low_i32(flags);
    if flags & !(libc::AT_EACCESS | libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return refuse(libc::EINVAL);
    }
    if flags & libc::AT_EMPTY_PATH != 0 && open::is_empty_path(call, path)? {
        of_at(call, dirfd, path, flags)?;
        return Ok(0);
    }
    let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
    access_at(call, low_i32(dirfd), path, low_i32(mode), follow)
}

/// Reading and searching are allowed where the policy allows the path and it exists; writing where
/// an open for writing would be.
fn access_at(call: &mut Call<'_>, dirfd: i32, path: u64, mode: i32, follow: bool) -> Answer {
    if mode & !(libc::R_OK | libc::W_OK | libc::X_OK) != 0 {
        return refuse(libc::EINVAL);
    }
    let status = of_path(call, dirfd, path, follow)?;
    if mode & libc::W_OK != 0 {
        let name = open::name(call, dirfd, path)?;
        match open::find(call, &name, Use::Write) {
            Target::Host(_) | Target::Device(_) => {}
            Target::Ancestor | Target::Refused => return refuse(libc::EACCES),
        }
    }
    if mode & libc::X_OK != 0 && status.mode & 0o111 == 0 {
        return refuse(libc::EACCES);
    }
    Ok(0)
}

/// statfs(2) and fstatfs(2): one file system without room, whatever lies behind it.
pub(super) fn statfs(call: &mut Call<'_>) -> Answer {
    let [path, at, ..] = call.args();
    of_path(call, libc::AT_FDCWD, path, true)?;
    write_statfs(call, at)
}

pub(super) fn fstatfs(call: &mut Call<'_>) -> Answer {
    let [fd, at, ..] = call.args();
    of_descriptor(call, low_i32(fd))?;
    write_statfs(call, at)
}

fn write_statfs(call: &mut Call<'_>, at: u64) -> Answer {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    Record::<120>::new()
        .u64(0, TMPFS_MAGIC)
        .u64(8, 4096)
        .u64(64, 255)
        .u64(72, 4096)
        .write(call.memory, at)?;
    Ok(0)
}

/// umask(2).
pub(super) fn umask(call: &mut Call<'_>) -> Answer {
    let [mask, ..] = call.args();
    let before = std::mem::replace(&mut call.process.umask, low_u32(mask) & 0o777);
    Ok(u64::from(before))
}
