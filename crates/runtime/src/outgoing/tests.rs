//! Fetches from real servers on this machine.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

mod leaving;
#[path = "../../tests/support/site.rs"]
mod site;

use site::{Site, field, ok, path, redirect, serve};

/// Longer than any of these takes, on any machine.
const LONG: Duration = Duration::from_secs(120);

impl Site {
    /// A VCL whose Varnish this is.
    fn home(&self, most: i64) -> Outgoing {
        home("", &self.url(""), most, 0)
    }
}

fn home(socket: &str, prefix: &str, most: i64, depth: u32) -> Outgoing {
    Outgoing::new(
        Arc::new(SelfRequests::new(socket, prefix, most).unwrap()),
        depth,
    )
}

fn soon() -> Instant {
    Instant::now() + LONG
}

fn wish(url: &str) -> Wish<'_> {
    Wish {
        url: url.as_bytes(),
        method: Method::Get,
        fields: Fields::default(),
        follow: true,
        verify_host: true,
        deadline: soon(),
        program: None,
    }
}

fn rules(texts: &[String]) -> Vec<FetchRule> {
    texts
        .iter()
        .map(|text| FetchRule::parse(text).unwrap())
        .collect()
}

fn get(from: &Outgoing, url: &str, allowed: &[String]) -> Result<Fetched, FetchError> {
    let mut fetched = Fetched::default();
    from.fetch(&wish(url), &rules(allowed), &mut fetched)?;
    Ok(fetched)
}

fn body(fetched: Result<Fetched, FetchError>) -> String {
    String::from_utf8(fetched.unwrap().body.rest().to_vec()).unwrap()
}

#[test]
fn a_self_request_brings_status_type_and_body_and_says_how_deep_it_is() {
    let site = Site::start(|head, _| {
        let seen = Cause::parse(field(head, "X-TinyKVM-Depth").unwrap().as_bytes()).depth;
        let host = field(head, "Host").unwrap();
        let line = head.lines().next().unwrap();
        format!(
            "HTTP/1.1 404 Not Found\r\nContent-Type: text/x\r\nContent-Length: 2\r\n\
             X-Seen: {line}|{host}|{seen}\r\n\r\nno"
        )
        .into_bytes()
    });
    let from = home("", &site.url("/sub/"), 1, 3);
    let fetched = from.self_request(
        b"/a?b",
        &[b"Host: example.com", b"X-TinyKVM-Depth: 0"],
        soon(),
    );
    let fetched = fetched.unwrap();
    assert_eq!((fetched.status, fetched.body.rest()), (404, &b"no"[..]));
    assert_eq!(fetched.content_type, b"text/x");
    let mut head = Headed::default();
    from.fetch(&wish("/a?b"), &[], &mut head).unwrap();
    let expected = format!("GET /sub/a?b HTTP/1.1|127.0.0.1:{}|4", site.port());
    assert_eq!(field(&head.0, "X-Seen"), Some(expected.as_str()));
}

/// Keeps the head only.
#[derive(Default)]
struct Headed(String);

impl Taker for Headed {
    type Error = FetchError;

    fn part(&mut self, _: u64, _: usize) -> Result<Vec<u8>, FetchError> {
        Ok(Vec::new())
    }

    fn head(&mut self, head: Head) -> Result<(), FetchError> {
        self.0 = String::from_utf8(head.text).unwrap();
        Ok(())
    }

    fn body(&mut self, _: &[u8]) -> Result<(), FetchError> {
        Ok(())
    }
}

#[test]
fn a_unix_socket_leads_home_and_is_used_for_nothing_else() {
    let folder = std::env::temp_dir().join(format!("tinykvm-fetch-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        for connection in listener.incoming() {
            serve(connection.unwrap(), &|_: &str, _: &[u8]| ok(b"by socket"));
        }
    });
    let elsewhere = Site::start(|_, _| ok(b"by tcp"));
    let socket = format!("{}/", socket.display());
    let from = home(&socket, "http://varnish.example", 5, 0);
    assert_eq!(body(from.self_request(b"/x", &[], soon())), "by socket");
    assert_eq!(
        body(get(&from, "http://Varnish.example:80/y", &[])),
        "by socket"
    );
    assert_eq!(
        body(get(&from, &elsewhere.url("/"), &[elsewhere.url("")])),
        "by tcp"
    );
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn requests_one_after_the_other_share_a_connection() {
    let site = Site::start(|_, _| ok(b"x"));
    let from = site.home(1);
    for _ in 0..50 {
        assert_eq!(body(from.self_request(b"/", &[], soon())), "x");
    }
    // Tests that run beside this one may take the thread with the connection.
    assert!(
        site.connections() < 25,
        "{} connections",
        site.connections()
    );
}

