use super::*;

#[test]
fn a_file_is_read_at_the_offset_that_the_vm_keeps() {
    let directory = Directory::new();
    directory.file("text", b"0123456789");
    let mut guest = Guest::in_directory(&directory.0, false);
    let fd = guest.open("/data/text", libc::O_RDONLY).unwrap();
    assert_eq!(guest.ok(libc::SYS_read, &[fd, DATA, 4]), 4);
    assert_eq!(guest.ok(libc::SYS_pread64, &[fd, DATA + 100, 3, 7]), 3);
    assert_eq!(guest.ok(libc::SYS_read, &[fd, DATA + 4, 100]), 6);
    assert_eq!(guest.ok(libc::SYS_read, &[fd, DATA, 100]), 0);
    assert_eq!(guest.bytes(DATA, 10), b"0123456789");
    assert_eq!(guest.bytes(DATA + 100, 3), b"789");
    assert_eq!(guest.ok(libc::SYS_lseek, &[fd, MINUS_1, 2]), 9);
    assert_eq!(guest.ok(libc::SYS_read, &[fd, DATA, 100]), 1);
    assert_eq!(
        guest.errno(libc::SYS_lseek, &[fd, MINUS_1, 0]),
        libc::EINVAL
    );
    assert_eq!(guest.ok(libc::SYS_close, &[fd]), 0);
    assert_eq!(guest.errno(libc::SYS_read, &[fd, DATA, 1]), libc::EBADF);
}

#[test]
fn two_vms_with_one_open_file_do_not_move_each_other() {
    let directory = Directory::new();
    directory.file("text", b"0123456789");
    let mut main = Guest::in_directory(&directory.0, true);
    let fd = main.open("/data/text", libc::O_RDONLY).unwrap();
    main.ok(libc::SYS_read, &[fd, DATA, 2]);
    let mut forks: Vec<_> = (0..2)
        .map(|_| {
            let mut fork = Guest::new();
            fork.process = main.process.fork();
            fork
        })
        .collect();
    assert_eq!(forks[0].ok(libc::SYS_read, &[fd, DATA, 3]), 3);
    assert_eq!(forks[1].ok(libc::SYS_read, &[fd, DATA, 3]), 3);
    assert_eq!(forks[0].bytes(DATA, 3), b"234");
    assert_eq!(forks[1].bytes(DATA, 3), b"234");
}

#[test]
fn a_duplicate_shares_the_offset_and_outlives_the_original() {
    let directory = Directory::new();
    directory.file("text", b"0123456789");
    let mut guest = Guest::in_directory(&directory.0, false);
    let fd = guest.open("/data/text", libc::O_RDONLY).unwrap();
    let twin = guest.ok(libc::SYS_dup, &[fd]);
    assert_eq!(guest.ok(libc::SYS_dup2, &[fd, 50]), 50);
    guest.ok(libc::SYS_read, &[fd, DATA, 4]);
    guest.ok(libc::SYS_close, &[fd]);
    assert_eq!(guest.ok(libc::SYS_lseek, &[twin, 0, 1]), 4);
    assert_eq!(guest.ok(libc::SYS_lseek, &[50, 0, 1]), 4);
    assert_eq!(guest.errno(libc::SYS_dup3, &[50, 50, 0]), libc::EINVAL);
    assert_eq!(guest.errno(libc::SYS_dup2, &[50, 5000]), libc::EBADF);
    assert_eq!(guest.ok(libc::SYS_fcntl, &[50, 1030, 10]), 10);
    assert_eq!(guest.ok(libc::SYS_fcntl, &[10, 1]), 1);
}

