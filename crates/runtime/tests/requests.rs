//! Requests by every way of delivery, with real guests.

mod support;

use runtime::Exchange as _;
use runtime::{BodyError, Phase, Recorded, Side, Threads};
use support::{BOTH, finish, get, get_with, post, program, program_with};

const MIB: u64 = 1 << 20;

#[test]
fn hello_is_answered_on_the_callers_thread_and_on_one_of_its_own() {
    for threads in BOTH {
        let hello = program_with("hello", threads, |_| {});
        for _ in 0..20 {
            let reply = get(&hello, "/");
            assert_eq!(
                (reply.status(), reply.text().as_str()),
                (200, "Hello World")
            );
            assert_eq!(&*reply.response.content_type, b"text/plain");
        }
        assert_eq!(hello.phase(), Phase::Serving);
    }
}

#[test]
fn guests_in_cpp_and_rust_are_answered_too() {
    for name in ["hello_cpp", "hello_rust"] {
        let reply = get(&program(name), "/");
        assert_eq!(reply.status(), 200, "{name}: {}", reply.log());
    }
}

#[test]
fn a_callback_gets_url_and_argument() {
    let echo = program("echo");
    let reply = get_with(&echo, "/path?query", "argument", Recorded::new("GET", &[]));
    assert_eq!(reply.text(), "/path?query argument");
}

#[test]
fn the_request_structure_tells_everything() {
    let request = program("request");
    let exchange = Recorded::new("PURGE", &["Host: example.com", "X-Empty: ", "Accept: a, b"]);
    let reply = get_with(&request, "/u", "a", exchange);
    let expected = "method=PURGE\nurl=/u\narg=a\ncontent_type=\nlengths=5 2 1 0\ncontent=no 0\n\
        flags=0\nreserved=0 0 0\nheaders=3\nHost: example.com\nX-Empty: \nAccept: a, b\n";
    assert_eq!(reply.text(), expected);
    let reply = post(&request, "/u", "text/x", b"12345");
    assert!(
        reply
            .text()
            .contains("content_type=text/x\nlengths=4 2 0 6\ncontent=yes 5\n")
    );
}

#[test]
fn a_paused_program_goes_on_with_the_request_and_starts_afresh_each_time() {
    for threads in BOTH {
        let paused = program_with("paused", threads, |_| {});
        for round in 0..5 {
            let url = format!("/{round}");
            let reply = get(&paused, &url);
            let text = reply.text();
            let expected = format!("GET {url} \nHost: example.com\ncontent_type=\nserved=1\n\n");
            assert_eq!(text, expected, "{}", reply.log());
        }
        let reply = post(&paused, "/p", "text/x", b"body");
        assert!(
            reply
                .text()
                .ends_with("content_type=text/x\nserved=1\n\nbody")
        );
    }
}