#[test]
fn what_is_not_listed_is_not_asked() {
    let site = Site::start(|_, _| ok(b"x"));
    let from = Outgoing::default();
    let listed = [site.url("/api/")];
    assert_eq!(body(get(&from, &site.url("/api/x"), &listed)), "x");
    for url in [
        site.url("/other"),
        site.url("/api/../other"),
        format!("http://localhost:{}/api/", site.port()),
        format!("http://127.0.0.1:{}@evil.example/api/", site.port()),
        "file:///etc/passwd".to_owned(),
        "ftp://127.0.0.1/api/".to_owned(),
        "gopher://127.0.0.1/".to_owned(),
        "127.0.0.1".to_owned(),
        String::new(),
    ] {
        let result = get(&from, &url, &listed);
        assert!(
            matches!(
                result,
                Err(FetchError::Refused(_) | FetchError::Malformed(_))
            ),
            "{url}: {result:?}"
        );
        assert!(get(&from, &url, &[]).is_err());
    }
    assert_eq!(site.connections(), 1);
    let file = get(&from, "file:///etc/passwd", &["*".to_owned()]);
    assert!(matches!(file, Err(FetchError::Malformed(_))));
}

#[test]
fn each_redirect_is_looked_at_like_a_first_address() {
    let secret = Site::start(|_, _| ok(b"secret"));
    let to = secret.url("/");
    let site = Site::start(move |head, _| match path(head) {
        "/far" => redirect(302, &to),
        "/near" => redirect(301, "/there?x"),
        "/there?x" => ok(b"there"),
        "/round" => redirect(307, "/round"),
        "/file" => redirect(302, "file:///etc/passwd"),
        "/user" => redirect(302, "http://a@b/"),
        _ => redirect(302, ""),
    });
    let from = site.home(5);
    assert_eq!(body(get(&from, "/near", &[])), "there");
    assert!(matches!(
        get(&from, "/far", &[]),
        Err(FetchError::Refused(_))
    ));
    assert_eq!(secret.connections(), 0);
    assert_eq!(body(get(&from, "/far", &[secret.url("")])), "secret");
    assert_eq!(
        get(&from, "/round", &[]).unwrap_err(),
        FetchError::Redirects(10)
    );
    for path in ["/file", "/user"] {
        assert!(get(&from, path, &["*".to_owned()]).is_err(), "{path}");
    }
    let mut fetched = Fetched::default();
    let stay = Wish {
        follow: false,
        ..wish("/far")
    };
    from.fetch(&stay, &[], &mut fetched).unwrap();
    assert_eq!((fetched.status, fetched.body.rest()), (302, &b"move"[..]));
}

/// Sends a body of its own making, in parts as they are wanted.
struct Posting {
    bytes: Vec<u8>,
    answer: Fetched,
}

impl Taker for Posting {
    type Error = FetchError;

    fn part(&mut self, offset: u64, room: usize) -> Result<Vec<u8>, FetchError> {
        let begin = usize::try_from(offset).unwrap();
        let end = self.bytes.len().min(begin + room);
        Ok(self.bytes[begin..end].to_vec())
    }

    fn head(&mut self, head: Head) -> Result<(), FetchError> {
        self.answer.head(head)
    }

    fn body(&mut self, part: &[u8]) -> Result<(), FetchError> {
        self.answer.body(part)
    }
}

