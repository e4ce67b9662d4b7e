//! Randomness comes from the host's kernel, every byte of it, so that no two VMs share any.

use std::time::Instant;

use super::args::low_u32;
use super::{Answer, Call, Errno, refuse};
use crate::address::GuestVirt;
use crate::arith::{to_u64, to_usize};

/// As on Linux, the most that one call gives.
const LONGEST: u64 = 33_554_431;

pub(super) fn getrandom(call: &mut Call<'_>) -> Answer {
    let [at, len, flags, ..] = call.args();
    let known = libc::GRND_NONBLOCK | libc::GRND_RANDOM | libc::GRND_INSECURE;
    let both = libc::GRND_RANDOM | libc::GRND_INSECURE;
    if low_u32(flags) & !known != 0 || low_u32(flags) & both == both {
        return refuse(libc::EINVAL);
    }
    fill(call, at, len.min(LONGEST))
}

/// Fills guest memory with random bytes; fewer where the memory or the time ends.
pub(super) fn fill(call: &mut Call<'_>, at: u64, len: u64) -> Answer {
    let mut chunk = [0; 1024];
    let mut done: u64 = 0;
    while done < len && (done == 0 || Instant::now() < call.deadline) {
        let take = to_usize((len - done).min(to_u64(chunk.len())));
        let Some(bytes) = chunk.get_mut(..take) else {
            break;
        };
        host_random(bytes)?;
        match call
            .memory
            .write(GuestVirt::new(at.saturating_add(done)), bytes)
        {
            Ok(()) => done += to_u64(take),
            Err(_) if done > 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

fn host_random(out: &mut [u8]) -> Result<(), Errno> {
    let mut filled = 0;
    while let Some(rest) = out.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        // SAFETY: the buffer is writable for its length.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => filled += got,
            Err(_) => match Errno::last() {
                Errno(libc::EINTR) => {}
                errno => return Err(errno),
            },
        }
    }
    Ok(())
}
