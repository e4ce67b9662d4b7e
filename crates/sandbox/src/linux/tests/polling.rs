use super::super::args::flags;
use super::*;

fn pipe(guest: &mut Guest, options: i32) -> (u64, u64) {
    guest.ok(libc::SYS_pipe2, &[DATA, flags(options)]);
    (u64::from(guest.u32(DATA)), u64::from(guest.u32(DATA + 4)))
}

#[test]
fn a_pipe_carries_bytes_and_never_blocks() {
    let mut guest = Guest::new();
    let (reader, writer) = pipe(&mut guest, libc::O_NONBLOCK);
    guest.put(DATA, b"hello");
    assert_eq!(
        guest.errno(libc::SYS_read, &[reader, DATA, 10]),
        libc::EAGAIN
    );
    assert_eq!(guest.ok(libc::SYS_write, &[writer, DATA, 5]), 5);
    assert_eq!(guest.ok(libc::SYS_read, &[reader, DATA + 100, 2]), 2);
    assert_eq!(guest.ok(libc::SYS_read, &[reader, DATA + 102, 10]), 3);
    assert_eq!(guest.bytes(DATA + 100, 5), b"hello");
    assert_eq!(guest.ok(libc::SYS_write, &[writer, DATA, 1 << 20]), 65_536);
    assert_eq!(
        guest.errno(libc::SYS_write, &[writer, DATA, 1]),
        libc::EAGAIN
    );
    guest.ok(libc::SYS_close, &[writer]);
    assert_eq!(guest.ok(libc::SYS_read, &[reader, DATA, 1 << 20]), 65_536);
    assert_eq!(guest.ok(libc::SYS_read, &[reader, DATA, 10]), 0);
    let (reader, writer) = pipe(&mut guest, 0);
    let fault = guest.fault(libc::SYS_read, &[reader, DATA, 10]);
    assert!(fault.to_string().contains("waits forever"), "{fault}");
    guest.ok(libc::SYS_close, &[reader]);
    assert_eq!(
        guest.outcome(libc::SYS_write, &[writer, DATA, 1]),
        Outcome::Killed(13)
    );
    assert_eq!(guest.errno(libc::SYS_pipe2, &[NOWHERE, 0]), libc::EFAULT);
}

#[test]
fn pipes_are_limited_and_closed_ones_can_be_made_again() {
    let mut guest = Guest::new();
    let made = (0..1000)
        .take_while(|_| matches!(guest.outcome(libc::SYS_pipe, &[DATA]), Outcome::Return(0)))
        .count();
    assert_eq!(made, 32);
    guest.ok(libc::SYS_close_range, &[3, 0xffff, 0]);
    pipe(&mut guest, 0);
}

#[test]
fn an_event_counts_as_eventfd_does() {
    let mut guest = Guest::new();
    let plain = guest.ok(libc::SYS_eventfd2, &[2, flags(libc::EFD_NONBLOCK)]);
    guest.put_words(DATA, &[3]);
    assert_eq!(guest.ok(libc::SYS_write, &[plain, DATA, 8]), 8);
    assert_eq!(guest.ok(libc::SYS_read, &[plain, DATA, 8]), 8);
    assert_eq!(guest.u64(DATA), 5);
    assert_eq!(guest.errno(libc::SYS_read, &[plain, DATA, 8]), libc::EAGAIN);
    assert_eq!(guest.errno(libc::SYS_read, &[plain, DATA, 7]), libc::EINVAL);
    guest.put_words(DATA, &[MINUS_1]);
    assert_eq!(
        guest.errno(libc::SYS_write, &[plain, DATA, 8]),
        libc::EINVAL
    );
    guest.put_words(DATA, &[MINUS_1 - 1]);
    guest.ok(libc::SYS_write, &[plain, DATA, 8]);
    assert_eq!(
        guest.errno(libc::SYS_write, &[plain, DATA, 8]),
        libc::EAGAIN
    );
    let semaphore = guest.ok(libc::SYS_eventfd2, &[2, flags(libc::EFD_SEMAPHORE)]);
    guest.ok(libc::SYS_read, &[semaphore, DATA, 8]);
    assert_eq!(guest.u64(DATA), 1);
    guest.ok(libc::SYS_read, &[semaphore, DATA, 8]);
    assert!(
        guest
            .fault(libc::SYS_read, &[semaphore, DATA, 8])
            .to_string()
            .contains("eventfd")
    );
}

