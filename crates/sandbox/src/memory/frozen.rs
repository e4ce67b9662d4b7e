//! A frozen image: a main VM's memory, sealed, prepared so that forks need no page-table work for
//! what requests usually do.
//!
//! Freezing lays out, in the image's page tables, what every fork gets as zeroed memory behind the
//! image: a stack and an area for the request, some room for brk(2), and the arena that mmap(2)
//! hands out.
//!
//! ```text
//! guest-virtual, where the main VM has mapped nothing
//!   guard | request stack 4 MiB, growing down | request area 256 KiB | guard | arena
//! ```

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::backing::{Backing, Shared};
use super::held::Held;
use super::paging::{self, NO_EXECUTE, OWNED, Outline, PRESENT, USER, WRITE};
use super::regions::shared_entry;
use super::room::Room;
use super::space::Space;
use super::{Edit, GUARD, Memory, Protection, Role};
use crate::address::{GuestPhys, GuestVirt, PAGE_SIZE};
use crate::arith::to_usize;

const REQUEST_STACK: u64 = 4 << 20;
const REQUEST_AREA: u64 = 256 << 10;
const HEAP_ROOM: u64 = 1 << 20;
const TABLE_SPAN: u64 = 2 << 20;
/// The part of the stack that has its entries in the page table of the request area: what every request
/// touches. Few entries are quickly looked through.
const STACK_BESIDE_AREA: u64 = 128 << 10;

/// The sealed memory of an image.
#[derive(Debug)]
pub struct Frozen {
    file: File,
    common: Option<Shared>,
    source: Backing,
    /// One bit per page of the image: it has content, copy it; otherwise it is zeros.
    content: Vec<u64>,
    outline: Outline,
    /// Of a fork, without what all forks share.
    len: u64,
    space: Arc<Space>,
    request_area: Range<u64>,
    stack_top: GuestVirt,
    executable_heap: bool,
}

/// Where the zeroed memory of every fork lies.
struct Tail {
    heap: Range<u64>,
    /// Request stack and request area.
    stack: Range<u64>,
    area: Range<u64>,
    arena: Range<u64>,
}

impl Memory {
    /// Turns a main VM's memory into an image whose forks may use `request_memory` bytes of zeroed
    /// memory each. No VCPU may use the memory any more.
    pub(crate) fn freeze(mut self, request_memory: u64) -> io::Result<Frozen> {
        let tail = self.lay_out_tail(request_memory).ok_or_else(|| {
            io::Error::other("no address space left behind the program for its requests' memory")
        })?;
        paging::settle(&self.backing);
        let Self {
            backing,
            space,
            role,
            room: _,
            executable_heap,
        } = self;
        let Role::Main {
            file,
            frames,
            common,
        } = role
        else {
            return Err(io::Error::other("only a main VM can be frozen"));
        };
        let image_len = frames.high_water().raw();
        let len = map_tail(&backing, &tail, image_len);
        let shared = space.regions.shared();
        for va in shared.clone().step_by(to_usize(PAGE_SIZE)) {
            if let Some(at) = paging::leaf(&backing, GuestVirt::new(va)) {
                backing.set_word(at, shared_entry(len + (va - shared.start)));
            }
        }
        let outline = Outline::new(&backing);
        drop(backing);

        file.set_len(image_len)?;
        let seals =
            libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;
        // SAFETY: an fcntl on our own descriptor without pointers.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Frozen {
            source: Backing::read_only(&file, image_len)?,
            content: pages_with_content(&file, image_len)?,
            outline,
            file,
            common,
            len,
            space,
            stack_top: GuestVirt::new(tail.area.start),
            request_area: tail.area,
            executable_heap,
        })
    }

    /// Chooses the ranges and makes their page tables, while frames can still be taken.
    fn lay_out_tail(&mut self, request_memory: u64) -> Option<Tail> {
        let request_memory = request_memory.checked_next_multiple_of(PAGE_SIZE)?;
        let room = request_memory.checked_add(GUARD + REQUEST_STACK + 2 * TABLE_SPAN)?;
        let start = self.find_free(room).ok()?.start;
        let space = Arc::make_mut(&mut self.space);
        // Nothing is mapped below the stack. Its end and the area share a page table with nothing else.
        let table = next_table(start.checked_add(GUARD + REQUEST_STACK - STACK_BESIDE_AREA)?)?;
        let area = table.checked_add(STACK_BESIDE_AREA)?;
        let stack = area - REQUEST_STACK..area.checked_add(REQUEST_AREA)?;
        let arena = table.checked_add(TABLE_SPAN)?;
        let arena = arena..arena.checked_add(request_memory)?;
        if arena.end > space.arena.end {
            return None;
        }
        let heap = space.heap.end.next_multiple_of(PAGE_SIZE);
        let heap = heap..(heap + HEAP_ROOM).min(space.heap_limit).max(heap);
        space.heap_limit = heap.end;
        space.arena = arena.clone();
        space.lent_from = arena.end;
        space.stacks.callback = stack.start..area;
        if !space.areas.insert(stack.clone(), Protection::READ_WRITE) {
            return None;
        }
        for range in [&heap, &stack, &arena] {
            let last = range.end.saturating_sub(PAGE_SIZE).max(range.start);
            for va in range.clone().step_by(to_usize(TABLE_SPAN)).chain([last]) {
                self.leaf_or_insert(GuestVirt::new(va)).ok()?;
            }
        }
        Some(Tail {
            heap,
            area: area..stack.end,
            stack,
            arena,
        })
    }
}

