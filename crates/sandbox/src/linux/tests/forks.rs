use std::sync::Arc;

use super::super::args::flags;
use super::*;

#[test]
fn a_reset_undoes_everything_a_request_can_change() {
    let directory = Directory::new();
    directory.file("text", b"0123456789");
    let mut main = Guest::in_directory(&directory.0, true);
    let kept = main.open("/data/text", 0).unwrap();
    let frozen = main.process.fork();
    let mut request = Guest::new();
    request.process = frozen.fork();

    request.ok(libc::SYS_read, &[kept, DATA, 5]);
    request.ok(libc::SYS_close, &[0]);
    let opened = request.open("/data/text", 0).unwrap();
    request.ok(libc::SYS_pipe2, &[DATA, flags(libc::O_NONBLOCK)]);
    request.ok(libc::SYS_eventfd2, &[5, 0]);
    let path = request.path("/data");
    request.ok(libc::SYS_chdir, &[path]);
    request.put_words(DATA, &[0x1234, 0, 0, 0]);
    request.ok(libc::SYS_rt_sigaction, &[10, DATA, 0, 8]);
    request.put_words(DATA, &[MINUS_1]);
    request.ok(libc::SYS_rt_sigprocmask, &[0, DATA, 0, 8]);
    request.ok(libc::SYS_kill, &[2, 15]);
    request.put_words(DATA, &[DATA, 0, 8192]);
    request.ok(libc::SYS_sigaltstack, &[DATA, 0]);
    request.put(DATA, b"other\0");
    request.ok(libc::SYS_prctl, &[15, DATA]);
    request.ok(libc::SYS_umask, &[0]);
    request.ok(libc::SYS_write, &[1, DATA, 4]);

    request.process.reset_to(&frozen);
    let show = |process: &Process| format!("{process:?}");
    assert_eq!(show(&request.process), show(&frozen));
    assert_eq!(request.ok(libc::SYS_read, &[kept, DATA, 100]), 10);
    assert_eq!(opened, 0);
}

#[test]
fn forking_and_resetting_an_unchanged_process_shares_everything() {
    let mut guest = Guest::new();
    let frozen = guest.process.fork();
    let files: *const _ = frozen.files();
    guest.process = frozen.fork();
    guest.ok(libc::SYS_write, &[1, DATA, 4]);
    guest.ok(libc::SYS_fstat, &[1, DATA]);
    guest.ok(libc::SYS_rt_sigprocmask, &[0, 0, DATA, 8]);
    guest.ok(libc::SYS_fcntl, &[1, 4, 0]);
    assert_eq!(guest.errno(libc::SYS_close, &[77]), libc::EBADF);
    assert_eq!(guest.errno(libc::SYS_dup2, &[77, 1]), libc::EBADF);
    assert!(std::ptr::eq(guest.process.files(), files));
    assert!(Arc::ptr_eq(&guest.process.cwd, &frozen.cwd));
    guest.process.reset_to(&frozen);
    assert!(std::ptr::eq(guest.process.files(), files));
}

#[test]
fn what_a_request_opened_is_closed_by_its_reset() {
    let directory = Directory::new();
    directory.file("text", b"x");
    let open_files = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        links
            .filter_map(|link| std::fs::read_link(link.path()).ok())
            .filter(|target| target.starts_with(&directory.0))
            .count()
    };
    let main = Guest::in_directory(&directory.0, false);
    let mut request = Guest::new();
    request.process = main.process.fork();
    for _ in 0..10 {
        request.open("/data/text", 0).unwrap();
    }
    assert_eq!(open_files(), 10);
    request.process.reset_to(&main.process);
    assert_eq!(open_files(), 0);
}