#[test]
fn a_body_is_sent_whole_and_again_where_a_redirect_says_so() {
    let site = Site::start(|head, body| match path(head) {
        "/again" => redirect(307, "/"),
        "/see" => redirect(303, "/"),
        _ => {
            let sum: u64 = body.iter().map(|&byte| u64::from(byte)).sum();
            let method = head.split(' ').next().unwrap();
            ok(format!("{method} {} {sum}", body.len()).as_bytes())
        }
    });
    let from = site.home(5);
    for len in [1, 1000, 65536, 3_000_001] {
        let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let sum: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
        for (path, expected) in [
            ("/", format!("POST {len} {sum}")),
            ("/again", format!("POST {len} {sum}")),
            ("/see", "GET 0 0".to_owned()),
        ] {
            let mut posting = Posting {
                bytes: bytes.clone(),
                answer: Fetched::default(),
            };
            let post = Wish {
                method: Method::Post(u64::try_from(bytes.len()).unwrap()),
                ..wish(path)
            };
            from.fetch(&post, &[], &mut posting).unwrap();
            assert_eq!(
                String::from_utf8(posting.answer.body.rest().to_vec()).unwrap(),
                expected
            );
        }
    }
}

#[test]
fn a_head_request_has_no_body() {
    let site = Site::start(|head, _| {
        assert!(head.starts_with("HEAD "));
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n".to_vec()
    });
    let mut fetched = Fetched::default();
    let head = Wish {
        method: Method::Head,
        ..wish("/")
    };
    site.home(1).fetch(&head, &[], &mut fetched).unwrap();
    assert_eq!((fetched.status, fetched.body.len()), (200, 0));
}

/// A server that holds its answers back until it is told.
fn holding() -> (Site, Receiver<()>, Sender<()>) {
    let (came, comes) = channel();
    let (go, goes) = channel::<()>();
    let (came, goes) = (Mutex::new(came), Mutex::new(goes));
    let site = Site::start(move |_, _| {
        let _nobody_asks = came.lock().unwrap().send(());
        let _told = goes.lock().unwrap().recv();
        ok(b"late")
    });
    (site, comes, go)
}

#[test]
fn a_vcl_has_no_more_self_requests_at_once_than_it_says() {
    let (site, comes, go) = holding();
    let from = site.home(1);
    thread::scope(|scope| {
        let first = scope.spawn(|| body(from.self_request(b"/", &[], soon())));
        comes.recv().unwrap();
        let refused = from.self_request(b"/", &[], soon()).unwrap_err();
        assert_eq!(refused, FetchError::Busy(1));
        assert_eq!(refused.status(), 503);
        go.send(()).unwrap();
        assert_eq!(first.join().unwrap(), "late");
    });
    go.send(()).unwrap();
    assert_eq!(body(from.self_request(b"/", &[], soon())), "late");
}

#[test]
fn a_chain_of_self_requests_has_an_end() {
    let site = Site::start(|_, _| ok(b"x"));
    let at = |depth| home("", &site.url(""), 5, depth).self_request(b"/", &[], soon());
    assert!(at(MOST_DEPTH - 1).is_ok());
    for too_deep in [MOST_DEPTH, u32::MAX] {
        let refused = at(too_deep).unwrap_err();
        assert_eq!(
            (&refused, refused.status()),
            (&FetchError::TooDeep(too_deep), 508)
        );
    }
}

#[test]
fn nobody_waits_beyond_the_deadline() {
    let (site, comes, go) = holding();
    let from = site.home(5);
    let begun = Instant::now();
    let late = from.self_request(b"/", &[], begun + Duration::from_millis(300));
    assert_eq!(late.unwrap_err(), FetchError::TimedOut);
    assert!(begun.elapsed() >= Duration::from_millis(290));
    comes.recv().unwrap();
    drop(go);
    // A server that answers without end and one whose deadline has passed before.
    let endless = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = endless.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut connection, _) = endless.accept().unwrap();
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut sent = connection.write_all(head);
        while sent.is_ok() {
            thread::sleep(Duration::from_millis(10));
            sent = connection.write_all(b"1\r\nx\r\n");
        }
    });
    let from = home("", &format!("http://127.0.0.1:{port}"), 5, 0);
    let late = from.self_request(b"/", &[], Instant::now() + Duration::from_millis(300));
    assert_eq!(late.unwrap_err(), FetchError::TimedOut);
    assert_eq!(
        from.self_request(b"/", &[], Instant::now()).unwrap_err(),
        FetchError::TimedOut
    );
}