/// Points the tail's entries at the frames behind the image; returns the guest-physical size.
fn map_tail(backing: &Backing, tail: &Tail, image_len: u64) -> u64 {
    let mut frame = image_len;
    for range in [&tail.heap, &tail.stack, &tail.arena] {
        for va in range.clone().step_by(to_usize(PAGE_SIZE)) {
            if let Some(at) = paging::leaf(backing, GuestVirt::new(va)) {
                backing.set_word(at, frame | PRESENT | USER | WRITE | NO_EXECUTE | OWNED);
                frame += PAGE_SIZE;
            }
        }
    }
    frame
}

/// The first address at or above `address` where a new page table starts.
fn next_table(address: u64) -> Option<u64> {
    address.checked_next_multiple_of(TABLE_SPAN)
}

/// One bit per page: set where the file has data, not a hole (lseek(2), SEEK_DATA).
fn pages_with_content(file: &File, len: u64) -> io::Result<Vec<u64>> {
    let mut bits = vec![0_u64; to_usize(len / PAGE_SIZE / 64 + 1)];
    let seek = |from: u64, whence: i32| -> io::Result<Option<u64>> {
        let from = i64::try_from(from).map_err(io::Error::other)?;
        // SAFETY: moves the offset of our own descriptor; nobody reads through it.
        let found = unsafe { libc::lseek(file.as_raw_fd(), from, whence) };
        match u64::try_from(found) {
            Ok(found) => Ok(Some(found)),
            Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO) => Ok(None),
            Err(_) => Err(io::Error::last_os_error()),
        }
    };
    let mut at = 0;
    while let Some(data) = seek(at, libc::SEEK_DATA)? {
        let hole = seek(data, libc::SEEK_HOLE)?.unwrap_or(len);
        for page in data / PAGE_SIZE..hole.div_ceil(PAGE_SIZE) {
            if let Some(word) = bits.get_mut(to_usize(page / 64)) {
                *word |= 1 << (page % 64);
            }
        }
        at = hole;
    }
    Ok(bits)
}

impl Frozen {
    /// A private view of the image for a request VM.
    pub(crate) fn fork(self: &Arc<Self>) -> io::Result<Memory> {
        Ok(Memory {
            backing: Backing::private(
                &self.file,
                self.source.len(),
                self.len,
                self.common.as_ref(),
            )?,
            space: Arc::clone(&self.space),
            room: Room::default(),
            executable_heap: self.executable_heap,
            role: Role::Request {
                frozen: Arc::clone(self),
                edits: Vec::new(),
                dirty: Vec::with_capacity(64),
                held: Held::none_of(self.len),
                full_reset_due: false,
                burden: super::Burden::default(),
            },
        })
    }

    /// Where a fork's page tables may have dirty entries, if it has edited none and needs no full reset.
    pub(super) fn outline(&self, edits: &[Edit], full_reset_due: bool) -> Option<&Outline> {
        (edits.is_empty() && !full_reset_due).then_some(&self.outline)
    }

    /// Guest-physical bytes of a fork.
    pub(crate) fn span(&self) -> u64 {
        self.len
    }

    /// Bytes of the image itself.
    pub fn image_bytes(&self) -> u64 {
        self.source.len()
    }

    /// Bytes of the image that are not zero pages.
    pub fn content_bytes(&self) -> u64 {
        let pages: u32 = self.content.iter().map(|word| word.count_ones()).sum();
        u64::from(pages) * PAGE_SIZE
    }

    /// What is mapped where, in the order of addresses.
    pub(crate) fn mappings(&self) -> impl Iterator<Item = (Range<u64>, Protection)> + '_ {
        self.space.areas.within(0..u64::MAX)
    }

    /// Whether user mode may fetch instructions at `at`.
    pub(crate) fn is_executable(&self, at: GuestVirt) -> bool {
        paging::is_executable(&self.source, at)
    }

    /// Where the host puts what belongs to a request: guest-virtual, zero in a fresh fork.
    pub(crate) fn request_area(&self) -> Range<u64> {
        self.request_area.clone()
    }

    /// Where the stack of callbacks starts, growing down.
    pub(crate) fn stack_top(&self) -> GuestVirt {
        self.stack_top
    }

    /// The mapped ranges as the main VM left them.
    pub(super) fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// Gives one page of a fork the image's content again. False: there is no such page.
    pub(super) fn restore_page(&self, memory: &Backing, page: u64) -> bool {
        let at = GuestPhys::new(page * PAGE_SIZE);
        if self.has_content(page) {
            memory.copy_page_from(&self.source, at)
        } else {
            memory.zero(at, PAGE_SIZE)
        }
    }

    /// The image's own memory.
    pub(super) fn source(&self) -> &Backing {
        &self.source
    }

    /// A page as forks have it: of the image, or zeros behind it and in its holes.
    pub(super) fn read_page(&self, at: GuestPhys, page: &mut [u8; 4096]) {
        if !self.has_content(at.raw() / PAGE_SIZE) || !self.source.copy_out(at, page) {
            page.fill(0);
        }
    }

    pub(super) fn has_content(&self, page: u64) -> bool {
        let word = self.content.get(to_usize(page / 64)).copied().unwrap_or(0);
        page * PAGE_SIZE < self.source.len() && word & (1 << (page % 64)) != 0
    }
}