#[test]
fn request_vms_cannot_write_whatever_the_paths_say() {
    let directory = Directory::new();
    directory.file("text", b"old");
    let mut main = Guest::in_directory(&directory.0, true);
    let fd = main.open("/data/text", libc::O_RDWR).unwrap();
    let mut request = Guest::new();
    request.process = main.process.fork();
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC] {
        assert_eq!(request.open("/data/text", flags), Err(libc::EPERM));
    }
    let path = request.path("/data/text");
    assert_eq!(request.errno(libc::SYS_write, &[fd, DATA, 1]), libc::EPERM);
    assert_eq!(request.errno(libc::SYS_ftruncate, &[fd, 0]), libc::EPERM);
    assert_eq!(request.errno(libc::SYS_unlink, &[path]), libc::EPERM);
    assert_eq!(request.errno(libc::SYS_rename, &[path, path]), libc::EPERM);
    assert_eq!(request.errno(libc::SYS_truncate, &[path, 0]), libc::EPERM);
    assert_eq!(request.errno(libc::SYS_chmod, &[path, 0]), libc::EPERM);
    assert_eq!(request.errno(libc::SYS_mkdir, &[path, 0o777]), libc::EPERM);
    assert_eq!(request.errno(libc::SYS_access, &[path, 2]), libc::EACCES);
    assert_eq!(std::fs::read(directory.0.join("text")).unwrap(), b"old");
}

#[test]
fn links_of_the_operator_lead_where_he_made_them_lead() {
    let directory = Directory::new();
    let at = |path: &str| directory.0.join(path);
    std::fs::create_dir_all(at("a/b")).unwrap();
    std::os::unix::fs::symlink("../..", at("a/b/up")).unwrap();
    directory.file("a/b/file", b"");
    let mut guest = Guest::in_directory(&directory.0, true);
    let mut named = |nth: u64, path: &[u8]| guest.put(DATA + nth * 0x1000, path);
    let link = named(1, b"/data/a/b/up\0");
    let free = named(2, b"/data/up\0");
    let folder = named(3, b"/data/a/b\0");
    let file = named(4, b"/data/a/b/file\0");
    let beside = named(5, b"/data/a/c\0");
    let rename = libc::SYS_rename;
    assert_eq!(guest.errno(rename, &[link, free]), libc::EPERM);
    assert_eq!(guest.errno(rename, &[folder, free]), libc::EXDEV);
    guest.ok(rename, &[file, free]);
    let here = super::super::args::flags(libc::AT_FDCWD);
    let exchange = [here, free, here, link, u64::from(libc::RENAME_EXCHANGE)];
    assert_eq!(guest.errno(libc::SYS_renameat2, &exchange), libc::EPERM);
    guest.ok(rename, &[folder, beside]);
    assert_eq!(guest.errno(rename, &[folder, beside]), libc::ENOENT);
    assert!(at("a/c/up").is_symlink());
}

#[test]
fn a_link_that_is_an_allowed_path_itself_is_not_replaced() {
    let directory = Directory::new();
    let at = |path: &str| directory.0.join(path);
    std::fs::create_dir(at("release")).unwrap();
    directory.file("release/file", b"");
    std::os::unix::fs::symlink("release", at("current")).unwrap();
    let mut guest = Guest::in_directory(&at("current"), true);
    let file = guest.put(DATA, b"/data/file\0");
    let root = guest.put(DATA + 0x1000, b"/data\0");
    let rename = libc::SYS_rename;
    assert_eq!(guest.errno(rename, &[file, root]), libc::EPERM);
    assert!(at("current").is_symlink());
    assert!(at("release/file").exists());
}

