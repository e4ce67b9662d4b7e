//! `sys_fetch` and `sys_request`, from guests to real servers.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

#[path = "support/site.rs"]
mod site;
mod support;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use runtime::outgoing::{Cause, FetchRule, MOST_DEPTH, Outgoing, SelfRequests};
use runtime::{Program, Recorded};
use site::{Site, field, ok, path, redirect};
use support::{BOTH, Reply, finish, get_with, program_with};

fn fetcher(allowed: &[&str]) -> Arc<Program> {
    program_with("fetch", runtime::Threads::AsHostLikes, |recipe| {
        recipe.allowed_fetch = rules(allowed);
    })
}

fn rules(allowed: &[&str]) -> Vec<FetchRule> {
    allowed
        .iter()
        .map(|text| FetchRule::parse(text).unwrap())
        .collect()
}

/// A request of a VCL whose Varnish is `site`, caused by `depth` others.
fn caused(site: &Site, most: i64, depth: u32) -> Recorded {
    let home = SelfRequests::new("", &site.url(""), most).unwrap();
    Recorded {
        outgoing: Outgoing::new(Arc::new(home), depth),
        ..Recorded::new("GET", &[])
    }
}

fn ask(program: &Arc<Program>, site: &Site, url: &str, options: &str) -> Reply {
    get_with(program, url, options, caused(site, 50, 0))
}

/// The answer of a fetch that came to an end, and what is behind the first line.
fn told(reply: &Reply) -> (String, String) {
    assert_eq!(reply.status(), 200, "{}", reply.log());
    let text = reply.text();
    let (line, rest) = text.split_once('\n').unwrap();
    (line.to_owned(), rest.to_owned())
}

fn result(reply: &Reply) -> i64 {
    let (line, _) = told(reply);
    line.split(' ')
        .next()
        .unwrap()
        .strip_prefix("r=")
        .unwrap()
        .parse()
        .unwrap()
}

/// What the guest makes of a content.
fn sum(content: &[u8]) -> u32 {
    content.iter().fold(0, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u32::from(*byte))
    })
}

fn pattern(len: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(len).collect()
}

/// Tells what it got.
fn mirror() -> Site {
    Site::start(|head, body| match path(head) {
        "/empty" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/missing" => b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html; charset=utf-8\r\n\
            Content-Length: 3\r\nX-One: 1\r\n\r\nno!"
            .to_vec(),
        "/moved" => redirect(302, "/missing"),
        long if long.starts_with("/long/") => ok(&pattern(long[6..].parse().unwrap())),
        long if long.starts_with("/chunked/") => {
            let len: usize = long[9..].parse().unwrap();
            let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for part in pattern(len).chunks(10_000) {
                answer.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                answer.extend_from_slice(part);
                answer.extend_from_slice(b"\r\n");
            }
            answer.extend_from_slice(b"0\r\n\r\n");
            answer
        }
        _ => ok(format!("{}\n|{}|{}", head.trim_end(), body.len(), sum(body)).as_bytes()),
    })
}

#[test]
fn a_guest_gets_status_type_and_content_of_what_it_fetches() {
    let site = mirror();
    for threads in BOTH {
        let program = program_with("fetch", threads, |_| {});
        let (line, rest) = told(&ask(&program, &site, "/missing", ""));
        let expected = format!(
            "r=0 status=404 len=3 type=text/html; charset=utf-8 ctlen=25 hlen=0 sum={} content=1",
            sum(b"no!")
        );
        assert_eq!((line, rest.as_str()), (expected, "no!"));
        let (line, _) = told(&ask(&program, &site, "/empty", ""));
        assert_eq!(
            line,
            "r=0 status=204 len=0 type= ctlen=0 hlen=0 sum=0 content=1"
        );
        let (line, _) = told(&ask(&program, &site, "/missing", "head"));
        assert_eq!(
            line,
            "r=0 status=404 len=0 type=text/html; charset=utf-8 ctlen=25 hlen=0 sum=0 content=1"
        );
        let reply = ask(&program, &site, "/missing", "");
        let log = reply.log();
        assert!(
            log.contains("fetch: Fetch: GET /missing -> 404, 3 bytes in "),
            "{log}"
        );
    }
}