/// Takes so many bytes, then no more.
struct Full(usize);

impl Taker for Full {
    type Error = FetchError;

    fn part(&mut self, _: u64, _: usize) -> Result<Vec<u8>, FetchError> {
        Ok(Vec::new())
    }

    fn head(&mut self, _: Head) -> Result<(), FetchError> {
        Ok(())
    }

    fn body(&mut self, part: &[u8]) -> Result<(), FetchError> {
        self.0 = self
            .0
            .checked_sub(part.len())
            .ok_or(FetchError::TooLarge(0))?;
        Ok(())
    }
}

#[test]
fn a_body_without_end_ends_when_its_taker_has_enough() {
    let (ended, end) = channel();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut sent = connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        let part = [b'x'; 65536];
        while sent.is_ok() {
            sent = connection.write_all(&part);
        }
        ended.send(()).unwrap();
    });
    let from = home("", &format!("http://127.0.0.1:{port}"), 5, 0);
    let result = from.fetch(&wish("/"), &[], &mut Full(1 << 20));
    assert_eq!(result, Err(FetchError::TooLarge(0)));
    // The transfer itself ends, too.
    end.recv_timeout(LONG).unwrap();
}

#[test]
fn many_fetches_at_once_get_each_its_own_answer() {
    let all = Arc::new(Barrier::new(16));
    let site = Site::start({
        let all = Arc::clone(&all);
        move |head, _| {
            all.wait();
            ok(path(head).as_bytes())
        }
    });
    let from = site.home(50);
    let answers: HashSet<String> = thread::scope(|scope| {
        let asking: Vec<_> = (0..16)
            .map(|number| {
                let from = &from;
                let path = format!("/{number}");
                scope.spawn(move || {
                    let got = body(from.self_request(path.as_bytes(), &[], soon()));
                    assert_eq!(got, path);
                    got
                })
            })
            .collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(answers.len(), 16);
}

#[test]
fn a_server_that_is_not_there_or_talks_nonsense_is_an_error_with_libcurls_code() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let refused =
        home("", &format!("http://127.0.0.1:{port}"), 5, 0).self_request(b"/", &[], soon());
    assert!(
        matches!(refused, Err(FetchError::Transfer { code: 7, .. })),
        "{refused:?}"
    );
    let missing = home("/nonexistent/socket", "http://h", 5, 0).self_request(b"/", &[], soon());
    assert!(
        matches!(missing, Err(FetchError::Transfer { code: 7, .. })),
        "{missing:?}"
    );
    for nonsense in [
        &b"hello\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut connection, _): (TcpStream, _) = listener.accept().unwrap();
            let mut some = [0; 1000];
            let _request = connection.read(&mut some).unwrap();
            connection.write_all(nonsense).unwrap();
        });
        let from = home("", &format!("http://127.0.0.1:{port}"), 5, 0);
        let result = from.self_request(b"/", &[], soon());
        assert!(
            matches!(result, Err(FetchError::Transfer { .. })),
            "{result:?}"
        );
    }
}

/// Threads of the crew in this process.
fn crew() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "tinykvm-fetch").count()
}

#[test]
fn threads_end_when_nobody_needs_them_and_begin_again() {
    let site = Site::start(|_, _| ok(b"x"));
    let from = site.home(1);
    for _ in 0..2 {
        assert_eq!(body(from.self_request(b"/", &[], soon())), "x");
        assert!(crew() > 0);
        let patience = Instant::now() + LONG;
        while crew() > 0 {
            assert!(Instant::now() < patience, "{} threads", crew());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_connection_that_carried_credentials_is_not_used_again() {
    let site = Site::start(|_, _| ok(b"x"));
    let from = Outgoing::default();
    let allowed = rules(&[site.url("")]);
    for (field, connections) in [(&b"Authorization: Bearer a"[..], 3), (b"X-Other: a", 4)] {
        for _ in 0..3 {
            let mut fields = Fields::default();
            fields.add(field).unwrap();
            let url = site.url("/");
            let wish = Wish {
                fields,
                ..wish(&url)
            };
            from.fetch(&wish, &allowed, &mut Fetched::default())
                .unwrap();
        }
        assert_eq!(site.connections(), connections);
    }
}
