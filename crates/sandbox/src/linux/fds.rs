//! The descriptor table of a VM: plain data, so that cloning it is all a fork needs.
//!
//! A number points to an *open file* (Linux's open file description), which several numbers may
//! share. Host descriptors behind regular files and directories are shared between VMs and only
//! used with explicit offsets; the offset that a guest sees is kept here. Pipes, events and epoll
//! sets exist here alone: no host descriptor that could block is ever held for a guest.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Errno;
use super::epoll::Interest;
use super::pipes::{Event, Pipe};

/// As `RLIMIT_NOFILE` says.
pub(super) const MAX_DESCRIPTORS: usize = 1024;
/// Of the host's descriptors, which varnishd needs for its clients.
const MAX_HOST_FILES: usize = 256;
/// Each holds up to 64 KiB of the host's memory.
const MAX_PIPES: usize = 32;

/// What a descriptor refers to.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Standard input: always at its end.
    Input,
    /// Standard output (1) or error (2).
    Output(u8),
    Device(Device),
    File(HostFile),
    Directory(HostDirectory),
    /// Index into the table's pipes.
    PipeReader(usize),
    PipeWriter(usize),
    Event(Event),
    Epoll(Vec<Interest>),
}

/// The character devices that exist without the host's help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Device {
    Null,
    Zero,
    Random,
}

/// An open regular file of the host.
#[derive(Debug, Clone)]
pub(super) struct HostFile {
    pub(super) file: Arc<OwnedFd>,
    pub(super) offset: u64,
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) append: bool,
}

/// An open directory of the host.
#[derive(Debug, Clone)]
pub(super) struct HostDirectory {
    pub(super) file: Arc<OwnedFd>,
    pub(super) path: Arc<[u8]>,
    /// Where getdents64 goes on: an opaque value of the host's file system.
    pub(super) position: i64,
    pub(super) readable: bool,
}

/// Something open, shared by the descriptors that dup(2) made.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    pub(super) kind: Kind,
    pub(super) nonblocking: bool,
    users: usize,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    opened: usize,
    close_on_exec: bool,
}

/// The open files of one VM.
#[derive(Debug, Clone)]
pub(super) struct Descriptors {
    slots: Vec<Option<Slot>>,
    opened: Vec<Option<Opened>>,
    pipes: Vec<Option<Pipe>>,
}

impl Descriptors {
    /// What every program starts with.
    pub(super) fn standard() -> Self {
        let mut table = Self {
            slots: Vec::new(),
            opened: Vec::new(),
            pipes: Vec::new(),
        };
        for kind in [Kind::Input, Kind::Output(1), Kind::Output(2)] {
            // An empty table takes three.
            let _ = table.insert(kind, false, false);
        }
        table
    }

