//! Signals of a process that nobody else can send any to. Actions and masks are kept as set;
//! ignored and default actions happen. Handlers are not called in this version: a program that
//! sends itself a signal it handles ends with a message that says so.

use super::args::{Record, low_i32, low_u32, read_words};
use super::process::PID;
use super::{Answer, Call, Outcome, Stop, deadlock, refuse, time};
use crate::Fault;
use crate::address::GuestVirt;

const SIGNALS: usize = 64;
const DEFAULT: u64 = 0;
const IGNORE: u64 = 1;
/// SIGKILL and SIGSTOP can be neither handled nor blocked.
const UNSTOPPABLE: u64 = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);

/// The kernel's `struct sigaction`: handler, flags, restorer, mask.
type Action = [u64; 4];

/// What every signal does.
#[derive(Debug, Clone)]
pub(super) struct Dispositions([Action; SIGNALS]);

impl Default for Dispositions {
    fn default() -> Self {
        Self([[0; 4]; SIGNALS])
    }
}

/// A sigaltstack(2), kept for the guest to read back.
#[derive(Debug, Clone, Copy)]
pub(super) struct AltStack {
    base: u64,
    flags: u32,
    size: u64,
}

impl Default for AltStack {
    fn default() -> Self {
        Self {
            base: 0,
            flags: DISABLED,
            size: 0,
        }
    }
}

const DISABLED: u32 = 2;

/// The place of a signal in the table, if there is such a signal.
fn index(signal: i32) -> Option<usize> {
    usize::try_from(signal)
        .ok()?
        .checked_sub(1)
        .filter(|&index| index < SIGNALS)
}

fn bit(signal: i32) -> u64 {
    index(signal).map_or(0, |index| 1 << index)
}

fn check_set_size(size: u64) -> Result<(), Stop> {
    if size == 8 {
        Ok(())
    } else {
        refuse(libc::EINVAL)
    }
}

/// Sends the process a signal.
pub(super) fn raise(call: &mut Call<'_>, signal: i32) -> Result<(), Stop> {
    let Some(index) = index(signal) else {
        return refuse(libc::EINVAL);
    };
    let handler = call
        .process
        .dispositions
        .0
        .get(index)
        .map_or(DEFAULT, |action| action[0]);
    if call.process.blocked & bit(signal) != 0 {
        call.process.pending |= bit(signal);
        return Ok(());
    }
    let ignored = matches!(
        signal,
        libc::SIGCHLD | libc::SIGCONT | libc::SIGURG | libc::SIGWINCH
    );
    match handler {
        IGNORE => Ok(()),
        DEFAULT if ignored => Ok(()),
        DEFAULT => Err(Stop::End(Outcome::Killed(signal))),
        _ => Err(Fault::Misuse(format!(
            "the program sent itself signal {signal}, whose handler cannot be called"
        ))
        .into()),
    }
}

/// Signals that were sent while they were blocked take effect when they no longer are.
fn raise_pending(call: &mut Call<'_>) -> Result<(), Stop> {
    for signal in 1..=64 {
        let now = call.process.pending & !call.process.blocked;
        if now & bit(signal) != 0 {
            call.process.pending &= !bit(signal);
            raise(call, signal)?;
        }
    }
    Ok(())
}

pub(super) fn rt_sigaction(call: &mut Call<'_>) -> Answer {
    let [signal, new, old, size, ..] = call.args();
    let signal = low_i32(signal);
    check_set_size(size)?;
    let Some(index) = index(signal) else {
        return refuse(libc::EINVAL);
    };
    if new != 0 && bit(signal) & UNSTOPPABLE != 0 {
        return refuse(libc::EINVAL);
    }
    let wanted: Option<Action> = match new {
        0 => None,
        at => Some(read_words(call.memory, GuestVirt::new(at))?),
    };
    let before = call
        .process
        .dispositions
        .0
        .get(index)
        .copied()
        .unwrap_or_default();
    if old != 0 {
        let [handler, flags, restorer, mask] = before;
        Record::<32>::new()
            .u64(0, handler)
            .u64(8, flags)
            .u64(16, restorer)
            .u64(24, mask)
            .write(call.memory, old)?;
    }
    if let Some([handler, flags, restorer, mask]) = wanted {
        let action = [handler, flags, restorer, mask & !UNSTOPPABLE];
        if action != before {
            let dispositions = std::sync::Arc::make_mut(&mut call.process.dispositions);
            if let Some(place) = dispositions.0.get_mut(index) {
                *place = action;
            }
        }
        if handler == IGNORE {
            call.process.pending &= !bit(signal);
        }
    }
    Ok(0)
}