#[test]
fn a_guest_sends_fields_type_and_body() {
    let site = mirror();
    let program = fetcher(&[]);
    let options = "post=100000 type=text/x field=X-A:_1 field=Host:_example.com \
        field=Content-Length:_7 field=X-TinyKVM-Depth:_0";
    let (_, rest) = told(&ask(&program, &site, "/x?y", options));
    assert!(rest.starts_with("POST /x?y HTTP/1.1\r\n"), "{rest}");
    assert!(
        rest.ends_with(&format!("|100000|{}", sum(&pattern(100_000)))),
        "{rest}"
    );
    for (name, value) in [
        ("X-A", "1"),
        ("Host", "example.com"),
        ("Content-Type", "text/x"),
        ("Content-Length", "100000"),
    ] {
        assert_eq!(field(&rest, name), Some(value), "{rest}");
    }
    assert_eq!(
        Cause::parse(field(&rest, "X-TinyKVM-Depth").unwrap().as_bytes()).depth,
        1
    );
    // A type with its NUL is what an operation has that is used again.
    let (_, rest) = told(&ask(&program, &site, "/x", "times=3 keep"));
    assert_eq!(field(&rest, "Content-Type"), None);
}

#[test]
fn header_fields_are_handed_over_whole_or_cut_to_the_buffer() {
    let site = mirror();
    let program = fetcher(&[]);
    let head = "HTTP/1.1 404 Not Found\r\nContent-Type: text/html; charset=utf-8\r\n\
        Content-Length: 3\r\nX-One: 1\r\n\r\n";
    for options in ["headers=0", "headers=4000"] {
        let (line, rest) = told(&ask(&program, &site, "/missing", options));
        assert!(line.contains(&format!("hlen={} ", head.len())), "{line}");
        assert_eq!(rest, format!("{head}no!"));
    }
    let (line, rest) = told(&ask(&program, &site, "/missing", "headers=64"));
    assert!(line.contains("hlen=63 "), "{line}");
    assert_eq!(rest, format!("{}no!", &head[..63]));
    // Fewer than 64 bytes ask for none.
    let (_, rest) = told(&ask(&program, &site, "/missing", "headers=63"));
    assert!(!rest.contains("X-One"));
    // Of a redirect the last answer counts.
    let (_, rest) = told(&ask(&program, &site, "/moved", "headers=0"));
    assert_eq!(rest, format!("{head}no!"));
    let (line, rest) = told(&ask(&program, &site, "/moved", "nofollow"));
    assert!(line.starts_with("r=0 status=302 "), "{line}");
    assert_eq!(rest, "move");
}

#[test]
fn content_of_any_length_arrives_up_to_what_the_program_may_have() {
    let site = mirror();
    let program = fetcher(&[]);
    for len in [1, 4096, 65_536, 65_537, 5_000_000] {
        for kind in ["long", "chunked"] {
            let (line, _) = told(&ask(&program, &site, &format!("/{kind}/{len}"), ""));
            let expected = format!("len={len} type= ctlen=0 hlen=0 sum={}", sum(&pattern(len)));
            assert!(line.contains(&expected), "{line}");
        }
    }
    for (path, options, expected) in [
        ("/long/1000", "buffer=1000", 0),
        ("/long/1001", "buffer=1000", -23),
        ("/long/1", "buffer=0", -23),
        ("/empty", "buffer=0", 0),
    ] {
        assert_eq!(
            result(&ask(&program, &site, path, options)),
            expected,
            "{path}"
        );
    }
    let small = program_with("fetch", runtime::Threads::AsHostLikes, |recipe| {
        recipe.max_request_memory = 8 << 20;
    });
    for kind in ["long", "chunked"] {
        let reply = ask(&small, &site, &format!("/{kind}/20000000"), "");
        assert_eq!(result(&reply), -23);
        assert!(
            reply.log().contains("max_request_memory"),
            "{}",
            reply.log()
        );
        // What was mapped for it is free again.
        let (line, _) = told(&ask(&small, &site, &format!("/{kind}/1000000"), "times=5"));
        assert!(line.starts_with("r=0 "), "{line}");
    }
}

#[test]
fn what_a_fetch_brings_is_gone_with_its_request() {
    let site = mirror();
    let program = program_with("fetch", runtime::Threads::AsHostLikes, |recipe| {
        recipe.concurrency = 1;
    });
    // Each time the whole request memory is free.
    for _ in 0..20 {
        let (line, _) = told(&ask(&program, &site, "/long/20000000", "headers=0"));
        assert!(line.starts_with("r=0 status=200 len=20000000 "), "{line}");
    }
}