    fn slot(&self, fd: i32) -> Result<Slot, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno(libc::EBADF))?;
        self.slots
            .get(index)
            .copied()
            .flatten()
            .ok_or(Errno(libc::EBADF))
    }

    /// The open file behind a descriptor.
    pub(super) fn get(&self, fd: i32) -> Result<&Opened, Errno> {
        self.opened_at(self.slot(fd)?.opened)
            .ok_or(Errno(libc::EBADF))
    }

    pub(super) fn get_mut(&mut self, fd: i32) -> Result<&mut Opened, Errno> {
        let index = self.slot(fd)?.opened;
        self.opened
            .get_mut(index)
            .and_then(Option::as_mut)
            .ok_or(Errno(libc::EBADF))
    }

    /// Which open file a descriptor points to, as a number that is unique while it is open.
    pub(super) fn identity(&self, fd: i32) -> Result<usize, Errno> {
        Ok(self.slot(fd)?.opened)
    }

    pub(super) fn opened_at(&self, identity: usize) -> Option<&Opened> {
        self.opened.get(identity).and_then(Option::as_ref)
    }

    /// Opens the lowest free descriptor.
    pub(super) fn insert(
        &mut self,
        kind: Kind,
        nonblocking: bool,
        close_on_exec: bool,
    ) -> Result<i32, Errno> {
        let host = |kind: &Kind| matches!(kind, Kind::File(_) | Kind::Directory(_));
        let host_files = || {
            self.opened
                .iter()
                .flatten()
                .filter(|open| host(&open.kind))
                .count()
        };
        if host(&kind) && host_files() >= MAX_HOST_FILES {
            return Err(Errno(libc::EMFILE));
        }
        let fd = self.lowest_free(0)?;
        let opened = Opened {
            kind,
            nonblocking,
            users: 0,
        };
        let index = match self.opened.iter().position(Option::is_none) {
            Some(index) => index,
            None => {
                self.opened.push(None);
                self.opened.len() - 1
            }
        };
        if let Some(place) = self.opened.get_mut(index) {
            *place = Some(opened);
        }
        self.point(
            fd,
            Slot {
                opened: index,
                close_on_exec,
            },
        );
        Ok(to_fd(fd))
    }

    /// Makes the two ends of a new pipe: reader, writer.
    pub(super) fn insert_pipe(
        &mut self,
        nonblocking: bool,
        close_on_exec: bool,
    ) -> Result<(i32, i32), Errno> {
        if self.pipes.iter().flatten().count() >= MAX_PIPES {
            return Err(Errno(libc::EMFILE));
        }
        let index = self
            .pipes
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.pipes.len());
        if index == self.pipes.len() {
            self.pipes.push(None);
        }
        if let Some(place) = self.pipes.get_mut(index) {
            *place = Some(Pipe::new());
        }
        let reader = self.insert(Kind::PipeReader(index), nonblocking, close_on_exec);
        let writer = self.insert(Kind::PipeWriter(index), nonblocking, close_on_exec);
        match (reader, writer) {
            (Ok(reader), Ok(writer)) => Ok((reader, writer)),
            (Ok(only), Err(errno)) | (Err(errno), Ok(only)) => {
                self.close(only)?;
                if let Some(place) = self.pipes.get_mut(index) {
                    *place = None;
                }
                Err(errno)
            }
            (Err(errno), Err(_)) => {
                if let Some(place) = self.pipes.get_mut(index) {
                    *place = None;
                }
                Err(errno)
            }
        }
    }

    pub(super) fn pipe(&self, index: usize) -> Result<&Pipe, Errno> {
        self.pipes
            .get(index)
            .and_then(Option::as_ref)
            .ok_or(Errno(libc::EBADF))
    }

    pub(super) fn pipe_mut(&mut self, index: usize) -> Result<&mut Pipe, Errno> {
        self.pipes
            .get_mut(index)
            .and_then(Option::as_mut)
            .ok_or(Errno(libc::EBADF))
    }

    /// Whether anything can still read from (or write to) a pipe.
    pub(super) fn pipe_has_end(&self, end: &Kind) -> bool {
        match end {
            Kind::PipeReader(pipe) => self.pipe(*pipe).is_ok_and(|pipe| pipe.has_reader),
            Kind::PipeWriter(pipe) => self.pipe(*pipe).is_ok_and(|pipe| pipe.has_writer),
            _ => false,
        }
    }

    /// dup(2) and `F_DUPFD`: the lowest free descriptor from `from` on.
    pub(super) fn duplicate(
        &mut self,
        fd: i32,
        from: usize,
        close_on_exec: bool,
    ) -> Result<i32, Errno> {
        let opened = self.slot(fd)?.opened;
        let new = self.lowest_free(from)?;
        self.point(
            new,
            Slot {
                opened,
                close_on_exec,
            },
        );
        Ok(to_fd(new))
    }

    /// dup3(2): this very descriptor, closed first if it is open.
    pub(super) fn duplicate_to(
        &mut self,
        fd: i32,
        to: i32,
        close_on_exec: bool,
    ) -> Result<i32, Errno> {
        let opened = self.slot(fd)?.opened;
        let index = usize::try_from(to).map_err(|_| Errno(libc::EBADF))?;
        if index >= MAX_DESCRIPTORS {
            return Err(Errno(libc::EBADF));
        }
        self.point(
            index,
            Slot {
                opened,
                close_on_exec,
            },
        );
        Ok(to)
    }

    pub(super) fn close(&mut self, fd: i32) -> Result<(), Errno> {
        let slot = self.slot(fd)?;
        let index = usize::try_from(fd).map_err(|_| Errno(libc::EBADF))?;
        if let Some(place) = self.slots.get_mut(index) {
            *place = None;
        }
        self.release(slot.opened);
        Ok(())
    }

    pub(super) fn close_on_exec(&self, fd: i32) -> Result<bool, Errno> {
        Ok(self.slot(fd)?.close_on_exec)
    }

    pub(super) fn set_close_on_exec(&mut self, fd: i32, on: bool) -> Result<(), Errno> {
        let slot = Slot {
            close_on_exec: on,
            ..self.slot(fd)?
        };
        let index = usize::try_from(fd).map_err(|_| Errno(libc::EBADF))?;
        if let Some(place) = self.slots.get_mut(index) {
            *place = Some(slot);
        }
        Ok(())
    }

    /// How many numbers the table spans: every open descriptor is below.
    pub(super) fn span(&self) -> usize {
        self.slots.len()
    }

    /// Interests in all epoll sets together.
    pub(super) fn interests(&self) -> usize {
        self.opened
            .iter()
            .flatten()
            .map(|open| match &open.kind {
                Kind::Epoll(interests) => interests.len(),
                _ => 0,
            })
            .sum()
    }

    fn lowest_free(&self, from: usize) -> Result<usize, Errno> {
        let taken = |index: &usize| self.slots.get(*index).is_some_and(Option::is_some);
        (from..MAX_DESCRIPTORS)
            .find(|index| !taken(index))
            .ok_or(Errno(libc::EMFILE))
    }

    /// Lets descriptor `fd` (below the maximum) refer to `slot`.
    fn point(&mut self, fd: usize, slot: Slot) {
        if self.slots.len() <= fd {
            self.slots.resize(fd + 1, None);
        }
        if let Some(opened) = self.opened.get_mut(slot.opened).and_then(Option::as_mut) {
            opened.users += 1;
        }
        let before = self.slots.get_mut(fd).and_then(|place| place.replace(slot));
        if let Some(before) = before {
            self.release(before.opened);
        }
    }

    /// One descriptor less for an open file; the last one closes it.
    fn release(&mut self, identity: usize) {
        let Some(place) = self.opened.get_mut(identity) else {
            return;
        };
        let Some(opened) = place else { return };
        opened.users = opened.users.saturating_sub(1);
        if opened.users > 0 {
            return;
        }
        let closed = place.take();
        for open in self.opened.iter_mut().flatten() {
            if let Kind::Epoll(interests) = &mut open.kind {
                interests.retain(|interest| interest.identity != identity);
            }
        }
        if let Some(opened) = closed {
            self.close_pipe_end(&opened.kind);
        }
    }

    /// A pipe goes with its last end.
    fn close_pipe_end(&mut self, end: &Kind) {
        let (Kind::PipeReader(index) | Kind::PipeWriter(index)) = end else {
            return;
        };
        let Some(place) = self.pipes.get_mut(*index) else {
            return;
        };
        if let Some(pipe) = place {
            match end {
                Kind::PipeReader(_) => pipe.has_reader = false,
                _ => pipe.has_writer = false,
            }
            if !pipe.has_reader && !pipe.has_writer {
                *place = None;
            }
        }
    }
}

/// Table indices are below [`MAX_DESCRIPTORS`].
fn to_fd(index: usize) -> i32 {
    i32::try_from(index).unwrap_or(i32::MAX)
}
