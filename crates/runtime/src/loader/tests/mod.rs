mod downloads;
#[path = "../../../tests/support/folder.rs"]
mod folder;
mod kept;
mod server;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::*;
use folder::Folder;
use server::{Server, nobody, ok, status};

impl Folder {
    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// What a server has.
const REMOTE: &[u8] = b"\x7fELF remote";

const LIMITS: Limits = Limits {
    connect: Duration::from_secs(5),
    total: Duration::from_secs(20),
    stalled: Duration::from_secs(20),
    max_bytes: 1 << 20,
};

fn config(filename: Option<&PathBuf>, uri: Option<&str>) -> ProgramConfig {
    ProgramConfig {
        name: "p".into(),
        filename: filename.cloned(),
        uri: uri.map(str::to_owned),
        ..ProgramConfig::default()
    }
}

fn load(config: &ProgramConfig) -> Result<Loaded, LoadError> {
    program_within(config, &LIMITS)
}

fn sha256(bytes: &[u8]) -> Option<[u8; 32]> {
    Some(<sha2::Sha256 as sha2::Digest>::digest(bytes).into())
}

fn unlucky(result: Result<Loaded, LoadError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_local_file_is_read_whole() {
    let folder = Folder::new();
    let path = folder.file("p", b"local");
    let loaded = load(&config(Some(&path), None)).unwrap();
    assert_eq!(loaded.binaries.request, b"local");
    assert!(matches!(loaded.from, Origin::File));
    assert!(matches!(load(&config(None, None)), Err(LoadError::Nowhere)));
}

#[test]
fn what_is_no_ordinary_file_is_refused_without_waiting() {
    let folder = Folder::new();
    let absent = folder.0.join("absent");
    assert!(unlucky(load(&config(Some(&absent), None))).contains("No such file"));
    assert!(matches!(
        load(&config(Some(&folder.0), None)),
        Err(LoadError::NotAFile(_))
    ));
    let pipe = folder.0.join("pipe");
    let name = std::ffi::CString::new(pipe.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: a path that ends with a zero byte.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    assert!(matches!(
        load(&config(Some(&pipe), None)),
        Err(LoadError::NotAFile(_))
    ));
    let zero = PathBuf::from("/dev/zero");
    assert!(matches!(
        load(&config(Some(&zero), None)),
        Err(LoadError::NotAFile(_))
    ));
    let big = folder.file("big", &vec![0; (1 << 20) + 1]);
    assert!(matches!(
        load(&config(Some(&big), None)),
        Err(LoadError::TooLong { .. })
    ));
    let fits = folder.file("fits", &vec![0; 1 << 20]);
    assert!(load(&config(Some(&fits), None)).is_ok());
}

#[test]
fn a_local_file_with_another_hash_is_not_loaded() {
    let folder = Folder::new();
    let path = folder.file("p", b"local");
    let good = ProgramConfig {
        sha256: sha256(b"local"),
        ..config(Some(&path), None)
    };
    assert!(load(&good).is_ok());
    let bad = ProgramConfig {
        sha256: sha256(b"other"),
        ..config(Some(&path), None)
    };
    let message = unlucky(load(&bad));
    assert!(message.contains("but the configuration says d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa"), "{message}");
}

#[test]
fn a_file_address_is_a_file() {
    let folder = Folder::new();
    let path = folder.file("a b", REMOTE);
    let uri = format!("FILE://{}", path.display().to_string().replace(' ', "%20"));
    let kept = folder.0.join("kept");
    let loaded = load(&config(Some(&kept), Some(&uri))).unwrap();
    assert_eq!(loaded.binaries.request, REMOTE);
    assert_eq!(folder.names(), ["a b"]);
    for bad in [
        "file:///%",
        "file:///%4",
        "file:///%xy",
        "file://host/x",
        "ftp://x/y",
        "x",
        "",
    ] {
        let result = load(&config(None, Some(bad)));
        assert!(matches!(result, Err(LoadError::Address(_))), "{bad}");
    }
    assert!(unlucky(load(&config(None, Some("file:///a%00b")))).contains("cannot read"));
}

#[test]
fn a_fetched_program_is_kept_with_the_servers_date() {
    let folder = Folder::new();
    let kept = folder.0.join("new/folder/p");
    let server = Server::always(ok(REMOTE));
    let loaded = load(&config(Some(&kept), Some(&server.url("/p")))).unwrap();
    assert_eq!(loaded.binaries.request, REMOTE);
    assert!(matches!(
        loaded.from,
        Origin::Fetched {
            kept: Kept::Yes,
            ..
        }
    ));
    assert_eq!(fs::read(&kept).unwrap(), REMOTE);
    let facts = fs::metadata(&kept).unwrap();
    assert_eq!(facts.permissions().mode() & 0o777, 0o644);
    assert_eq!(
        facts.modified().unwrap(),
        UNIX_EPOCH + Duration::from_secs(784_111_777)
    );
    assert!(!server.seen()[0].contains("If-Modified-Since"));

    let loaded = load(&config(None, Some(&server.url("/p")))).unwrap();
    assert!(matches!(
        loaded.from,
        Origin::Fetched {
            kept: Kept::NotWanted,
            ..
        }
    ));
}

#[test]
fn a_kept_program_is_replaced_at_once_and_nothing_else_stays_behind() {
    let folder = Folder::new();
    let path = folder.file("p", b"old");
    let mut before = fs::File::open(&path).unwrap();
    let server = Server::always(ok(REMOTE));
    load(&config(Some(&path), Some(&server.url("/p")))).unwrap();
    assert_eq!(fs::read(&path).unwrap(), REMOTE);
    assert_eq!(folder.names(), ["p", "p.origin"]);
    // Who reads the old file goes on reading the old file.
    let mut text = String::new();
    before.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old");
}

#[test]
fn a_program_that_cannot_be_kept_is_used_all_the_same() {
    let folder = Folder::new();
    let file = folder.file("file", b"");
    let server = Server::always(ok(REMOTE));
    let loaded = load(&config(Some(&file.join("p")), Some(&server.url("/p")))).unwrap();
    assert_eq!(loaded.binaries.request, REMOTE);
    assert!(matches!(
        loaded.from,
        Origin::Fetched {
            kept: Kept::Failed(_),
            ..
        }
    ));
}

#[test]
fn a_server_is_asked_for_something_newer_than_the_kept_program() {
    let folder = Folder::new();
    let path = folder.file("p", b"local");
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(784_111_777))
        .unwrap();
    let server = Server::always(status("304 Not Modified"));
    let loaded = load(&config(Some(&path), Some(&server.url("/p?q")))).unwrap();
    assert_eq!(loaded.binaries.request, b"local");
    assert!(matches!(loaded.from, Origin::Unchanged));
    let head = &server.seen()[0];
    assert!(head.starts_with("GET /p?q HTTP/1.1\r\n"), "{head}");
    assert!(
        head.contains("\r\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n"),
        "{head}"
    );
    // Nobody asked for that:
    let message = unlucky(load(&config(None, Some(&server.url("/p")))));
    assert!(message.ends_with("the server answered 304"), "{message}");
}

#[test]
fn a_verified_program_is_not_fetched_and_a_wrong_one_always_is() {
    let folder = Folder::new();
    let path = folder.file("p", REMOTE);
    let server = Server::always(ok(REMOTE));
    let mut config = config(Some(&path), Some(&server.url("/p")));
    config.sha256 = sha256(REMOTE);
    assert!(matches!(load(&config).unwrap().from, Origin::File));
    assert_eq!(server.seen().len(), 0);
    fs::write(&path, b"wrong").unwrap();
    assert_eq!(load(&config).unwrap().binaries.request, REMOTE);
    assert!(!server.seen()[0].contains("If-Modified-Since"));
    assert_eq!(fs::read(&path).unwrap(), REMOTE);
}

#[test]
fn a_fetched_program_with_another_hash_is_neither_used_nor_kept() {
    let folder = Folder::new();
    let path = folder.file("p", b"local");
    let server = Server::always(ok(b"\x7fELF evil"));
    let mut config = config(Some(&path), Some(&server.url("/p")));
    config.sha256 = sha256(b"good");
    assert!(matches!(load(&config), Err(LoadError::Hash { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"local");
}

#[test]
fn the_kept_program_serves_while_the_server_is_down() {
    let folder = Folder::new();
    let path = folder.file("p", b"local");
    let broken = Server::always(status("503 Service Unavailable"));
    let truncated = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nremo");
    for uri in [nobody(), broken.url("/p"), truncated.url("/p")] {
        let loaded = load(&config(Some(&path), Some(&uri))).unwrap();
        assert_eq!(loaded.binaries.request, b"local");
        assert!(matches!(loaded.from, Origin::Fallback { .. }));
        // Without a copy there is nothing to fall back to.
        assert!(load(&config(None, Some(&uri))).is_err());
        assert!(load(&config(Some(&folder.0.join("absent")), Some(&uri))).is_err());
    }
    // Nor with one that the hash excludes.
    let uri = nobody();
    let wrong = ProgramConfig {
        sha256: sha256(b"x"),
        ..config(Some(&path), Some(&uri))
    };
    assert!(matches!(load(&wrong), Err(LoadError::Down { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"local");
}

#[test]
fn an_answer_that_is_no_success_is_an_error_that_names_it() {
    let folder = Folder::new();
    let path = folder.file("p", b"local");
    for line in [
        "404 Not Found",
        "403 Forbidden",
        "204 No Content",
        "206 Partial",
        "302 Found",
    ] {
        let server = Server::always(status(line));
        let uri = server.url("/p");
        let message = unlucky(load(&config(Some(&path), Some(&uri))));
        assert_eq!(
            message,
            format!("{uri}: the server answered {}", &line[..3])
        );
    }
    let server = Server::always(status("500 Internal Server Error"));
    let uri = server.url("/p");
    let message = unlucky(load(&config(None, Some(&uri))));
    assert_eq!(message, format!("{uri}: the server answered 500"));
}

#[test]
fn a_server_that_says_nothing_costs_no_more_than_the_time_allowed() {
    let server = Server::start(|_, connection| {
        // Until the client gives up.
        let _closed = connection.read(&mut [0]);
    });
    let limits = Limits {
        total: Duration::from_millis(200),
        ..LIMITS
    };
    let begun = Instant::now();
    let result = program_within(&config(None, Some(&server.url("/p"))), &limits);
    assert!(matches!(result, Err(LoadError::Down { .. })), "{result:?}");
    assert!(begun.elapsed() >= Duration::from_millis(150));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn redirects_are_followed_within_one_time_limit_and_a_number() {
    let server = Server::start(|head, connection| {
        use std::io::Write as _;
        let answer = if head.starts_with("GET /a ") {
            b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                .to_vec()
        } else if head.starts_with("GET /b ") {
            ok(REMOTE)
        } else {
            b"HTTP/1.1 301 Moved\r\nLocation: /loop\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                .to_vec()
        };
        connection.write_all(&answer).unwrap();
    });
    assert_eq!(
        load(&config(None, Some(&server.url("/a"))))
            .unwrap()
            .binaries
            .request,
        REMOTE
    );
    let result = load(&config(None, Some(&server.url("/loop"))));
    assert!(
        matches!(result, Err(LoadError::Redirects { limit: 5, .. })),
        "{result:?}"
    );
    assert_eq!(server.seen().len(), 2 + 6);
}

#[test]
fn a_redirect_away_from_http_is_not_followed() {
    for target in [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "gopher://127.0.0.1/",
    ] {
        let server = Server::always(format!(
            "HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        ));
        let result = load(&config(None, Some(&server.url("/p"))));
        assert!(
            matches!(result, Err(LoadError::Redirect { .. })),
            "{result:?}"
        );
    }
}

#[test]
fn an_answer_has_a_largest_size_announced_or_not() {
    let mut body = vec![b'x'; (1 << 20) + 1];
    body[..4].copy_from_slice(b"\x7fELF");
    let announced = Server::always(ok(&body));
    let mut answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
    answer.extend_from_slice(&body);
    let unannounced = Server::always(answer.clone());
    for server in [announced, unannounced] {
        let result = load(&config(None, Some(&server.url("/p"))));
        assert!(
            matches!(
                result,
                Err(LoadError::TooLong {
                    limit: 1_048_576,
                    ..
                })
            ),
            "{result:?}"
        );
    }
    answer.pop();
    let fits = Server::always(answer);
    assert_eq!(
        load(&config(None, Some(&fits.url("/p"))))
            .unwrap()
            .binaries
            .request
            .len(),
        1 << 20
    );
}

#[test]
fn passwords_in_addresses_are_not_shown() {
    assert_eq!(shown("http://user:pass@host:80/p@q"), "http://host:80/p@q");
    assert_eq!(shown("http://host?a@b"), "http://host?a@b");
    assert_eq!(shown("nonsense"), "nonsense");
    let uri = nobody().replace("http://", "http://user:secret@");
    let message = unlucky(load(&config(None, Some(&uri))));
    assert!(!message.contains("secret"), "{message}");
}

#[test]
fn a_library_is_text_from_anywhere() {
    let folder = Folder::new();
    let path = folder.file("l.json", b"{}");
    assert_eq!(
        library(&format!("file://{}", path.display())).unwrap(),
        "{}"
    );
    let server = Server::always(ok("{\"\u{e9}\": {}}".as_bytes()));
    assert_eq!(library(&server.url("/")).unwrap(), "{\"\u{e9}\": {}}");
    let binary = Server::always(ok(b"\xff"));
    assert!(matches!(
        library(&binary.url("/")),
        Err(LoadError::NotText(_))
    ));
    let absent = Server::always(status("404 Not Found"));
    assert!(matches!(
        library(&absent.url("/")),
        Err(LoadError::Status { status: 404, .. })
    ));
}

#[test]
fn many_writers_of_one_file_leave_one_whole_file() {
    let folder = Folder::new();
    let path = folder.0.join("p");
    std::thread::scope(|scope| {
        for writer in 0..8_u8 {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..20 {
                    file::replace(path, &vec![writer; 10_000], Some(SystemTime::now())).unwrap();
                    let bytes = fs::read(path).unwrap();
                    assert_eq!(bytes.len(), 10_000);
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
                }
            });
        }
    });
    assert_eq!(folder.names(), ["p"]);
}