#[test]
fn main_and_storage_vms_write_below_writable_paths_only() {
    let directory = Directory::new();
    let mut guest = Guest::in_directory(&directory.0, true);
    let fd = guest
        .open("/data/new", libc::O_CREAT | libc::O_RDWR)
        .unwrap();
    guest.put(DATA, b"content");
    assert_eq!(guest.ok(libc::SYS_write, &[fd, DATA, 7]), 7);
    guest.put_words(DATA + 0x2000, &[DATA, 3, DATA + 3, 4]);
    assert_eq!(guest.ok(libc::SYS_writev, &[fd, DATA + 0x2000, 2]), 7);
    assert_eq!(guest.ok(libc::SYS_pwrite64, &[fd, DATA, 1, 13]), 1);
    assert_eq!(
        std::fs::read(directory.0.join("new")).unwrap(),
        b"contentcontenc"
    );
    let path = guest.path("/data/new");
    let dir = guest.put(DATA + 0x3000, b"/data/dir\0");
    guest.ok(libc::SYS_mkdir, &[dir, 0o777]);
    let inside = guest.put(DATA + 0x4000, b"/data/dir/moved\0");
    guest.ok(libc::SYS_rename, &[path, inside]);
    assert!(directory.0.join("dir/moved").exists());
    guest.ok(libc::SYS_unlink, &[inside]);
    guest.ok(libc::SYS_rmdir, &[dir]);
    assert_eq!(std::fs::read_dir(&directory.0).unwrap().count(), 0);
    assert_eq!(
        guest.open("/etc/hostname", libc::O_WRONLY),
        Err(libc::EPERM)
    );
    assert_eq!(
        guest.open("/etc/hostname", libc::O_RDONLY),
        Err(libc::EACCES)
    );
}