#[test]
fn bodies_of_any_size_come_back_unchanged() {
    let echo = program_with("echo", Threads::AsHostLikes, |recipe| {
        recipe.max_request_memory = 256 * MIB;
        recipe.max_request_time = std::time::Duration::from_secs(60);
    });
    for size in [
        1,
        4095,
        4096,
        65_536,
        65_537,
        1 << 20,
        10_000_001,
        100 << 20,
    ] {
        let body: Vec<u8> = (0..size)
            .map(|n: u32| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect();
        let reply = post(&echo, "/", "application/x", &body);
        assert_eq!(reply.status(), 200, "{size}: {}", reply.log());
        assert_eq!(&*reply.response.content_type, b"application/x");
        assert!(reply.body == body, "{size}");
    }
}

#[test]
fn a_body_of_unknown_length_grows_with_its_chunks() {
    let echo = program("echo");
    for (chunk, count) in [(1, 1000), (1000, 1000), (65_536, 100), (3_000_000, 5)] {
        let mut reservation = echo.reserve().unwrap();
        reservation.begin_body(None).unwrap();
        let mut exchange = Recorded::new("POST", &[]);
        let mut sent = Vec::new();
        for number in 0..count {
            let part = vec![u8::try_from(number % 251).unwrap(); chunk];
            reservation.push_body(&part, &mut exchange).unwrap();
            sent.extend_from_slice(&part);
        }
        let reply = finish(reservation, "/", "", b"x/y", exchange);
        assert_eq!(reply.status(), 200, "{}", reply.log());
        assert!(reply.body == sent, "{chunk} {count}");
    }
}

#[test]
fn a_body_beyond_the_programs_memory_is_refused_and_the_vm_serves_on() {
    let echo = program_with("echo", Threads::AsHostLikes, |recipe| {
        recipe.max_request_memory = 8 * MIB;
        recipe.concurrency = 1;
    });
    let mut reservation = echo.reserve().unwrap();
    let refused = reservation.begin_body(Some(9 * MIB));
    assert_eq!(refused, Err(BodyError::TooLarge { limit: 8 * MIB }));
    drop(reservation);
    let mut reservation = echo.reserve().unwrap();
    let chunk = vec![1; 1 << 20];
    let mut exchange = Recorded::new("POST", &[]);
    let result = (0..16).try_for_each(|_| reservation.push_body(&chunk, &mut exchange));
    assert_eq!(result, Err(BodyError::TooLarge { limit: 8 * MIB }));
    drop(reservation);
    // Often enough to be looked at by the memory limit's tick.
    for _ in 0..200 {
        let reply = post(&echo, "/", "t", b"fine");
        assert_eq!(reply.text(), "fine", "{}", reply.log());
    }
}

#[test]
fn an_empty_body_reaches_a_program_as_no_body() {
    let request = program("request");
    let mut reservation = request.reserve().unwrap();
    reservation.begin_body(Some(0)).unwrap();
    let reply = finish(reservation, "/", "", b"text/x", Recorded::new("POST", &[]));
    assert!(reply.text().contains("content_type=\n"), "{}", reply.text());
    assert!(reply.text().contains("content=no 0\n"));
}

#[test]
fn header_calls_reach_the_transaction() {
    let headers = program("headers");
    let reply = get(&headers, "/append");
    assert_eq!(reply.exchange.response_field("X-One").as_deref(), Some("1"));
    assert_eq!(
        reply.exchange.response_field("X-Text").as_deref(),
        Some("formatted-7")
    );
    let reply = get(&headers, "/set");
    assert_eq!(reply.exchange.response, [b"x-one: 2".to_vec()]);
    let reply = get_with(
        &headers,
        "/find",
        "host",
        Recorded::new("GET", &["Host: example.com"]),
    );
    assert!(
        reply.text().starts_with("17\n0\n17\nHost: example.com\n"),
        "{}",
        reply.text()
    );
    let reply = get(&headers, "/method");
    assert_eq!(reply.text(), "GET\n3\n0\n");
    let reply = get(&headers, "/request");
    assert!(
        reply
            .exchange
            .find(Side::Request, b"x-from-guest")
            .is_some()
    );
    let reply = get(&headers, "/extra");
    assert_eq!((reply.status(), reply.text().as_str()), (203, "extra"));
    assert_eq!(
        reply.exchange.response_field("Server").as_deref(),
        Some("guest")
    );
    assert_eq!(
        reply.exchange.response_field("X-Cut").as_deref(),
        Some("and the rest")
    );
    let reply = get(&headers, "/many");
    assert!(reply.text().contains("ffffffff"), "{}", reply.text());
}

#[test]
fn a_header_that_would_split_the_response_costs_the_request() {
    let headers = program("headers");
    for bad in [
        "X:_a!$Set-Cookie:_b",
        "X:_a$b",
        "noc",
        "X:a",
        "_X:_a",
        "X:_a_",
        "a",
    ] {
        let exchange = Recorded::new("GET", &[]);
        let reply = get_with(&headers, "/bad", bad, exchange);
        assert_eq!(reply.status(), 500, "{bad}");
        assert!(reply.exchange.response.is_empty(), "{bad}");
    }
}

#[test]
fn cacheability_reaches_the_transaction() {
    let headers = program("headers");
    let how = get(&headers, "/cached").exchange.cacheability.unwrap();
    assert!(how.cacheable);
    assert_eq!(
        (how.ttl.as_millis(), how.grace.as_secs(), how.keep.as_secs()),
        (100_500, 20, 3)
    );
    let how = get(&headers, "/cacheable").exchange.cacheability.unwrap();
    assert_eq!((how.cacheable, how.ttl.as_millis()), (true, 7500));
    assert!(
        !get(&headers, "/uncacheable")
            .exchange
            .cacheability
            .unwrap()
            .cacheable
    );
}

#[test]
fn the_guests_log_lines_are_the_requests_log() {
    let headers = program("headers");
    let reply = get_with(&headers, "/log", "xyz", Recorded::new("GET", &[]));
    assert!(
        reply.log().contains("a line of the guest: xyz"),
        "{}",
        reply.log()
    );
}

#[test]
fn more_headers_than_a_guest_can_be_told_are_an_error_in_plain_words() {
    let request = program("request");
    let fields: Vec<String> = (0..70).map(|n| format!("X-{n}: y")).collect();
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let reply = get_with(&request, "/", "", Recorded::new("GET", &fields));
    assert_eq!(reply.status(), 500);
    assert!(
        reply.log().contains("more than 64 header fields"),
        "{}",
        reply.log()
    );
}

#[test]
fn a_hello_costs_one_kvm_run_and_no_other_call() {
    for threads in BOTH {
        let hello = program_with("hello", threads, |recipe| recipe.concurrency = 1);
        let machine = || {
            let reservation = hello.reserve().unwrap();
            drop(reservation);
            hello.statistics().unwrap()["request"]["machines"][0].clone()
        };
        for _ in 0..3 {
            get(&hello, "/");
        }
        let before = machine();
        for _ in 0..100 {
            get(&hello, "/");
        }
        let after = machine();
        let spent = |key: &str| after[key].as_u64().unwrap() - before[key].as_u64().unwrap();
        // A request that the scheduler lets wait is interrupted to look at its memory.
        assert_eq!(
            spent("kvm_runs") - spent("interruptions"),
            100,
            "{threads:?}"
        );
        for key in ["ioctls", "guest_exceptions", "system_calls"] {
            assert_eq!(spent(key), 0, "{threads:?}: {key}");
        }
    }
}

#[test]
fn statistics_name_each_limit_of_memory_by_itself() {
    let hello = program_with("hello", Threads::AsHostLikes, |recipe| {
        recipe.max_memory = 32 << 20;
        recipe.address_space = 64 << 20;
        recipe.max_request_memory = 16 << 20;
    });
    assert_eq!(get(&hello, "/").status(), 200);
    let machine = hello.statistics().unwrap()["request"]["machines"][0].clone();
    assert_eq!(machine["vm_main_memory"], 32 << 20);
    assert_eq!(machine["vm_address_space"], 64 << 20);
    assert_eq!(machine["vm_bank_capacity"], 16 << 20);
}