#[test]
fn poll_reports_what_is_ready_and_waits_no_longer_than_it_may() {
    let mut guest = Guest::new();
    let (reader, writer) = pipe(&mut guest, 0);
    let entry = |fd: u64, events: u64| fd | events << 32;
    guest.put_words(
        DATA,
        &[
            entry(reader, 1),
            entry(writer, 4),
            entry(77, 1),
            entry(1, 4),
        ],
    );
    assert_eq!(guest.ok(libc::SYS_poll, &[DATA, 4, MINUS_1]), 3);
    let revents: Vec<_> = (0..4)
        .map(|index| guest.u64(DATA + 8 * index) >> 48)
        .collect();
    assert_eq!(revents, [0, 4, 0x20, 4]);
    let start = Instant::now();
    assert_eq!(guest.ok(libc::SYS_poll, &[DATA, 1, 20]), 0);
    assert!(start.elapsed() >= Duration::from_millis(20));
    guest.time = Duration::from_millis(20);
    assert_eq!(
        guest.fault(libc::SYS_poll, &[DATA, 1, 100_000]),
        crate::Fault::TimedOut
    );
    assert!(
        guest
            .fault(libc::SYS_poll, &[DATA, 1, MINUS_1])
            .to_string()
            .contains("polls")
    );
    assert_eq!(guest.errno(libc::SYS_poll, &[DATA, 1025, 0]), libc::EINVAL);
    assert_eq!(
        guest.errno(libc::SYS_poll, &[DATA, MINUS_1, 0]),
        libc::EINVAL
    );
    assert_eq!(guest.errno(libc::SYS_poll, &[NOWHERE, 1, 0]), libc::EFAULT);
    guest.ok(libc::SYS_close, &[writer]);
    assert_eq!(guest.ok(libc::SYS_poll, &[DATA, 1, MINUS_1]), 1);
    assert_eq!(guest.u64(DATA) >> 48, 0x10);
}

#[test]
fn select_keeps_the_bits_of_ready_descriptors() {
    let mut guest = Guest::new();
    let (reader, writer) = pipe(&mut guest, 0);
    guest.put_words(DATA + 64, &[1 << reader]);
    guest.put_words(DATA + 72, &[1 << writer]);
    guest.put_words(DATA + 80, &[0, 0]);
    let args = [writer + 1, DATA + 64, DATA + 72, 0, DATA + 80];
    assert_eq!(guest.ok(libc::SYS_select, &args), 1);
    assert_eq!(
        (guest.u64(DATA + 64), guest.u64(DATA + 72)),
        (0, 1 << writer)
    );
    guest.put_words(DATA + 64, &[MINUS_1]);
    assert_eq!(guest.errno(libc::SYS_select, &[64, DATA + 64]), libc::EBADF);
    assert_eq!(guest.errno(libc::SYS_select, &[MINUS_1]), libc::EINVAL);
    assert_eq!(guest.errno(libc::SYS_pselect6, &[1025]), libc::EINVAL);
}

#[test]
fn epoll_reports_levels_edges_and_one_shots() {
    let mut guest = Guest::new();
    let set = guest.ok(libc::SYS_epoll_create1, &[0]);
    let (level, edge, once) = (
        guest.ok(libc::SYS_eventfd2, &[1, 0]),
        guest.ok(libc::SYS_eventfd2, &[1, 0]),
        guest.ok(libc::SYS_eventfd2, &[1, 0]),
    );
    for (fd, events) in [(level, 1_u32), (edge, 0x8000_0001), (once, 0x4000_0001)] {
        guest.put(DATA, &events.to_le_bytes());
        guest.put_words(DATA + 4, &[fd + 1000]);
        guest.ok(libc::SYS_epoll_ctl, &[set, 1, fd, DATA]);
        assert_eq!(
            guest.errno(libc::SYS_epoll_ctl, &[set, 1, fd, DATA]),
            libc::EEXIST
        );
    }
    assert_eq!(guest.ok(libc::SYS_epoll_wait, &[set, DATA, 10, 0]), 3);
    assert_eq!(guest.u64(DATA + 4), level + 1000);
    assert_eq!(guest.u64(DATA + 16), edge + 1000);
    assert_eq!(guest.ok(libc::SYS_epoll_wait, &[set, DATA, 10, 0]), 1);
    guest.put_words(DATA, &[1]);
    guest.ok(libc::SYS_write, &[edge, DATA, 8]);
    assert_eq!(guest.ok(libc::SYS_epoll_wait, &[set, DATA, 10, 0]), 2);
    guest.ok(libc::SYS_close, &[level]);
    guest.ok(libc::SYS_epoll_ctl, &[set, 2, edge, 0]);
    assert_eq!(guest.ok(libc::SYS_epoll_wait, &[set, DATA, 10, 0]), 0);
    assert!(
        guest
            .fault(libc::SYS_epoll_wait, &[set, DATA, 10, MINUS_1])
            .to_string()
            .len()
            > 5
    );
    assert_eq!(
        guest.errno(libc::SYS_epoll_wait, &[set, DATA, 0, 0]),
        libc::EINVAL
    );
    assert_eq!(
        guest.errno(libc::SYS_epoll_wait, &[1, DATA, 1, 0]),
        libc::EINVAL
    );
    assert_eq!(
        guest.errno(libc::SYS_epoll_ctl, &[set, 1, set, DATA]),
        libc::EINVAL
    );
    assert_eq!(
        guest.errno(libc::SYS_epoll_ctl, &[set, 1, 0, DATA]),
        libc::EPERM
    );
    assert_eq!(
        guest.errno(libc::SYS_epoll_ctl, &[set, 3, once + 50, DATA]),
        libc::EBADF
    );
}