#[test]
fn a_program_fetches_what_its_list_has_and_nothing_else() {
    let site = mirror();
    let away = Site::start(|_, _| ok(b"away"));
    let far = away.url("/");
    let to = far.clone();
    let jump = Site::start(move |_, _| redirect(307, &to));
    let none = fetcher(&[]);
    let some = fetcher(&[&jump.url("/")]);
    let all = fetcher(&["*"]);
    for (program, url, options, expected) in [
        (&none, far.as_str(), "", -9),
        (&none, "file:///etc/passwd", "", -3),
        (&none, "-x", "", -3),
        (&some, &far, "", -9),
        (&some, &jump.url("/"), "", -9),
        (&some, &jump.url("/"), "nofollow", 0),
        (&all, &jump.url("/"), "", 0),
        (&all, &far, "", 0),
        (&all, &far, "request", -9),
        (&all, "/x", "request", 0),
        (&all, &site.url("/x"), "request", 0),
        (&all, "file:///etc/passwd", "", -3),
        (&all, "http://user@127.0.0.1/", "", -3),
    ] {
        let reply = ask(program, &site, url, options);
        assert_eq!(result(&reply), expected, "{url}: {}", reply.log());
    }
    let refused = ask(&some, &site, &jump.url("/"), "");
    let line = format!(
        "fetch: Fetch: GET {}: {far} is not in the program's allowed_fetch",
        jump.url("/")
    );
    assert!(refused.log().contains(&line), "{}", refused.log());
    // Only the self-request of these carries the depth, and only there a guest chooses the host.
    let (_, rest) = told(&ask(
        &all,
        &away,
        &site.url("/x"),
        "field=Host:_h field=X-B:_2",
    ));
    assert_eq!(field(&rest, "X-TinyKVM-Depth"), None);
    assert_eq!(field(&rest, "X-B"), Some("2"));
    assert_ne!(field(&rest, "Host"), Some("h"));
}

/// Tells of each request and answers when it is told to.
fn holding() -> (Site, Receiver<()>, Sender<()>) {
    let (came, comes) = channel();
    let (go, goes) = channel::<()>();
    let (came, goes) = (Mutex::new(came), Mutex::new(goes));
    let site = Site::start(move |_, _| {
        let _nobody = came.lock().unwrap().send(());
        let _end = goes.lock().unwrap().recv();
        ok(b"late")
    });
    (site, comes, go)
}

#[test]
fn a_loop_of_self_requests_and_too_many_at_once_end_with_a_message() {
    let site = mirror();
    let program = fetcher(&[]);
    let deep = get_with(&program, "/x", "", caused(&site, 50, MOST_DEPTH));
    assert_eq!(result(&deep), -508);
    assert!(
        deep.log().contains("8 self-requests have led here"),
        "{}",
        deep.log()
    );
    let (slow, comes, go) = holding();
    let exchange = caused(&slow, 1, 0);
    thread::scope(|scope| {
        let first = scope.spawn(|| result(&get_with(&program, "/x", "", exchange.clone())));
        comes.recv().unwrap();
        let second = get_with(&program, "/x", "", exchange.clone());
        assert_eq!(result(&second), -1);
        let log = second.log();
        assert!(
            log.contains("1 self-requests are under way already"),
            "{log}"
        );
        go.send(()).unwrap();
        assert_eq!(first.join().unwrap(), 0);
    });
}

#[test]
fn a_program_with_its_storage_has_one_share_of_fetches_and_leaves_the_rest_to_others() {
    let site = mirror();
    let (slow, comes, go) = holding();
    let greedy = program_with("fetch", runtime::Threads::AsHostLikes, |recipe| {
        // Shares are counted by name, and other tests fetch as well.
        recipe.name = "greedy".to_owned();
        recipe.concurrency = 65;
        recipe.storage = true;
    });
    let modest = program_with("fetch", runtime::Threads::AsHostLikes, |recipe| {
        recipe.name = "modest".to_owned();
    });
    assert_eq!(result(&ask(&modest, &site, "/x", "")), 0);
    thread::scope(|scope| {
        // Made before, so that the first fetch is still under way when the last one begins.
        let vms: Vec<_> = (0..64).map(|_| greedy.reserve().unwrap()).collect();
        let exchange = caused(&slow, 64, 0);
        let held: Vec<_> = vms
            .into_iter()
            .map(|vm| {
                let exchange = exchange.clone();
                scope.spawn(move || result(&finish(vm, "/x", "", b"", exchange)))
            })
            .collect();
        for _ in &held {
            comes
                .recv_timeout(Duration::from_secs(60) * guests::slowness())
                .unwrap();
        }
        let refused = ask(&greedy, &site, "/x", "");
        assert_eq!(result(&refused), -1);
        assert!(
            refused.log().contains(
                "greedy: Fetch: GET /x: 64 requests of the program are under way already"
            ),
            "{}",
            refused.log()
        );
        let stored = ask(&greedy, &site, "/x", "store").text();
        assert!(stored.starts_with("r=-1 "), "{stored}");
        assert_eq!(result(&ask(&modest, &site, "/x", "")), 0);
        for _ in &held {
            go.send(()).unwrap();
        }
        for one in held {
            assert_eq!(one.join().unwrap(), 0);
        }
    });
    assert_eq!(result(&ask(&greedy, &site, "/x", "")), 0);
}

