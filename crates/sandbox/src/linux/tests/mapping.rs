use super::super::args::flags;
use super::*;

const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
const RW: u64 = 3;

#[test]
fn anonymous_memory_is_zero_and_goes_away() {
    let mut guest = Guest::new();
    let at = guest.ok(libc::SYS_mmap, &[0, 10_000, RW, flags(PRIVATE), MINUS_1, 0]);
    assert_eq!(guest.bytes(at, 12_288), vec![0; 12_288]);
    guest.put(at, b"x");
    guest.ok(libc::SYS_madvise, &[at, 4096, 4]);
    assert_eq!(guest.bytes(at, 1), [0]);
    guest.ok(libc::SYS_mprotect, &[at, 4096, 1]);
    assert!(guest.memory.write(GuestVirt::new(at), b"x").is_err());
    let moved = guest.ok(libc::SYS_mremap, &[at + 4096, 8192, 1 << 20, 1]);
    assert_eq!(guest.bytes(moved, 1), [0]);
    guest.ok(libc::SYS_munmap, &[moved, 1 << 20]);
    assert!(guest.memory.read_u32(GuestVirt::new(moved)).is_err());
}

#[test]
fn a_file_is_mapped_by_its_content() {
    let directory = Directory::new();
    directory.file("text", &[9; 5000]);
    let mut guest = Guest::in_directory(&directory.0, false);
    let fd = guest.open("/data/text", 0).unwrap();
    let private = flags(libc::MAP_PRIVATE);
    let at = guest.ok(libc::SYS_mmap, &[0, 16_384, 1, private, fd, 0]);
    assert_eq!(guest.bytes(at, 5000), vec![9; 5000]);
    assert_eq!(guest.bytes(at + 5000, 11_384), vec![0; 11_384]);
    assert!(guest.memory.write(GuestVirt::new(at), b"x").is_err());
    let at = guest.ok(libc::SYS_mmap, &[0, 4096, RW, private, fd, 4096]);
    assert_eq!(guest.bytes(at, 905), [vec![9; 904], vec![0]].concat());
    let shared = flags(libc::MAP_SHARED);
    assert_eq!(
        guest.errno(libc::SYS_mmap, &[0, 4096, RW, shared, fd, 0]),
        libc::EACCES
    );
    assert_eq!(
        guest.errno(libc::SYS_mmap, &[0, 4096, RW, private, fd, 1]),
        libc::EINVAL
    );
    assert_eq!(
        guest.errno(libc::SYS_mmap, &[0, 4096, RW, private, 1, 0]),
        libc::ENODEV
    );
    assert_eq!(
        guest.errno(libc::SYS_mmap, &[0, 4096, RW, private, 99, 0]),
        libc::EBADF
    );
}

#[test]
fn memory_is_never_writable_and_executable() {
    let mut guest = Guest::new();
    let map = [0, 4096, 7, flags(PRIVATE), MINUS_1, 0];
    assert_eq!(guest.errno(libc::SYS_mmap, &map), libc::EACCES);
    assert_eq!(
        guest.errno(libc::SYS_mprotect, &[DATA, 4096, 7]),
        libc::EACCES
    );
    guest.ok(libc::SYS_mprotect, &[DATA, 4096, 5]);
}

#[test]
fn the_break_grows_shrinks_and_stops() {
    let mut guest = Guest::new();
    let start = guest.ok(libc::SYS_brk, &[0]);
    assert_eq!(guest.ok(libc::SYS_brk, &[start + 10_000]), start + 10_000);
    guest.put(start + 9_999, b"x");
    assert_eq!(guest.ok(libc::SYS_brk, &[MINUS_1]), start + 10_000);
    assert_eq!(guest.ok(libc::SYS_brk, &[start]), start);
}

#[test]
fn senseless_ranges_are_refused() {
    let mut guest = Guest::new();
    let anonymous = flags(PRIVATE);
    let fixed = flags(PRIVATE | libc::MAP_FIXED);
    let no_replace = flags(PRIVATE | libc::MAP_FIXED_NOREPLACE);
    for (args, errno) in [
        ([0, 0, RW, anonymous, 0, 0], libc::EINVAL),
        ([0, MINUS_1, RW, anonymous, 0, 0], libc::ENOMEM),
        ([0, 1 << 40, 0, anonymous, 0, 0], libc::ENOMEM),
        ([0, 4096, 8, anonymous, 0, 0], libc::EINVAL),
        ([0, 4096, RW, 0x20, 0, 0], libc::EINVAL),
        ([1, 4096, RW, fixed, 0, 0], libc::EINVAL),
        ([0x10000, 4096, RW, fixed, 0, 0], libc::EINVAL),
        ([0x7fff_ffff_f000, 4096, RW, fixed, 0, 0], libc::EINVAL),
        ([DATA, 4096, RW, no_replace, 0, 0], libc::EEXIST),
    ] {
        assert_eq!(guest.errno(libc::SYS_mmap, &args), errno, "{args:x?}");
    }
    assert_eq!(guest.errno(libc::SYS_munmap, &[1, 4096]), libc::EINVAL);
    assert_eq!(guest.errno(libc::SYS_munmap, &[DATA, 0]), libc::EINVAL);
    assert_eq!(
        guest.errno(libc::SYS_munmap, &[DATA, MINUS_1]),
        libc::EINVAL
    );
    assert_eq!(
        guest.errno(libc::SYS_mprotect, &[NOWHERE, 4096, 1]),
        libc::ENOMEM
    );
    assert_eq!(
        guest.errno(libc::SYS_mincore, &[DATA, 4096, DATA]),
        libc::ENOSYS
    );
}
