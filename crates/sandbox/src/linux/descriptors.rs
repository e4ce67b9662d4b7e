//! What is done to a descriptor rather than through it: close, dup, fcntl, ioctl, flock.

use super::args::{Record, flags as flag_bits, low_i32, low_u32};
use super::fds::{Kind, MAX_DESCRIPTORS};
use super::{Answer, Call, files, refuse, status};
use crate::address::GuestVirt;
use crate::arith::to_u64;

pub(super) fn close(call: &mut Call<'_>) -> Answer {
    let [fd, ..] = call.args();
    call.process.files().get(low_i32(fd))?;
    call.process.files_mut().close(low_i32(fd))?;
    Ok(0)
}

pub(super) fn close_range(call: &mut Call<'_>) -> Answer {
    const CLOEXEC: u32 = 4;
    const UNSHARE: u32 = 2;
    let [first, last, flags, ..] = call.args();
    let (first, last, flags) = (low_u32(first), low_u32(last), low_u32(flags));
    if first > last || flags & !(CLOEXEC | UNSHARE) != 0 {
        return refuse(libc::EINVAL);
    }
    for fd in 0..call.process.files().span() {
        let Ok(fd) = i32::try_from(fd) else { break };
        let number = u32::try_from(fd).unwrap_or(u32::MAX);
        if !(first..=last).contains(&number) || call.process.files().get(fd).is_err() {
            continue;
        }
        if flags & CLOEXEC != 0 {
            call.process.files_mut().set_close_on_exec(fd, true)?;
        } else {
            call.process.files_mut().close(fd)?;
        }
    }
    Ok(0)
}

pub(super) fn dup(call: &mut Call<'_>) -> Answer {
    let [fd, ..] = call.args();
    call.process.files().get(low_i32(fd))?;
    Ok(files::fd_value(call.process.files_mut().duplicate(
        low_i32(fd),
        0,
        false,
    )?))
}

pub(super) fn dup2(call: &mut Call<'_>) -> Answer {
    let [from, to, ..] = call.args();
    let (from, to) = (low_i32(from), low_i32(to));
    call.process.files().get(from)?;
    if from == to {
        return Ok(files::fd_value(to));
    }
    Ok(files::fd_value(
        call.process.files_mut().duplicate_to(from, to, false)?,
    ))
}

pub(super) fn dup3(call: &mut Call<'_>) -> Answer {
    let [from, to, flags, ..] = call.args();
    let (from, to, flags) = (low_i32(from), low_i32(to), low_i32(flags));
    if from == to || flags & !libc::O_CLOEXEC != 0 {
        return refuse(libc::EINVAL);
    }
    call.process.files().get(from)?;
    let cloexec = flags != 0;
    Ok(files::fd_value(
        call.process.files_mut().duplicate_to(from, to, cloexec)?,
    ))
}

pub(super) fn fcntl(call: &mut Call<'_>) -> Answer {
    let [fd, command, argument, ..] = call.args();
    let fd = low_i32(fd);
    let opened = call.process.files().get(fd)?;
    match low_i32(command) {
        command @ (libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) => {
            let from = usize::try_from(low_u32(argument)).unwrap_or(usize::MAX);
            if from >= MAX_DESCRIPTORS {
                return refuse(libc::EINVAL);
            }
            let cloexec = command == libc::F_DUPFD_CLOEXEC;
            Ok(files::fd_value(
                call.process.files_mut().duplicate(fd, from, cloexec)?,
            ))
        }
        libc::F_GETFD => Ok(u64::from(call.process.files().close_on_exec(fd)?)),
        libc::F_SETFD => {
            let on = low_i32(argument) & libc::FD_CLOEXEC != 0;
            call.process.files_mut().set_close_on_exec(fd, on)?;
            Ok(0)
        }
        libc::F_GETFL => {
            let nonblocking = if opened.nonblocking {
                libc::O_NONBLOCK
            } else {
                0
            };
            Ok(flag_bits(status_flags(&opened.kind) | nonblocking))
        }
        libc::F_SETFL => set_nonblocking(call, fd, low_i32(argument) & libc::O_NONBLOCK != 0),
        // Nobody else is there to hold a lock.
        libc::F_GETLK | libc::F_OFD_GETLK => {
            let unlocked = i16::try_from(libc::F_UNLCK).unwrap_or_default();
            call.memory
                .write(GuestVirt::new(argument), &unlocked.to_le_bytes())?;
            Ok(0)
        }
        libc::F_SETLK | libc::F_SETLKW | libc::F_OFD_SETLK | libc::F_OFD_SETLKW => Ok(0),
        libc::F_GETPIPE_SZ | libc::F_SETPIPE_SZ => match opened.kind {
            Kind::PipeReader(_) | Kind::PipeWriter(_) => Ok(65_536),
            _ => refuse(libc::EBADF),
        },
        _ => refuse(libc::EINVAL),
    }
}

