use super::*;
use crate::Fault;

#[test]
fn sleeping_takes_its_time_and_ends_at_the_deadline() {
    let mut guest = Guest::new();
    guest.put_words(DATA, &[0, 20_000_000]);
    let start = Instant::now();
    guest.ok(libc::SYS_nanosleep, &[DATA, 0]);
    assert!(start.elapsed() >= Duration::from_millis(20));
    guest.time = Duration::from_millis(30);
    for seconds in [3600, u64::MAX / 2] {
        guest.put_words(DATA, &[seconds, 0]);
        let start = Instant::now();
        assert_eq!(
            guest.fault(libc::SYS_nanosleep, &[DATA, 0]),
            Fault::TimedOut
        );
        assert!((30..5000).contains(&start.elapsed().as_millis()));
    }
    guest.put_words(DATA, &[0, 1_000_000_000]);
    assert_eq!(guest.errno(libc::SYS_nanosleep, &[DATA, 0]), libc::EINVAL);
    guest.put_words(DATA, &[MINUS_1, 0]);
    assert_eq!(guest.errno(libc::SYS_nanosleep, &[DATA, 0]), libc::EINVAL);
    assert_eq!(
        guest.errno(libc::SYS_nanosleep, &[NOWHERE, 0]),
        libc::EFAULT
    );
}

#[test]
fn an_absolute_sleep_until_the_past_returns_at_once() {
    let mut guest = Guest::new();
    guest.put_words(DATA, &[1, 0]);
    for clock in [0, 1] {
        guest.ok(libc::SYS_clock_nanosleep, &[clock, 1, DATA, 0]);
    }
    assert_eq!(
        guest.errno(libc::SYS_clock_nanosleep, &[99, 1, DATA, 0]),
        libc::EINVAL
    );
}

#[test]
fn clocks_are_those_of_the_host_and_cpu_time_is_the_programs_own() {
    let mut guest = Guest::new();
    guest.ok(libc::SYS_clock_gettime, &[0, DATA]);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    assert!(now.as_secs().abs_diff(guest.u64(DATA)) <= 2);
    assert!(guest.ok(libc::SYS_time, &[DATA]).abs_diff(now.as_secs()) <= 2);
    guest.ok(libc::SYS_gettimeofday, &[DATA, DATA + 16]);
    assert!(guest.u64(DATA + 8) < 1_000_000);
    guest.ok(libc::SYS_clock_gettime, &[2, DATA]);
    assert!(guest.u64(DATA) < 60);
    guest.ok(libc::SYS_clock_getres, &[1, 0]);
    assert_eq!(
        guest.errno(libc::SYS_clock_gettime, &[MINUS_1, DATA]),
        libc::EINVAL
    );
    assert_eq!(
        guest.errno(libc::SYS_clock_gettime, &[1, CONST]),
        libc::EFAULT
    );
}

#[test]
fn a_futex_nobody_can_wake_never_blocks_the_host() {
    let mut guest = Guest::new();
    guest.put_words(DATA, &[5]);
    assert_eq!(guest.errno(libc::SYS_futex, &[DATA, 0, 6, 0]), libc::EAGAIN);
    assert_eq!(guest.ok(libc::SYS_futex, &[DATA, 1, 1]), 0);
    assert!(
        guest
            .fault(libc::SYS_futex, &[DATA, 0x80, 5, 0])
            .to_string()
            .contains("futex")
    );
    guest.put_words(DATA + 16, &[0, 10_000_000]);
    assert_eq!(
        guest.errno(libc::SYS_futex, &[DATA, 0, 5, DATA + 16]),
        libc::ETIMEDOUT
    );
    let absolute = [DATA, 9, 5, DATA + 16, 0, 0xffff_ffff];
    assert_eq!(guest.errno(libc::SYS_futex, &absolute), libc::ETIMEDOUT);
    guest.time = Duration::from_millis(20);
    guest.put_words(DATA + 16, &[1000, 0]);
    assert_eq!(
        guest.fault(libc::SYS_futex, &[DATA, 0, 5, DATA + 16]),
        Fault::TimedOut
    );
    assert_eq!(
        guest.errno(libc::SYS_futex, &[DATA + 1, 0, 5, 0]),
        libc::EINVAL
    );
    assert_eq!(
        guest.errno(libc::SYS_futex, &[NOWHERE, 0, 5, 0]),
        libc::EFAULT
    );
    assert_eq!(guest.errno(libc::SYS_futex, &[DATA, 6, 5, 0]), libc::ENOSYS);
}
