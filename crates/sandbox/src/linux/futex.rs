//! futex(2) for a single thread: a wait can only end by its time, because nobody else is there to
//! wake anybody.

use super::args::{low_i32, low_u32};
use super::{Answer, Call, deadlock, refuse, time};
use crate::address::GuestVirt;

pub(super) fn futex(call: &mut Call<'_>) -> Answer {
    let [at, operation, value, timeout, _, bits] = call.args();
    let operation = low_i32(operation);
    let command = operation & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);
    let at = GuestVirt::new(at);
    if !at.raw().is_multiple_of(4) {
        return refuse(libc::EINVAL);
    }
    match command {
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => {
            if command == libc::FUTEX_WAIT_BITSET && low_u32(bits) == 0 {
                return refuse(libc::EINVAL);
            }
            if call.memory.read_u32(at)? != low_u32(value) {
                return refuse(libc::EAGAIN);
            }
            if timeout == 0 {
                return deadlock("it waits for a futex that no other thread could wake");
            }
            let until = match command {
                libc::FUTEX_WAIT => time::after(time::read_timespec(call, timeout)?),
                _ if operation & libc::FUTEX_CLOCK_REALTIME != 0 => {
                    time::at(libc::CLOCK_REALTIME, time::read_timespec(call, timeout)?)?
                }
                _ => time::at(libc::CLOCK_MONOTONIC, time::read_timespec(call, timeout)?)?,
            };
            time::sleep_until(call, until)?;
            refuse(libc::ETIMEDOUT)
        }
        libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET => {
            if command == libc::FUTEX_WAKE_BITSET && low_u32(bits) == 0 {
                return refuse(libc::EINVAL);
            }
            call.memory.read_u32(at)?;
            Ok(0)
        }
        _ => refuse(libc::ENOSYS),
    }
}