/// What `F_GETFL` answers about a kind of file.
fn status_flags(kind: &Kind) -> i32 {
    const LARGE_FILE: i32 = 0o100_000;
    match kind {
        Kind::Input | Kind::PipeReader(_) => libc::O_RDONLY,
        Kind::Output(_) | Kind::PipeWriter(_) => libc::O_WRONLY,
        Kind::Device(_) | Kind::Event(_) | Kind::Epoll(_) => libc::O_RDWR,
        Kind::Directory(directory) => {
            let path = if directory.readable { 0 } else { libc::O_PATH };
            libc::O_DIRECTORY | LARGE_FILE | path
        }
        Kind::File(file) => {
            let append = if file.append { libc::O_APPEND } else { 0 };
            let access = match (file.readable, file.writable) {
                (true, true) => libc::O_RDWR,
                (false, true) => libc::O_WRONLY,
                (true, false) => libc::O_RDONLY,
                (false, false) => libc::O_PATH,
            };
            access | append | LARGE_FILE
        }
    }
}

fn set_nonblocking(call: &mut Call<'_>, fd: i32, on: bool) -> Answer {
    if call.process.files().get(fd)?.nonblocking != on {
        call.process.files_mut().get_mut(fd)?.nonblocking = on;
    }
    Ok(0)
}

pub(super) fn ioctl(call: &mut Call<'_>) -> Answer {
    let [fd, request, at, ..] = call.args();
    let fd = low_i32(fd);
    let opened = call.process.files().get(fd)?;
    let terminal = matches!(opened.kind, Kind::Output(_));
    let request = u64::from(low_u32(request));
    match request {
        libc::TCGETS if terminal => {
            // ECHO | ICANON | ISIG, 8 bits, 38400 baud: what a terminal says that nobody changed.
            Record::<36>::new()
                .u32(0, 0x500)
                .u32(4, 5)
                .u32(8, 0xbf)
                .u32(12, 0x8a3b)
                .write(call.memory, at)?;
            Ok(0)
        }
        libc::TCSETS | libc::TCSETSW | libc::TCSETSF if terminal => Ok(0),
        libc::TIOCGWINSZ if terminal => {
            Record::<8>::new()
                .u16(0, 24)
                .u16(2, 80)
                .write(call.memory, at)?;
            Ok(0)
        }
        libc::FIONBIO => {
            let on = call.memory.read_u32(GuestVirt::new(at))? != 0;
            set_nonblocking(call, fd, on)
        }
        libc::FIOCLEX | libc::FIONCLEX => {
            call.process
                .files_mut()
                .set_close_on_exec(fd, request == libc::FIOCLEX)?;
            Ok(0)
        }
        libc::FIONREAD => {
            let count = match &opened.kind {
                Kind::File(file) => status::of_host(&file.file)?
                    .size
                    .saturating_sub(file.offset),
                Kind::PipeReader(pipe) => to_u64(call.process.files().pipe(*pipe)?.len()),
                Kind::Input => 0,
                _ => return refuse(libc::ENOTTY),
            };
            let count = u32::try_from(count).unwrap_or(0x7fff_ffff);
            call.memory.write_u32(GuestVirt::new(at), count)?;
            Ok(0)
        }
        _ => refuse(libc::ENOTTY),
    }
}

/// flock(2): nobody else is there to hold a lock.
pub(super) fn flock(call: &mut Call<'_>) -> Answer {
    let [fd, ..] = call.args();
    call.process.files().get(low_i32(fd))?;
    Ok(0)
}
