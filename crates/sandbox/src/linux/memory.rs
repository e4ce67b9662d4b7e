//! mmap(2) and its relatives over [`Memory`](crate::Memory). Files are mapped by copying them:
//! there is no page cache to share with, and a frozen image must not depend on the host's files.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use super::args::{low_i32, low_u32, signed};
use super::fds::{Device, Kind};
use super::{Answer, Call, Errno, Stop, refuse, status, transfer};
use crate::Fault;
use crate::address::{GuestVirt, PAGE_SIZE};
use crate::memory::{Place, Protection};

/// No range that a guest names is longer: page tables are walked for every page of it.
const LONGEST: u64 = 1 << 36;

fn protection(bits: i32) -> Result<Protection, Errno> {
    if bits & !(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) != 0 {
        return Err(Errno(libc::EINVAL));
    }
    Ok(Protection {
        // On x86 what can be written or executed can be read.
        read: bits != libc::PROT_NONE,
        write: bits & libc::PROT_WRITE != 0,
        execute: bits & libc::PROT_EXEC != 0,
    })
}

/// A length in whole pages.
fn pages(len: u64) -> Result<u64, Errno> {
    len.checked_next_multiple_of(PAGE_SIZE)
        .filter(|len| *len <= LONGEST)
        .ok_or(Errno(libc::ENOMEM))
}

fn aligned(at: u64) -> Result<GuestVirt, Errno> {
    if at.is_multiple_of(PAGE_SIZE) {
        Ok(GuestVirt::new(at))
    } else {
        Err(Errno(libc::EINVAL))
    }
}

pub(super) fn mmap(call: &mut Call<'_>) -> Answer {
    let [at, len, prot, flags, fd, offset] = call.args();
    let (prot, flags) = (protection(low_i32(prot))?, low_i32(flags));
    if len == 0 || flags & libc::MAP_HUGETLB != 0 {
        return refuse(libc::EINVAL);
    }
    let shared = match flags & libc::MAP_TYPE {
        libc::MAP_PRIVATE => false,
        libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE => true,
        _ => return refuse(libc::EINVAL),
    };
    let len = pages(len)?;
    let place = if flags & libc::MAP_FIXED_NOREPLACE != 0 {
        Place::FixedNoReplace(aligned(at)?)
    } else if flags & libc::MAP_FIXED != 0 {
        Place::Fixed(aligned(at)?)
    } else if at == 0 {
        Place::Anywhere
    } else {
        Place::Hint(GuestVirt::new(at).page_floor())
    };
    if flags & libc::MAP_ANONYMOUS != 0 {
        return Ok(call.memory.map(place, len, prot)?.raw());
    }
    aligned(offset)?;
    let file = match &call.process.files().get(low_i32(fd))?.kind {
        Kind::File(file) if !file.readable => return refuse(libc::EACCES),
        Kind::File(_) if shared && prot.write => return refuse(libc::EACCES),
        Kind::File(file) => Some(Arc::clone(&file.file)),
        Kind::Device(Device::Zero) => None,
        _ => return refuse(libc::ENODEV),
    };
    let Some(file) = file else {
        return Ok(call.memory.map(place, len, prot)?.raw());
    };
    if signed(offset) < 0 || signed(offset).checked_add(signed(len)).is_none() {
        return refuse(libc::EOVERFLOW);
    }
    map_copy(call, &file, place, len, prot, offset)
}

/// Maps zeroed memory, fills it from the file, then gives it its rights.
fn map_copy(
    call: &mut Call<'_>,
    file: &OwnedFd,
    place: Place,
    len: u64,
    prot: Protection,
    offset: u64,
) -> Answer {
    if prot.write && prot.execute && !call.memory.executable_heap() {
        return refuse(libc::EACCES);
    }
    let size = status::of_host(file)?.size;
    let at = call.memory.map(place, len, Protection::READ_WRITE)?;
    let result = fill(call, file, at, len.min(size.saturating_sub(offset)), offset);
    if let Err(stop) = result {
        call.memory.unmap(at, len)?;
        return Err(stop);
    }
    if prot != Protection::READ_WRITE {
        call.memory.protect(at, len, prot)?;
    }
    Ok(at.raw())
}

fn fill(
    call: &mut Call<'_>,
    file: &OwnedFd,
    at: GuestVirt,
    len: u64,
    offset: u64,
) -> Result<(), Stop> {
    let mut done: u64 = 0;
    while done < len {
        if Instant::now() >= call.deadline {
            return Err(Fault::TimedOut.into());
        }
        let to = at.raw().saturating_add(done);
        match transfer::read_at(call, file, offset.saturating_add(done), to, len - done)? {
            0 => break,
            read => done += read,
        }
    }
    Ok(())
}

pub(super) fn munmap(call: &mut Call<'_>) -> Answer {
    let [at, len, ..] = call.args();
    if len == 0 {
        return refuse(libc::EINVAL);
    }
    let len = pages(len).map_err(|_| Errno(libc::EINVAL))?;
    call.memory.unmap(aligned(at)?, len)?;
    Ok(0)
}

pub(super) fn mprotect(call: &mut Call<'_>) -> Answer {
    let [at, len, prot, ..] = call.args();
    let (at, prot) = (aligned(at)?, protection(low_i32(prot))?);
    if len == 0 {
        return Ok(0);
    }
    call.memory.protect(at, pages(len)?, prot)?;
    Ok(0)
}

pub(super) fn mremap(call: &mut Call<'_>) -> Answer {
    let [at, old_len, new_len, flags, ..] = call.args();
    let flags = low_i32(flags);
    // A new address of the guest's choice is not offered; nor is a copy that leaves the old pages.
    if flags & !libc::MREMAP_MAYMOVE != 0 || old_len == 0 || new_len == 0 {
        return refuse(libc::EINVAL);
    }
    let may_move = flags & libc::MREMAP_MAYMOVE != 0;
    Ok(call
        .memory
        .remap(aligned(at)?, pages(old_len)?, pages(new_len)?, may_move)?
        .raw())
}

pub(super) fn brk(call: &mut Call<'_>) -> Answer {
    let [to, ..] = call.args();
    Ok(call.memory.set_break(GuestVirt::new(to)).raw())
}

pub(super) fn madvise(call: &mut Call<'_>) -> Answer {
    const LAST_HINT: i32 = libc::MADV_POPULATE_WRITE;
    let [at, len, advice, ..] = call.args();
    let at = aligned(at)?;
    if len == 0 {
        return Ok(0);
    }
    let len = pages(len).map_err(|_| Errno(libc::EINVAL))?;
    match low_i32(advice) {
        libc::MADV_DONTNEED => {
            call.memory.discard(at, len)?;
            Ok(0)
        }
        libc::MADV_REMOVE | libc::MADV_WIPEONFORK => refuse(libc::EINVAL),
        // Hints that nothing here acts on.
        0..=LAST_HINT => Ok(0),
        _ => refuse(libc::EINVAL),
    }
}

/// msync(2), mlock(2), munlock(2): nothing is written back, nothing is swapped by the guest.
pub(super) fn nothing_to_do(call: &mut Call<'_>) -> Answer {
    let [at, ..] = call.args();
    aligned(at)?;
    Ok(0)
}

/// mlockall(2), munlockall(2).
pub(super) fn lock_all(call: &mut Call<'_>) -> Answer {
    let [flags, ..] = call.args();
    if low_u32(flags) > 7 {
        refuse(libc::EINVAL)
    } else {
        Ok(0)
    }
}
