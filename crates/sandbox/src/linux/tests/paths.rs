use super::super::paths::{Policy, Use, below, normalise};
use super::*;

fn entry(guest: &str, host: &str, prefix: bool) -> AllowedPath {
    AllowedPath {
        guest: guest.into(),
        host: host.into(),
        prefix,
        ..AllowedPath::default()
    }
}

#[test]
fn names_are_normalised_before_they_are_compared() {
    for (base, path, expected) in [
        ("/", "", "/"),
        ("/work", "file", "/work/file"),
        ("/work", "../etc/./passwd", "/etc/passwd"),
        ("/work", "/a//b/", "/a/b"),
        ("/work", "/../../..", "/"),
        ("/work/x", "..", "/work"),
        ("/", "a/b/../../../c", "/c"),
    ] {
        let normal = normalise(base.as_bytes(), path.as_bytes());
        assert_eq!(
            String::from_utf8(normal).unwrap(),
            expected,
            "{base} {path}"
        );
    }
}

#[test]
fn a_prefix_ends_at_a_component() {
    assert_eq!(below(b"/data/x", b"/data"), Some(&b"/x"[..]));
    assert_eq!(below(b"/data", b"/data"), Some(&b""[..]));
    assert_eq!(below(b"/database", b"/data"), None);
    assert_eq!(below(b"/x", b"/"), Some(&b"/x"[..]));
}

#[test]
fn the_first_entry_that_matches_counts() {
    let policy = Policy::new(
        b"/work",
        &[
            entry("/lib/special", "/other/special", false),
            entry("/lib", "/usr/lib", true),
            entry("state", "/srv/hello.state", false),
        ],
    );
    let host = |path: &str| {
        policy
            .host_path(path.as_bytes(), Use::Read)
            .map(|path| path.into_string().unwrap())
    };
    assert_eq!(host("/lib/special").as_deref(), Some("/other/special"));
    assert_eq!(
        host("/lib/special/x").as_deref(),
        Some("/usr/lib/special/x")
    );
    assert_eq!(host("/lib").as_deref(), Some("/usr/lib"));
    assert_eq!(host("/library"), None);
    assert_eq!(host("/work/state").as_deref(), Some("/srv/hello.state"));
    assert_eq!(policy.host_path(b"/lib/x", Use::Write), None);
    assert!(policy.is_ancestor(b"/"));
    assert!(policy.is_ancestor(b"/work"));
    assert!(!policy.is_ancestor(b"/etc"));
}

#[test]
fn no_way_of_writing_dot_dot_leaves_an_allowed_directory() {
    let directory = Directory::new();
    let inside = Directory(directory.0.join("inside"));
    std::fs::create_dir(&inside.0).unwrap();
    directory.file("secret", b"s");
    inside.file("open", b"o");
    let mut guest = Guest::in_directory(&inside.0, true);
    assert!(guest.open("/data/open", 0).is_ok());
    for path in [
        "/data/../secret",
        "/data/./../secret",
        "/data//..//secret",
        "/data/x/../../secret",
        "/database/../data/../secret",
        "../data/../secret",
        "/data../secret",
        "/data/..",
    ] {
        assert!(matches!(guest.open(path, 0), Err(libc::EACCES)), "{path}");
    }
    let dir = guest.open("/data", libc::O_DIRECTORY).unwrap();
    let path = guest.path("../secret");
    assert_eq!(guest.errno(libc::SYS_openat, &[dir, path, 0]), libc::EACCES);
    let path = guest.path("open");
    guest.ok(libc::SYS_openat, &[dir, path, 0]);
    assert_eq!(guest.errno(libc::SYS_openat, &[1, path, 0]), libc::ENOTDIR);
    assert_eq!(guest.errno(libc::SYS_openat, &[99, path, 0]), libc::EBADF);
}

#[test]
fn links_are_answered_by_the_configuration() {
    let link = AllowedPath {
        guest: b"/current".to_vec(),
        host: "/releases/7".into(),
        symlink: true,
        ..AllowedPath::default()
    };
    let mut guest = Guest::with(&[link], false);
    let path = guest.path("/current");
    assert_eq!(guest.ok(libc::SYS_readlink, &[path, DATA, 4096]), 11);
    assert_eq!(guest.bytes(DATA, 11), b"/releases/7");
    let path = guest.path("/proc/self/exe");
    assert_eq!(guest.ok(libc::SYS_readlink, &[path, DATA, 5]), 5);
    assert_eq!(guest.bytes(DATA, 5), b"/srv/");
    assert_eq!(
        guest.errno(libc::SYS_readlink, &[path, DATA, 0]),
        libc::EINVAL
    );
    let path = guest.path("/releases");
    assert_eq!(
        guest.errno(libc::SYS_readlink, &[path, DATA, 100]),
        libc::EACCES
    );
    let path = guest.path("/");
    assert_eq!(
        guest.errno(libc::SYS_readlink, &[path, DATA, 100]),
        libc::EINVAL
    );
}

#[test]
fn the_working_directory_moves_within_what_is_allowed() {
    let directory = Directory::new();
    directory.file("text", b"x");
    let mut guest = Guest::in_directory(&directory.0, false);
    assert_eq!(guest.ok(libc::SYS_getcwd, &[DATA, 100]), 6);
    assert_eq!(guest.bytes(DATA, 6), b"/work\0");
    assert_eq!(guest.errno(libc::SYS_getcwd, &[DATA, 5]), libc::ERANGE);
    assert_eq!(guest.errno(libc::SYS_getcwd, &[NOWHERE, 100]), libc::EFAULT);
    let path = guest.path("/etc");
    assert_eq!(guest.errno(libc::SYS_chdir, &[path]), libc::EACCES);
    let path = guest.path("/data/text");
    assert_eq!(guest.errno(libc::SYS_chdir, &[path]), libc::ENOTDIR);
    let path = guest.path("/data");
    guest.ok(libc::SYS_chdir, &[path]);
    assert!(guest.open("text", 0).is_ok());
    let path = guest.path("..");
    guest.ok(libc::SYS_chdir, &[path]);
    assert_eq!(guest.ok(libc::SYS_getcwd, &[DATA, 100]), 2);
}
