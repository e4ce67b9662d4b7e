use super::*;

#[test]
fn the_thread_pointer_is_set_and_read_in_full_width() {
    let mut guest = Guest::new();
    guest.ok(libc::SYS_arch_prctl, &[0x1002, 0x7fff_1234_5678]);
    assert_eq!(guest.bases.fs, 0x7fff_1234_5678);
    guest.ok(libc::SYS_arch_prctl, &[0x1003, DATA]);
    assert_eq!(guest.u64(DATA), 0x7fff_1234_5678);
    guest.ok(libc::SYS_arch_prctl, &[0x1001, 0x1000]);
    assert_eq!(guest.bases.gs, 0x1000);
    assert_eq!(
        guest.errno(libc::SYS_arch_prctl, &[0x1002, 1 << 63]),
        libc::EPERM
    );
    assert_eq!(
        guest.errno(libc::SYS_arch_prctl, &[0x3001, DATA]),
        libc::EINVAL
    );
}

#[test]
fn the_program_sees_one_thread_of_one_process_on_one_cpu() {
    let mut guest = Guest::new();
    let pid = guest.ok(libc::SYS_getpid, &[]);
    assert_eq!(guest.ok(libc::SYS_gettid, &[]), pid);
    assert_eq!(guest.ok(libc::SYS_set_tid_address, &[DATA]), pid);
    assert_eq!(guest.ok(libc::SYS_sched_getaffinity, &[0, 128, DATA]), 8);
    assert_eq!(guest.u64(DATA), 1);
    assert_eq!(
        guest.errno(libc::SYS_sched_getaffinity, &[0, 7, DATA]),
        libc::EINVAL
    );
    assert_eq!(
        guest.errno(libc::SYS_wait4, &[MINUS_1, 0, 0, 0]),
        libc::ECHILD
    );
    assert_eq!(guest.errno(libc::SYS_execve, &[DATA, 0, 0]), libc::EPERM);
    assert_eq!(guest.ok(libc::SYS_getuid, &[]), guest.clone_uid());
    assert_eq!(guest.errno(libc::SYS_setuid, &[0]), libc::EPERM);
}

impl Guest {
    fn clone_uid(&mut self) -> u64 {
        self.ok(libc::SYS_getresuid, &[DATA, DATA + 4, DATA + 8]);
        u64::from(self.u32(DATA + 8))
    }
}

#[test]
fn what_is_missing_says_so_once_per_program() {
    let mut guest = Guest::new();
    for _ in 0..3 {
        assert_eq!(guest.errno(libc::SYS_clone, &[]), libc::ENOSYS);
        assert_eq!(guest.errno(libc::SYS_io_uring_setup, &[]), libc::ENOSYS);
        assert_eq!(guest.errno(100_000, &[]), libc::ENOSYS);
        assert_eq!(guest.errno(-1, &[]), libc::ENOSYS);
        assert_eq!(guest.errno(libc::SYS_rseq, &[]), libc::ENOSYS);
    }
    assert_eq!(
        guest.log.text(),
        "system call 56 (clone) is not supported: ENOSYS\n\
         system call 425 (unknown) is not supported: ENOSYS\n\
         system call 100000 (unknown) is not supported: ENOSYS\n"
    );
    let mut fork = Guest::new();
    fork.process = guest.process.fork();
    assert_eq!(fork.errno(libc::SYS_clone, &[]), libc::ENOSYS);
    assert_eq!(fork.log.text(), "");
}

#[test]
fn names_versions_and_limits_are_those_of_a_small_linux() {
    let mut guest = Guest::new();
    guest.ok(libc::SYS_uname, &[DATA]);
    assert_eq!(guest.bytes(DATA, 6), b"Linux\0");
    assert_eq!(guest.bytes(DATA + 130, 4), b"6.1.");
    assert_eq!(guest.bytes(DATA + 260, 7), b"x86_64\0");
    guest.ok(libc::SYS_prlimit64, &[0, 3, 0, DATA]);
    assert_eq!(guest.u64(DATA), 4 << 20);
    guest.ok(libc::SYS_getrlimit, &[7, DATA]);
    assert_eq!(guest.u64(DATA + 8), 1024);
    assert_eq!(guest.errno(libc::SYS_getrlimit, &[16, DATA]), libc::EINVAL);
    guest.put_words(DATA, &[2000, 2000]);
    assert_eq!(guest.errno(libc::SYS_setrlimit, &[7, DATA]), libc::EPERM);
    guest.ok(libc::SYS_sysinfo, &[DATA]);
    assert_eq!(guest.u64(DATA + 32), 64 << 20);
    guest.ok(libc::SYS_prctl, &[16, DATA]);
    assert_eq!(guest.bytes(DATA, 6), b"hello\0");
    for call in [libc::SYS_uname, libc::SYS_sysinfo] {
        assert_eq!(guest.errno(call, &[CONST]), libc::EFAULT);
    }
}

#[test]
fn exit_ends_the_program_with_the_low_byte_of_its_status() {
    let mut guest = Guest::new();
    assert_eq!(guest.outcome(libc::SYS_exit_group, &[3]), Outcome::Exit(3));
    assert_eq!(
        guest.outcome(libc::SYS_exit, &[MINUS_1]),
        Outcome::Exit(255)
    );
}

#[test]
fn there_is_no_network() {
    let mut guest = Guest::new();
    assert_eq!(
        guest.errno(libc::SYS_socket, &[2, 1, 0]),
        libc::EAFNOSUPPORT
    );
    assert_eq!(
        guest.errno(libc::SYS_connect, &[1, DATA, 16]),
        libc::ENOTSOCK
    );
    assert_eq!(guest.errno(libc::SYS_sendto, &[77, DATA, 16]), libc::EBADF);
}

#[test]
fn random_bytes_come_in_any_length_and_differ() {
    let mut guest = Guest::new();
    assert_eq!(guest.ok(libc::SYS_getrandom, &[DATA, 100_000, 0]), 100_000);
    assert_ne!(guest.bytes(DATA, 32), guest.bytes(DATA + 99_968, 32));
    assert_eq!(
        guest.ok(libc::SYS_getrandom, &[DATA + DATA_LEN - 1024, MINUS_1, 1]),
        1024
    );
    assert_eq!(
        guest.errno(libc::SYS_getrandom, &[NOWHERE, 8, 0]),
        libc::EFAULT
    );
    assert_eq!(
        guest.errno(libc::SYS_getrandom, &[DATA, 8, 8]),
        libc::EINVAL
    );
    assert_eq!(guest.ok(libc::SYS_getrandom, &[NOWHERE, 0, 0]), 0);
}