pub(super) fn rt_sigprocmask(call: &mut Call<'_>) -> Answer {
    let [how, new, old, size, ..] = call.args();
    check_set_size(size)?;
    let before = call.process.blocked;
    let after = match new {
        0 => before,
        at => {
            let set = call.memory.read_u64(GuestVirt::new(at))?;
            match low_i32(how) {
                libc::SIG_BLOCK => before | set,
                libc::SIG_UNBLOCK => before & !set,
                libc::SIG_SETMASK => set,
                _ => return refuse(libc::EINVAL),
            }
        }
    };
    if old != 0 {
        call.memory.write_u64(GuestVirt::new(old), before)?;
    }
    call.process.blocked = after & !UNSTOPPABLE;
    raise_pending(call)?;
    Ok(0)
}

pub(super) fn rt_sigpending(call: &mut Call<'_>) -> Answer {
    let [at, size, ..] = call.args();
    if size > 8 {
        return refuse(libc::EINVAL);
    }
    let bytes = (call.process.pending & call.process.blocked).to_le_bytes();
    let bytes = bytes
        .get(..usize::try_from(size).unwrap_or(0))
        .unwrap_or_default();
    call.memory.write(GuestVirt::new(at), bytes)?;
    Ok(0)
}

pub(super) fn rt_sigsuspend(call: &mut Call<'_>) -> Answer {
    let [at, size, ..] = call.args();
    check_set_size(size)?;
    let set = call.memory.read_u64(GuestVirt::new(at))?;
    let before = std::mem::replace(&mut call.process.blocked, set & !UNSTOPPABLE);
    raise_pending(call)?;
    call.process.blocked = before;
    deadlock("it waits for a signal that nobody could send")
}

pub(super) fn pause(_call: &mut Call<'_>) -> Answer {
    deadlock("it waits for a signal that nobody could send")
}

pub(super) fn rt_sigtimedwait(call: &mut Call<'_>) -> Answer {
    let [set, info, timeout, size, ..] = call.args();
    check_set_size(size)?;
    let set = call.memory.read_u64(GuestVirt::new(set))? & !UNSTOPPABLE;
    let found = call.process.pending & set;
    if found != 0 {
        let signal = found.trailing_zeros() + 1;
        if info != 0 {
            Record::<128>::new()
                .u32(0, signal)
                .write(call.memory, info)?;
        }
        call.process.pending &= !(1 << (signal - 1));
        return Ok(u64::from(signal));
    }
    if timeout == 0 {
        return deadlock("it waits for a signal that nobody could send");
    }
    let interval = time::read_timespec(call, timeout)?;
    time::sleep_until(call, time::after(interval))?;
    refuse(libc::EAGAIN)
}

pub(super) fn sigaltstack(call: &mut Call<'_>) -> Answer {
    const MIN_SIZE: u64 = 2048;
    const AUTODISARM: u32 = 1 << 31;
    let [new, old, ..] = call.args();
    let wanted = match new {
        0 => None,
        at => {
            let [base, flags, size] = read_words(call.memory, GuestVirt::new(at))?;
            Some(AltStack {
                base,
                flags: low_u32(flags),
                size,
            })
        }
    };
    if old != 0 {
        let AltStack { base, flags, size } = call.process.alt_stack;
        Record::<24>::new()
            .u64(0, base)
            .u32(8, flags)
            .u64(16, size)
            .write(call.memory, old)?;
    }
    if let Some(stack) = wanted {
        match stack.flags & !AUTODISARM {
            DISABLED => call.process.alt_stack = AltStack::default(),
            // SS_ONSTACK is accepted and means nothing, as on Linux.
            0 | 1 if stack.size < MIN_SIZE => return refuse(libc::ENOMEM),
            0 | 1 => {
                call.process.alt_stack = AltStack {
                    flags: stack.flags & AUTODISARM,
                    ..stack
                };
            }
            _ => return refuse(libc::EINVAL),
        }
    }
    Ok(0)
}

/// Sends a signal to a process, a group or a thread: to ourselves, or to nobody.
fn send(call: &mut Call<'_>, to: i32, signal: u64) -> Answer {
    let signal = low_i32(signal);
    if signal != 0 && index(signal).is_none() {
        return refuse(libc::EINVAL);
    }
    if u64::from(to.unsigned_abs()) != PID {
        return refuse(libc::ESRCH);
    }
    if signal != 0 {
        raise(call, signal)?;
    }
    Ok(0)
}

pub(super) fn kill(call: &mut Call<'_>) -> Answer {
    let [to, signal, ..] = call.args();
    match low_i32(to) {
        0 | -1 => send(call, i32::try_from(PID).unwrap_or_default(), signal),
        to => send(call, to, signal),
    }
}

pub(super) fn tkill(call: &mut Call<'_>) -> Answer {
    let [to, signal, ..] = call.args();
    if low_i32(to) <= 0 {
        return refuse(libc::EINVAL);
    }
    send(call, low_i32(to), signal)
}

pub(super) fn tgkill(call: &mut Call<'_>) -> Answer {
    let [group, thread, signal, ..] = call.args();
    if low_i32(group) <= 0 || low_i32(thread) <= 0 {
        return refuse(libc::EINVAL);
    }
    if low_i32(group) != low_i32(thread) {
        return refuse(libc::ESRCH);
    }
    send(call, low_i32(thread), signal)
}