#[test]
fn only_regular_files_and_directories_are_opened() {
    let directory = Directory::new();
    let fifo = std::ffi::CString::new(directory.0.join("fifo").to_str().unwrap()).unwrap();
    // SAFETY: a C string.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    std::os::unix::fs::symlink("/dev/full", directory.0.join("full")).unwrap();
    std::os::unix::fs::symlink("/proc/self/fd/0", directory.0.join("magic")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(directory.0.join("socket")).unwrap();
    let mut guest = Guest::in_directory(&directory.0, false);
    assert_eq!(guest.open("/data/fifo", libc::O_RDONLY), Err(libc::EACCES));
    assert_eq!(guest.open("/data/full", libc::O_RDONLY), Err(libc::EACCES));
    assert_eq!(guest.open("/data/magic", libc::O_RDONLY), Err(libc::ELOOP));
    assert_eq!(guest.open("/data/socket", libc::O_RDONLY), Err(libc::ENXIO));
    assert_eq!(guest.open("/data/none", libc::O_RDONLY), Err(libc::ENOENT));
    let null = guest.open("/dev/null", libc::O_RDWR).unwrap();
    assert_eq!(guest.ok(libc::SYS_write, &[null, DATA, 10]), 10);
    assert_eq!(guest.ok(libc::SYS_read, &[null, DATA, 10]), 0);
    let random = guest.open("/dev/urandom", libc::O_RDONLY).unwrap();
    assert_eq!(guest.ok(libc::SYS_read, &[random, DATA, 5000]), 5000);
    assert_ne!(guest.bytes(DATA, 16), guest.bytes(DATA + 16, 16));
}

#[test]
fn a_directory_is_listed_from_where_this_vm_stands() {
    let directory = Directory::new();
    for name in ["a", "b", "c"] {
        directory.file(name, b"");
    }
    let mut guest = Guest::in_directory(&directory.0, false);
    let fd = guest
        .open("/data", libc::O_RDONLY | libc::O_DIRECTORY)
        .unwrap();
    let mut twin = Guest::new();
    twin.process = guest.process.fork();
    let first = guest.ok(libc::SYS_getdents64, &[fd, DATA, 4096]);
    assert!(first > 0);
    assert_eq!(guest.ok(libc::SYS_getdents64, &[fd, DATA + 8192, 4096]), 0);
    assert_eq!(twin.ok(libc::SYS_getdents64, &[fd, DATA, 4096]), first);
    guest.ok(libc::SYS_lseek, &[fd, 0, 0]);
    assert_eq!(guest.ok(libc::SYS_getdents64, &[fd, DATA, MINUS_1]), first);
    guest.ok(libc::SYS_lseek, &[fd, 0, 0]);
    assert_eq!(
        guest.errno(libc::SYS_getdents64, &[fd, DATA, 1]),
        libc::EINVAL
    );
    assert_eq!(
        guest.errno(libc::SYS_getdents64, &[fd, NOWHERE, 4096]),
        libc::EFAULT
    );
    assert_eq!(
        guest.errno(libc::SYS_getdents64, &[1, DATA, 4096]),
        libc::ENOTDIR
    );
    assert_eq!(guest.errno(libc::SYS_read, &[fd, DATA, 4096]), libc::EISDIR);
}

#[test]
fn status_tells_size_and_kind_in_both_structures() {
    let directory = Directory::new();
    directory.file("text", b"0123456789");
    std::os::unix::fs::symlink("text", directory.0.join("link")).unwrap();
    let mut guest = Guest::in_directory(&directory.0, false);
    let path = guest.path("/data/text");
    guest.ok(libc::SYS_stat, &[path, DATA]);
    assert_eq!(guest.u64(DATA + 48), 10);
    assert_eq!(guest.u32(DATA + 24) & libc::S_IFMT, libc::S_IFREG);
    let cwd = super::super::args::flags(libc::AT_FDCWD);
    guest.ok(libc::SYS_statx, &[cwd, path, 0, 0x7ff, DATA]);
    assert_eq!(guest.u64(DATA + 40), 10);
    assert_eq!(guest.u32(DATA + 28) & 0xf000, libc::S_IFREG);
    let link = guest.path("/data/link");
    guest.ok(libc::SYS_lstat, &[link, DATA]);
    assert_eq!(guest.u32(DATA + 24) & libc::S_IFMT, libc::S_IFLNK);
    guest.ok(libc::SYS_stat, &[link, DATA]);
    assert_eq!(guest.u32(DATA + 24) & libc::S_IFMT, libc::S_IFREG);
    assert_eq!(guest.ok(libc::SYS_readlink, &[link, DATA, 100]), 4);
    assert_eq!(guest.bytes(DATA, 4), b"text");
    let empty = guest.path("");
    guest.ok(libc::SYS_newfstatat, &[1, empty, DATA, 0x1000]);
    assert_eq!(guest.u32(DATA + 24) & libc::S_IFMT, libc::S_IFCHR);
    assert_eq!(guest.errno(libc::SYS_stat, &[empty, DATA]), libc::ENOENT);
    assert_eq!(
        guest.errno(libc::SYS_newfstatat, &[1, empty, DATA, 0x8000_0000]),
        libc::EINVAL
    );
}

#[test]
fn output_reaches_the_host_line_by_line_and_is_limited() {
    let mut guest = Guest::new();
    guest.put(DATA, b"hello\n");
    guest.put_words(DATA + 0x100, &[DATA, 2, DATA + 2, 4]);
    assert_eq!(guest.ok(libc::SYS_writev, &[1, DATA + 0x100, 2]), 6);
    assert_eq!(guest.log.0, [(1, b"hello\n".to_vec())]);
    assert_eq!(guest.ok(libc::SYS_ioctl, &[1, libc::TIOCGWINSZ, DATA]), 0);
    assert_eq!(
        guest.errno(libc::SYS_ioctl, &[0, libc::TCGETS, DATA]),
        libc::ENOTTY
    );
    for _ in 0..40 {
        assert_eq!(
            guest.ok(libc::SYS_write, &[2, DATA, 1 << 20]).min(65_536),
            65_536
        );
    }
    let written: usize = guest.log.0.iter().map(|(_, text)| text.len()).sum();
    assert!(written <= (1 << 20) + 100, "{written}");
    assert_eq!(guest.log.text().matches("the rest is dropped").count(), 1);
    let frozen = Guest::new();
    guest.process.reset_to(&frozen.process);
    guest.log.0.clear();
    guest.ok(libc::SYS_write, &[1, DATA, 6]);
    assert_eq!(guest.log.0.len(), 1);
}

#[test]
fn hostile_buffers_are_refused_or_cut_short() {
    let directory = Directory::new();
    directory.file("big", &[7; 100_000]);
    let mut guest = Guest::in_directory(&directory.0, false);
    let fd = guest.open("/data/big", libc::O_RDONLY).unwrap();
    assert_eq!(
        guest.errno(libc::SYS_read, &[fd, NOWHERE, 10]),
        libc::EFAULT
    );
    assert_eq!(guest.errno(libc::SYS_read, &[fd, CONST, 10]), libc::EFAULT);
    assert_eq!(
        guest.errno(libc::SYS_read, &[fd, MINUS_1, MINUS_1]),
        libc::EFAULT
    );
    assert_eq!(
        guest.ok(libc::SYS_read, &[fd, DATA + DATA_LEN - 5000, 90_000]),
        5000
    );
    assert_eq!(guest.bytes(DATA + DATA_LEN - 5000, 5000), vec![7; 5000]);
    assert_eq!(
        guest.errno(libc::SYS_pread64, &[fd, DATA, 1, MINUS_1]),
        libc::EINVAL
    );
    assert_eq!(
        guest.errno(libc::SYS_readv, &[fd, DATA, 1025]),
        libc::EINVAL
    );
    guest.put_words(DATA, &[DATA, MINUS_1, DATA, MINUS_1]);
    assert_eq!(guest.errno(libc::SYS_readv, &[fd, DATA, 2]), libc::EINVAL);
    guest.put_words(DATA, &[DATA + 64, 10, NOWHERE, 10]);
    assert_eq!(guest.ok(libc::SYS_readv, &[fd, DATA, 2]), 10);
    assert_eq!(
        guest.errno(libc::SYS_write, &[1, NOWHERE, 10]),
        libc::EFAULT
    );
    assert_eq!(guest.errno(libc::SYS_write, &[fd, DATA, 10]), libc::EBADF);
    let endless = vec![b'x'; 8192];
    guest.put(DATA, &endless);
    assert_eq!(
        guest.errno(libc::SYS_open, &[DATA, 0, 0]),
        libc::ENAMETOOLONG
    );
    assert_eq!(guest.errno(libc::SYS_open, &[NOWHERE, 0, 0]), libc::EFAULT);
}

#[test]
fn a_program_cannot_take_all_descriptors_of_the_host() {
    let directory = Directory::new();
    directory.file("text", b"x");
    let mut guest = Guest::in_directory(&directory.0, false);
    let opened = (0..2000)
        .take_while(|_| guest.open("/data/text", 0).is_ok())
        .count();
    assert_eq!(opened, 256);
    assert_eq!(guest.open("/data/text", 0), Err(libc::EMFILE));
    let events = (0..2000)
        .take_while(|_| guest.open("/dev/null", 0).is_ok())
        .count();
    assert_eq!(events, 1024 - 3 - 256);
    assert_eq!(guest.ok(libc::SYS_close_range, &[3, 0xffff_ffff, 0]), 0);
    assert_eq!(guest.open("/data/text", 0), Ok(3));
}

#[test]
fn a_long_list_of_ranges_is_read_no_further_than_the_deadline() {
    let directory = Directory::new();
    directory.file("zeros", &vec![0; 2 << 20]);
    let mut guest = Guest::in_directory(&directory.0, false);
    let fd = guest.open("/data/zeros", libc::O_RDONLY).unwrap();
    let list: Vec<u8> = [DATA + 8192, 4096]
        .repeat(256)
        .iter()
        .flat_map(|word: &u64| word.to_le_bytes())
        .collect();
    guest.memory.write(GuestVirt::new(DATA), &list).unwrap();
    assert_eq!(guest.ok(libc::SYS_preadv, &[fd, DATA, 256, 0]), 1 << 20);
    guest.time = Duration::ZERO;
    assert_eq!(guest.ok(libc::SYS_preadv, &[fd, DATA, 256, 0]), 4096);
}
