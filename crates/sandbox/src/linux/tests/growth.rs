//! Files that a guest writes become no larger than its memory, however it goes about it.

use super::*;

/// `/data/state` at its limit but for `room` bytes, and what the host sees of it.
fn nearly_full(room: u64) -> (Directory, Guest, PathBuf) {
    let directory = Directory::new();
    let path = directory.file("state", b"");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(MAX_FILE - room).unwrap();
    let guest = Guest::in_directory(&directory.0, true);
    (directory, guest, path)
}

fn len(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

/// Ways of writing 2 * 100 bytes at an offset; the arguments' first is the descriptor.
fn writes(guest: &mut Guest, offset: u64) -> [(i64, [u64; 6]); 5] {
    let vectors = guest.put_words(DATA + 0x2000, &[DATA, 100, DATA + 100, 100]);
    [
        (libc::SYS_write, [0, DATA, 200, 0, 0, 0]),
        (libc::SYS_writev, [0, vectors, 2, 0, 0, 0]),
        (libc::SYS_pwrite64, [0, DATA, 200, offset, 0, 0]),
        (libc::SYS_pwritev, [0, vectors, 2, offset, 0, 0]),
        (libc::SYS_pwritev2, [0, vectors, 2, offset, 0, 0]),
    ]
}

#[test]
fn every_way_of_writing_is_cut_at_the_limit_and_then_refused() {
    for way in 0..5 {
        for (append, room) in [(false, 30), (false, 130), (true, 30), (true, 130)] {
            let (_directory, mut guest, path) = nearly_full(room);
            let flags = if append { libc::O_APPEND } else { 0 };
            let fd = guest.open("/data/state", libc::O_RDWR | flags).unwrap();
            // An appended write ends up at the end, whatever offset it names.
            let offset = if append { 0 } else { MAX_FILE - room };
            guest.ok(libc::SYS_lseek, &[fd, offset, 0]);
            let (number, mut args) = writes(&mut guest, offset)[way];
            args[0] = fd;
            assert_eq!(guest.ok(number, &args), room, "{number}");
            assert_eq!(len(&path), MAX_FILE);
            args[3] += if append { 0 } else { room };
            assert_eq!(guest.errno(number, &args), libc::EFBIG, "{number}");
            assert_eq!(len(&path), MAX_FILE);
        }
    }
}

#[test]
fn a_long_write_ends_at_the_limit() {
    let (_directory, mut guest, path) = nearly_full((1 << 20) + 5000);
    let fd = guest.open("/data/state", libc::O_WRONLY).unwrap();
    guest.ok(libc::SYS_lseek, &[fd, 0, 2]);
    let written = guest.ok(libc::SYS_write, &[fd, DATA, DATA_LEN]);
    assert_eq!(written, (1 << 20) + 5000);
    assert_eq!(len(&path), MAX_FILE);
    assert_eq!(guest.ok(libc::SYS_lseek, &[fd, 0, 1]), MAX_FILE);
}

#[test]
fn a_file_grows_over_the_limit_by_no_other_call() {
    let (_directory, mut guest, path) = nearly_full(1);
    let fd = guest.open("/data/state", libc::O_RDWR).unwrap();
    for over in [MAX_FILE + 1, 1 << 40, i64::MAX.unsigned_abs()] {
        guest.ok(libc::SYS_lseek, &[fd, over, 0]);
        assert_eq!(guest.errno(libc::SYS_write, &[fd, DATA, 1]), libc::EFBIG);
        let truncate = guest.errno(libc::SYS_ftruncate, &[fd, over]);
        assert_eq!(truncate, libc::EFBIG);
        let name = guest.path("/data/state");
        assert_eq!(guest.errno(libc::SYS_truncate, &[name, over]), libc::EFBIG);
    }
    assert_eq!(
        guest.errno(libc::SYS_ftruncate, &[fd, MINUS_1]),
        libc::EINVAL
    );
    for number in [
        libc::SYS_fallocate,
        libc::SYS_copy_file_range,
        libc::SYS_sendfile,
        libc::SYS_splice,
    ] {
        assert_eq!(guest.errno(number, &[fd, 0, 0, 1 << 40]), libc::ENOSYS);
    }
    let shared = [0, 1 << 20, 3, 1, fd, 0];
    assert_eq!(guest.errno(libc::SYS_mmap, &shared), libc::EACCES);
    assert_eq!(len(&path), MAX_FILE - 1);
}

#[test]
fn a_full_file_is_read_overwritten_and_truncated_like_any_other() {
    let (_directory, mut guest, path) = nearly_full(0);
    let fd = guest.open("/data/state", libc::O_RDWR).unwrap();
    guest.put(DATA, b"over");
    assert_eq!(guest.ok(libc::SYS_write, &[fd, DATA, 4]), 4);
    let last = MAX_FILE - 4;
    assert_eq!(guest.ok(libc::SYS_pwrite64, &[fd, DATA, 4, last]), 4);
    assert_eq!(guest.ok(libc::SYS_pread64, &[fd, DATA + 8, 9, last]), 4);
    assert_eq!(guest.bytes(DATA + 8, 4), b"over");
    assert_eq!(guest.ok(libc::SYS_pwrite64, &[fd, DATA, 0, MAX_FILE]), 0);
    guest.ok(libc::SYS_ftruncate, &[fd, 10]);
    guest.ok(libc::SYS_ftruncate, &[fd, MAX_FILE]);
    assert_eq!(len(&path), MAX_FILE);
}

#[test]
fn a_file_that_is_larger_already_only_shrinks() {
    let (_directory, mut guest, path) = nearly_full(0);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(MAX_FILE + 100).unwrap();
    let fd = guest.open("/data/state", libc::O_RDWR).unwrap();
    let beyond = [fd, DATA, 1, MAX_FILE + 10];
    assert_eq!(guest.ok(libc::SYS_pread64, &beyond), 1);
    assert_eq!(guest.errno(libc::SYS_pwrite64, &beyond), libc::EFBIG);
    let longer = guest.errno(libc::SYS_ftruncate, &[fd, MAX_FILE + 101]);
    assert_eq!(longer, libc::EFBIG);
    guest.ok(libc::SYS_ftruncate, &[fd, MAX_FILE + 50]);
    assert_eq!(len(&path), MAX_FILE + 50);
}

#[test]
fn a_program_is_told_the_limit() {
    let mut guest = Guest::new();
    let what = u64::from(libc::RLIMIT_FSIZE);
    guest.ok(libc::SYS_getrlimit, &[what, DATA]);
    assert_eq!((guest.u64(DATA), guest.u64(DATA + 8)), (MAX_FILE, MAX_FILE));
}

#[test]
fn a_file_that_is_allowed_by_itself_cannot_be_removed_to_fill_another() {
    let directory = Directory::new();
    let state = directory.file("program.state", b"old");
    let other = directory.file("other", b"");
    let folder = Directory::new();
    let path = |guest: &str, host: &Path, prefix| AllowedPath {
        guest: guest.into(),
        host: host.to_path_buf(),
        prefix,
        writable: true,
        symlink: false,
    };
    let paths = [
        path("state", &state, false),
        path("/other", &other, false),
        path("/data", &folder.0, true),
    ];
    let mut guest = Guest::with(&paths, true);
    let state_name = guest.put(DATA + 0x1000, b"state\0");
    let other_name = guest.put(DATA + 0x2000, b"/other\0");
    let data = guest.put(DATA + 0x3000, b"/data\0");
    let new = guest.put(DATA + 0x4000, b"/data/new\0");
    for name in [state_name, other_name] {
        assert_eq!(guest.errno(libc::SYS_unlink, &[name]), libc::EPERM);
    }
    assert_eq!(guest.errno(libc::SYS_rmdir, &[data]), libc::EPERM);
    for (from, to) in [(state_name, other_name), (state_name, new), (data, new)] {
        assert_eq!(guest.errno(libc::SYS_rename, &[from, to]), libc::EPERM);
    }
    // A new content may take its place, but not change places with it.
    folder.file("new", b"");
    let here = super::super::args::flags(libc::AT_FDCWD);
    let exchange = [
        here,
        new,
        here,
        state_name,
        u64::from(libc::RENAME_EXCHANGE),
    ];
    assert_eq!(guest.errno(libc::SYS_renameat2, &exchange), libc::EPERM);
    guest.ok(libc::SYS_rename, &[new, state_name]);
    assert_eq!(len(&state), 0);
}
