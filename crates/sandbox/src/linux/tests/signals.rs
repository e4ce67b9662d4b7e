use super::*;

#[test]
fn a_signal_that_nothing_stops_ends_the_program() {
    let mut guest = Guest::new();
    let pid = guest.ok(libc::SYS_getpid, &[]);
    assert_eq!(
        guest.outcome(libc::SYS_tgkill, &[pid, pid, 6]),
        Outcome::Killed(6)
    );
    assert_eq!(guest.outcome(libc::SYS_kill, &[0, 9]), Outcome::Killed(9));
    assert_eq!(
        guest.outcome(libc::SYS_tkill, &[pid, 11]),
        Outcome::Killed(11)
    );
    assert_eq!(guest.ok(libc::SYS_kill, &[pid, 0]), 0);
    assert_eq!(guest.ok(libc::SYS_kill, &[pid, 17]), 0);
    assert_eq!(guest.errno(libc::SYS_kill, &[1, 9]), libc::ESRCH);
    assert_eq!(guest.errno(libc::SYS_kill, &[pid, 65]), libc::EINVAL);
    assert_eq!(guest.errno(libc::SYS_kill, &[pid, MINUS_1]), libc::EINVAL);
}

#[test]
fn actions_are_kept_and_read_back() {
    let mut guest = Guest::new();
    guest.put_words(DATA, &[0x1234, 0x0400_0000, 0x5678, MINUS_1]);
    guest.ok(libc::SYS_rt_sigaction, &[10, DATA, 0, 8]);
    guest.ok(libc::SYS_rt_sigaction, &[10, 0, DATA + 64, 8]);
    assert_eq!(guest.u64(DATA + 64), 0x1234);
    assert_eq!(guest.u64(DATA + 80), 0x5678);
    assert_eq!(guest.u64(DATA + 88), !(1 << 8 | 1 << 18));
    assert_eq!(
        guest.errno(libc::SYS_rt_sigaction, &[9, DATA, 0, 8]),
        libc::EINVAL
    );
    assert_eq!(
        guest.errno(libc::SYS_rt_sigaction, &[0, DATA, 0, 8]),
        libc::EINVAL
    );
    assert_eq!(
        guest.errno(libc::SYS_rt_sigaction, &[65, DATA, 0, 8]),
        libc::EINVAL
    );
    assert_eq!(
        guest.errno(libc::SYS_rt_sigaction, &[10, DATA, 0, 16]),
        libc::EINVAL
    );
    assert_eq!(
        guest.errno(libc::SYS_rt_sigaction, &[10, NOWHERE, 0, 8]),
        libc::EFAULT
    );
    assert!(
        guest
            .fault(libc::SYS_kill, &[0, 10])
            .to_string()
            .contains("signal 10")
    );
    guest.put_words(DATA, &[1, 0, 0, 0]);
    guest.ok(libc::SYS_rt_sigaction, &[15, DATA, 0, 8]);
    assert_eq!(guest.ok(libc::SYS_kill, &[0, 15]), 0);
}

#[test]
fn a_blocked_signal_waits_until_it_is_unblocked() {
    let mut guest = Guest::new();
    guest.put_words(DATA, &[MINUS_1]);
    guest.ok(libc::SYS_rt_sigprocmask, &[0, DATA, DATA + 8, 8]);
    assert_eq!(guest.u64(DATA + 8), 0);
    guest.ok(libc::SYS_kill, &[0, 15]);
    guest.ok(libc::SYS_rt_sigpending, &[DATA + 8, 8]);
    assert_eq!(guest.u64(DATA + 8), 1 << 14);
    assert_eq!(guest.ok(libc::SYS_rt_sigtimedwait, &[DATA, 0, 0, 8]), 15);
    guest.ok(libc::SYS_kill, &[0, 15]);
    assert_eq!(
        guest.outcome(libc::SYS_rt_sigprocmask, &[1, DATA, 0, 8]),
        Outcome::Killed(15)
    );
    assert_eq!(guest.outcome(libc::SYS_kill, &[0, 9]), Outcome::Killed(9));
}

#[test]
fn the_alternate_stack_is_kept_and_checked() {
    let mut guest = Guest::new();
    guest.put_words(DATA, &[0x1000, 0, 8192]);
    guest.ok(libc::SYS_sigaltstack, &[DATA, DATA + 64]);
    assert_eq!(guest.u32(DATA + 72), 2);
    guest.ok(libc::SYS_sigaltstack, &[0, DATA + 64]);
    assert_eq!(guest.u64(DATA + 64), 0x1000);
    guest.put_words(DATA, &[0x1000, 0, 100]);
    assert_eq!(guest.errno(libc::SYS_sigaltstack, &[DATA, 0]), libc::ENOMEM);
    guest.put_words(DATA, &[0x1000, 8, 8192]);
    assert_eq!(guest.errno(libc::SYS_sigaltstack, &[DATA, 0]), libc::EINVAL);
}

#[test]
fn waiting_for_a_signal_that_nobody_sends_is_a_fault_and_not_a_hang() {
    let mut guest = Guest::new();
    assert!(
        guest
            .fault(libc::SYS_pause, &[])
            .to_string()
            .contains("waits forever")
    );
    guest.put_words(DATA, &[0]);
    assert!(
        guest
            .fault(libc::SYS_rt_sigsuspend, &[DATA, 8])
            .to_string()
            .contains("forever")
    );
}