#[test]
fn a_server_that_does_not_answer_costs_the_request_its_time_but_not_its_answer() {
    let (silent, comes, go) = holding();
    for threads in BOTH {
        let program = program_with("fetch", threads, |recipe| {
            recipe.max_request_time = Duration::from_secs(2) * guests::slowness();
        });
        let begun = Instant::now();
        let reply = ask(&program, &silent, "/x", "");
        assert_eq!(result(&reply), -28, "{}", reply.log());
        assert!(begun.elapsed() < Duration::from_secs(2) * guests::slowness());
        assert!(
            reply
                .log()
                .contains("fetch: Fetch: GET /x: no answer in time"),
            "{}",
            reply.log()
        );
        comes.recv().unwrap();
    }
    drop(go);
}

#[test]
fn misuse_ends_the_request_and_asks_nobody() {
    let site = mirror();
    let program = fetcher(&["*"]);
    for way in [1, 2, 3, 4, 5, 9, 10, 11, 13] {
        let reply = ask(&program, &site, "/x", &format!("bad={way}"));
        assert_eq!(reply.status(), 500, "{way}: {}", reply.text());
    }
    assert_eq!(site.connections(), 0);
    // These are noticed when the data is due.
    for way in [6, 7, 8] {
        let reply = ask(&program, &site, "/long/1000", &format!("bad={way}"));
        assert_eq!(reply.status(), 500, "{way}: {}", reply.text());
    }
    let reply = ask(&program, &site, "/long/100", "bad=12");
    assert_eq!(reply.status(), 200);
    assert_eq!(result(&ask(&program, &site, "/x", "bad=99")), -3);
    assert_eq!(result(&ask(&program, &site, "/x", "")), 0);
}

#[test]
fn a_program_that_starts_may_fetch_from_others_but_belongs_to_no_vcl_yet() {
    let site = mirror();
    let starting = |url: String| {
        let allowed = site.url("/");
        let program = program_with("fetch", runtime::Threads::AsHostLikes, |recipe| {
            recipe.allowed_fetch = rules(&[&allowed]);
            recipe.environment = vec![format!("FETCH={url}").into_bytes()];
        });
        told(&ask(&program, &site, "-", "")).0
    };
    assert!(starting(site.url("/missing")).starts_with("r=0 status=404 len=3 "));
    assert!(starting("/missing".to_owned()).starts_with("r=-9 "));
    assert!(starting("http://127.0.0.1:1/".to_owned()).starts_with("r=-9 "));
}

#[test]
fn a_streaming_answer_and_the_storage_ask_as_the_request_does() {
    let site = mirror();
    for threads in BOTH {
        let program = program_with("fetch", threads, |recipe| {
            recipe.storage = true;
            recipe.max_storage_time *= guests::slowness();
        });
        for option in ["stream", "store"] {
            let reply = get_with(&program, "/missing", option, caused(&site, 5, 0));
            assert!(
                reply.text().starts_with("r=0 status=404 len=3 "),
                "{}",
                reply.text()
            );
            let reply = get_with(&program, "/missing", option, caused(&site, 5, MOST_DEPTH));
            assert!(reply.text().starts_with("r=-508 "), "{}", reply.text());
        }
        // Nobody waits for a task, so that nothing has caused it.
        get_with(&program, "/empty", "task", caused(&site, 5, MOST_DEPTH));
        let patience = Instant::now() + Duration::from_secs(60) * guests::slowness();
        let stored = || get_with(&program, "/x", "stored", caused(&site, 5, MOST_DEPTH)).text();
        while !stored().starts_with("r=0 status=204 ") {
            assert!(Instant::now() < patience, "{}", stored());
            thread::yield_now();
        }
    }
}
