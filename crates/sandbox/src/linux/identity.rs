//! Who the process is: one process, one thread, one user without privileges, one CPU.

use super::args::{Record, low_i32, low_u32, signed};
use super::process::PID;
use super::{Answer, Call, Outcome, Stop, refuse};
use crate::address::GuestVirt;
use crate::layout::USER_END;

/// User and group of every program.
const USER: u64 = crate::start::USER_ID;

pub(super) fn exit(call: &mut Call<'_>) -> Answer {
    let [status, ..] = call.args();
    Err(Stop::End(Outcome::Exit(low_i32(status) & 0xff)))
}

pub(super) fn pid(_call: &mut Call<'_>) -> Answer {
    Ok(PID)
}

/// getppid(2): init.
pub(super) fn parent(_call: &mut Call<'_>) -> Answer {
    Ok(1)
}

/// getpgid(2), getsid(2).
pub(super) fn group_of(call: &mut Call<'_>) -> Answer {
    let [of, ..] = call.args();
    if is_self(of) {
        Ok(PID)
    } else {
        refuse(libc::ESRCH)
    }
}

/// Whether a process or thread argument means the only one there is.
pub(super) fn is_self(pid: u64) -> bool {
    matches!(u64::from(low_u32(pid)), 0 | PID)
}

pub(super) fn user(_call: &mut Call<'_>) -> Answer {
    Ok(USER)
}

/// setuid(2) and its relatives: to what we are, or not at all.
pub(super) fn set_user(call: &mut Call<'_>) -> Answer {
    let ours = |id: u64| matches!(u64::from(low_u32(id)), USER | 0xffff_ffff);
    let [real, ..] = call.args();
    if ours(real) {
        Ok(0)
    } else {
        refuse(libc::EPERM)
    }
}

pub(super) fn set_users(call: &mut Call<'_>) -> Answer {
    let ours = |id: u64| matches!(u64::from(low_u32(id)), USER | 0xffff_ffff);
    let [real, effective, ..] = call.args();
    if ours(real) && ours(effective) {
        Ok(0)
    } else {
        refuse(libc::EPERM)
    }
}

/// getresuid(2), getresgid(2).
pub(super) fn all_users(call: &mut Call<'_>) -> Answer {
    let [real, effective, saved, ..] = call.args();
    for at in [real, effective, saved] {
        call.memory.write_u32(GuestVirt::new(at), low_u32(USER))?;
    }
    Ok(0)
}

/// getgroups(2): none besides our own.
pub(super) fn getgroups(call: &mut Call<'_>) -> Answer {
    let [count, ..] = call.args();
    if low_i32(count) < 0 {
        refuse(libc::EINVAL)
    } else {
        Ok(0)
    }
}

pub(super) fn zero(_call: &mut Call<'_>) -> Answer {
    Ok(0)
}

pub(super) fn not_permitted(_call: &mut Call<'_>) -> Answer {
    refuse(libc::EPERM)
}

/// wait4(2), waitid(2): there are no children.
pub(super) fn no_children(_call: &mut Call<'_>) -> Answer {
    refuse(libc::ECHILD)
}

pub(super) fn uname(call: &mut Call<'_>) -> Answer {
    const FIELD: usize = 65;
    let [at, ..] = call.args();
    // A version that C libraries and language runtimes take for new enough.
    let fields: [&[u8]; 6] = [
        b"Linux",
        b"tinykvm",
        b"6.1.0-tinykvm",
        b"#1 TinyKVM",
        b"x86_64",
        b"(none)",
    ];
    let record = fields
        .iter()
        .enumerate()
        .fold(Record::<390>::new(), |record, (index, text)| {
            record.bytes(index * FIELD, text)
        });
    record.write(call.memory, at)?;
    Ok(0)
}

pub(super) fn arch_prctl(call: &mut Call<'_>) -> Answer {
    const SET_GS: i32 = 0x1001;
    const SET_FS: i32 = 0x1002;
    const GET_FS: i32 = 0x1003;
    const GET_GS: i32 = 0x1004;
    let [command, address, ..] = call.args();
    match low_i32(command) {
        SET_FS | SET_GS if address >= USER_END => refuse(libc::EPERM),
        SET_FS => {
            call.fs_base.fs = address;
            Ok(0)
        }
        SET_GS => {
            call.fs_base.gs = address;
            Ok(0)
        }
        GET_FS => {
            call.memory
                .write_u64(GuestVirt::new(address), call.fs_base.fs)?;
            Ok(0)
        }
        GET_GS => {
            call.memory
                .write_u64(GuestVirt::new(address), call.fs_base.gs)?;
            Ok(0)
        }
        _ => refuse(libc::EINVAL),
    }
}

pub(super) fn prctl(call: &mut Call<'_>) -> Answer {
    let [command, argument, ..] = call.args();
    match low_i32(command) {
        libc::PR_SET_NAME => {
            let mut name = [0; 16];
            for (offset, place) in (0..15).zip(&mut name) {
                let mut byte = [0];
                let at = GuestVirt::new(argument.wrapping_add(offset));
                call.memory.read(at, &mut byte)?;
                if byte == [0] {
                    break;
                }
                *place = byte[0];
            }
            call.process.thread_name = name;
            Ok(0)
        }
        libc::PR_GET_NAME => {
            call.memory
                .write(GuestVirt::new(argument), &call.process.thread_name)?;
            Ok(0)
        }
        libc::PR_GET_DUMPABLE | libc::PR_GET_NO_NEW_PRIVS => Ok(1),
        libc::PR_SET_NO_NEW_PRIVS if argument == 1 => Ok(0),
        libc::PR_SET_DUMPABLE if argument <= 1 => Ok(0),
        libc::PR_GET_TIMERSLACK => Ok(50_000),
        libc::PR_SET_PDEATHSIG
        | libc::PR_SET_TIMERSLACK
        | libc::PR_SET_THP_DISABLE
        | libc::PR_GET_THP_DISABLE
        | libc::PR_GET_SECCOMP
        | libc::PR_CAPBSET_READ
        | libc::PR_GET_KEEPCAPS => Ok(0),
        _ => refuse(libc::EINVAL),
    }
}

pub(super) fn capget(call: &mut Call<'_>) -> Answer {
    const VERSION_1: u32 = 0x1998_0330;
    const VERSION_2: u32 = 0x2007_1026;
    const VERSION_3: u32 = 0x2008_0522;
    let [header, data, ..] = call.args();
    let version = call.memory.read_u32(GuestVirt::new(header))?;
    let len = match version {
        VERSION_1 => 12,
        VERSION_2 | VERSION_3 => 24,
        _ => {
            call.memory.write_u32(GuestVirt::new(header), VERSION_3)?;
            return if data == 0 {
                Ok(0)
            } else {
                refuse(libc::EINVAL)
            };
        }
    };
    if data != 0 {
        call.memory.fill_zero(GuestVirt::new(data), len)?;
    }
    Ok(0)
}

pub(super) fn personality(call: &mut Call<'_>) -> Answer {
    let [persona, ..] = call.args();
    match low_u32(persona) {
        0 | 0xffff_ffff => Ok(0),
        _ => refuse(libc::EINVAL),
    }
}

/// membarrier(2): with one thread every barrier is passed.
pub(super) fn membarrier(call: &mut Call<'_>) -> Answer {
    const QUERY: i32 = 0;
    const GLOBAL: i32 = 1;
    const PRIVATE_EXPEDITED: i32 = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;
    let [command, ..] = call.args();
    match low_i32(command) {
        QUERY => Ok(u64::from(low_u32(0x19))),
        GLOBAL | PRIVATE_EXPEDITED | REGISTER_PRIVATE_EXPEDITED => Ok(0),
        _ => refuse(libc::EINVAL),
    }
}

/// Results that are errors elsewhere are the tid here: set_tid_address(2) cannot fail.
pub(super) fn set_tid_address(_call: &mut Call<'_>) -> Answer {
    Ok(PID)
}

pub(super) fn getcpu(call: &mut Call<'_>) -> Answer {
    let [cpu, node, ..] = call.args();
    for at in [cpu, node] {
        if at != 0 {
            call.memory.write_u32(GuestVirt::new(at), 0)?;
        }
    }
    Ok(0)
}

pub(super) fn sched_getaffinity(call: &mut Call<'_>) -> Answer {
    let [of, len, at, ..] = call.args();
    let len = low_u32(len);
    if len < 8 || !len.is_multiple_of(8) {
        return refuse(libc::EINVAL);
    }
    if !is_self(of) {
        return refuse(libc::ESRCH);
    }
    call.memory.write_u64(GuestVirt::new(at), 1)?;
    Ok(8)
}

pub(super) fn sched_setaffinity(call: &mut Call<'_>) -> Answer {
    let [of, len, at, ..] = call.args();
    if !is_self(of) {
        return refuse(libc::ESRCH);
    }
    let mut first = [0];
    if len > 0 {
        call.memory.read(GuestVirt::new(at), &mut first)?;
    }
    if first[0] & 1 == 1 {
        Ok(0)
    } else {
        refuse(libc::EINVAL)
    }
}

/// sched_getparam(2): priority 0.
pub(super) fn sched_getparam(call: &mut Call<'_>) -> Answer {
    let [of, at, ..] = call.args();
    if !is_self(of) {
        return refuse(libc::ESRCH);
    }
    call.memory.write_u32(GuestVirt::new(at), 0)?;
    Ok(0)
}

/// getpriority(2): the kernel answers 20 for the nice value 0.
pub(super) fn getpriority(call: &mut Call<'_>) -> Answer {
    let [which, of, ..] = call.args();
    if !(0..=2).contains(&signed(which)) {
        return refuse(libc::EINVAL);
    }
    if is_self(of) {
        Ok(20)
    } else {
        refuse(libc::ESRCH)
    }
}
