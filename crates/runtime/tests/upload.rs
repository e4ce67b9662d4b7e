//! Request bodies that the program takes in parts.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::convert::Infallible;
use std::sync::Arc;

use runtime::chain::{Chain, Item, Link, Opening};
use runtime::{BodyError, Exchange, Limit, Program, Recorded, Request, Reservation, Threads};
use support::{BOTH, Reply, finish, program, program_with};

const MIB: u64 = 1 << 20;
const SEGMENT: usize = 64 << 10;

fn bytes(len: usize) -> Vec<u8> {
    (0..u32::try_from(len).unwrap())
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect()
}

/// What the program makes of a body.
fn sum(body: &[u8]) -> u64 {
    body.iter().fold(0_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
    })
}

/// Sends a body in chunks of that size, until it is refused.
fn send(
    reservation: &mut Reservation,
    url: &str,
    body: &[u8],
    chunk: usize,
    exchange: &mut Recorded,
) -> Result<(), BodyError> {
    let request = Request {
        method: b"POST",
        url: url.as_bytes(),
        argument: b"the argument",
        content_type: b"text/up",
    };
    reservation.begin(&request);
    reservation.begin_body(u64::try_from(body.len()).ok())?;
    for chunk in body.chunks(chunk) {
        reservation.push_body(chunk, exchange)?;
    }
    reservation.end_body(exchange)
}

fn upload(
    program: &Arc<Program>,
    url: &str,
    body: &[u8],
    chunk: usize,
) -> Result<Reply, BodyError> {
    let mut reservation = program.reserve().unwrap();
    let mut exchange = Recorded::new("POST", &[]);
    send(&mut reservation, url, body, chunk, &mut exchange)?;
    Ok(finish(
        reservation,
        url,
        "the argument",
        b"text/up",
        exchange,
    ))
}

fn fine(program: &Arc<Program>) {
    let reply = upload(program, "/", b"fine", 4).unwrap();
    let expected = "segments=1 bytes=4 largest=4 wrong=0";
    assert!(reply.text().contains(expected), "{}", reply.text());
}

#[test]
fn a_body_comes_in_order_and_whole_whatever_its_chunks_and_the_way_of_the_request() {
    for threads in BOTH {
        for way in ["post", "request", "paused"] {
            let upload_program = program_with("upload", threads, |recipe| {
                recipe.concurrency = 1;
                recipe.main_arguments = vec![way.as_bytes().to_vec()];
            });
            for (size, chunk) in [
                (1, 1),
                (10_000, 7),
                (SEGMENT, SEGMENT),
                (SEGMENT + 1, 16 << 10),
                (1_000_000, 16 << 10),
                (1_000_000, 1_000_000),
            ] {
                let body = bytes(size);
                let reply = upload(&upload_program, "/", &body, chunk).unwrap();
                assert_eq!(reply.status(), 200, "{}", reply.log());
                let segments = size.div_ceil(SEGMENT);
                let expected = format!(
                    "/ the argument text/up data=no len={size} segments={segments} bytes={size} \
                     largest={} wrong=0 sum={} request=1 first=/ the argument text/up",
                    size.min(SEGMENT),
                    sum(&body)
                );
                assert_eq!(reply.text(), expected);
            }
            let reply = upload(&upload_program, "/", b"", 1).unwrap();
            assert!(
                reply.text().contains("len=0 segments=0"),
                "{}",
                reply.text()
            );
        }
    }
}

#[test]
fn a_body_may_be_larger_than_the_programs_memory_many_times() {
    let upload_program = program_with("upload", Threads::AsHostLikes, |recipe| {
        recipe.max_request_memory = 8 * MIB;
        recipe.concurrency = 1;
    });
    let size = 100 * MIB / u64::from(guests::slowness());
    let mut reservation = upload_program.reserve().unwrap();
    let mut exchange = Recorded::new("POST", &[]);
    let request = Request {
        method: b"POST",
        url: b"/",
        argument: b"",
        content_type: b"a/b",
    };
    reservation.begin(&request);
    reservation.begin_body(Some(size)).unwrap();
    let chunk = vec![1; 1 << 20];
    let mut left = usize::try_from(size).unwrap();
    while left > 0 {
        let now = left.min(chunk.len());
        let part = chunk.get(..now).unwrap();
        reservation.push_body(part, &mut exchange).unwrap();
        left -= now;
    }
    reservation.end_body(&mut exchange).unwrap();
    let reply = finish(reservation, "/", "", b"a/b", exchange);
    let expected = format!("data=no len={size} ");
    assert!(
        reply.text().contains(&expected),
        "{} {}",
        reply.text(),
        reply.log()
    );
    let stats = upload_program.statistics().unwrap();
    assert_eq!(stats["request"]["totals"]["input_bytes"], size);
    // Its memory was that of one segment: a few dozen pages.
    drop(reply);
    let pages = stats["request"]["machines"][0]["dirty_pages"]
        .as_u64()
        .unwrap();
    assert!(pages < 200, "{pages}");
    fine(&upload_program);
}

#[test]
fn a_segment_costs_one_kvm_run_and_no_other_call() {
    let upload_program = program_with("upload", Threads::Callers, |recipe| recipe.concurrency = 1);
    let body = bytes(10 * SEGMENT);
    let run = || {
        upload(&upload_program, "/", &body, 16 << 10).unwrap();
        let stats = upload_program.statistics().unwrap();
        let machine = &stats["request"]["machines"][0];
        let of = |key: &str| machine[key].as_u64().unwrap();
        (of("kvm_runs") - of("interruptions"), of("ioctls"))
    };
    for _ in 0..5 {
        run();
    }
    let (runs, ioctls) = run();
    let (runs_after, ioctls_after) = run();
    assert_eq!(runs_after - runs, 11);
    assert_eq!(ioctls_after - ioctls, 0);
}

#[test]
fn a_part_that_is_not_taken_ends_the_request_and_nothing_else() {
    for threads in BOTH {
        let upload_program = program_with("upload", threads, |recipe| {
            recipe.max_request_memory = 16 * MIB;
            recipe.concurrency = 1;
        });
        let body = bytes(200_000);
        for (what, reason) in [
            ("short", "took 65535"),
            ("more", "took 65537"),
            ("none", "took -1"),
            ("crash", "page fault (#PF)"),
            ("exit", "exited with status 4"),
            ("wait", "was called during a request"),
            ("memory", ""),
        ] {
            for when in [0, SEGMENT] {
                let url = format!("/{what}/{when}");
                let mut reservation = upload_program.reserve().unwrap();
                let mut exchange = Recorded::new("POST", &[]);
                let error =
                    send(&mut reservation, &url, &body, 16 << 10, &mut exchange).unwrap_err();
                assert!(error.to_string().contains(reason), "{what}: {error}");
                // Neither more of the body nor an answer, from the error callback or otherwise.
                let more = reservation.push_body(b"more", &mut exchange);
                assert_eq!(more, Err(BodyError::Over));
                let reply = finish(reservation, &url, "", b"", exchange);
                assert_eq!((reply.status(), reply.body.len()), (500, 0), "{what}");
            }
            fine(&upload_program);
        }
    }
}

#[test]
fn the_last_part_may_fail_too() {
    let upload_program = program("upload");
    let error = upload(&upload_program, "/short/65536", &bytes(SEGMENT + 10), 1000).unwrap_err();
    assert_eq!(
        error,
        BodyError::NotTaken {
            returned: 9,
            len: 10
        }
    );
    fine(&upload_program);
}

#[test]
fn taking_a_part_ends_at_the_request_limit() {
    let upload_program = program_with("upload", Threads::AsHostLikes, |recipe| {
        recipe.max_request_time = std::time::Duration::from_millis(300) * guests::slowness();
        recipe.concurrency = 1;
    });
    let error = upload(&upload_program, "/loop/65536", &bytes(200_000), 16 << 10).unwrap_err();
    assert!(
        matches!(
            error,
            BodyError::Failed {
                out_of_time: Some(Limit::MaxRequestTime),
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("max_request_time"), "{error}");
    fine(&upload_program);
}

#[test]
fn a_program_may_answer_before_all_is_there() {
    for threads in BOTH {
        let upload_program = program_with("upload", threads, |recipe| recipe.concurrency = 1);
        let body = bytes(1_000_000);
        let reply = upload(&upload_program, "/answer/65536", &body, 16 << 10).unwrap();
        assert_eq!(
            (reply.status(), &*reply.text()),
            (413, "enough after 131072")
        );
        let reply = upload(&upload_program, "/stream/0", &body, 16 << 10).unwrap();
        assert_eq!((reply.status(), &*reply.text()), (403, "no!"));
        let reply = upload(&upload_program, "/answer/0", b"short", 5).unwrap();
        assert_eq!((reply.status(), &*reply.text()), (413, "enough after 5"));
        fine(&upload_program);
    }
}

#[test]
fn taking_a_part_is_part_of_the_request() {
    let upload_program = program("upload");
    let reply = upload(&upload_program, "/http/0", b"a body", 6).unwrap();
    assert_eq!(reply.exchange.response_field("X-Part").unwrap(), "yes");
    let reply = upload(&upload_program, "/log/0", &bytes(100_000), 16 << 10).unwrap();
    assert!(
        reply
            .log()
            .contains("upload says: 65536 bytes at 0\nupload says: 34464 bytes at 65536\n"),
        "{}",
        reply.log()
    );
    // Texts and data are the program's to write over, each time.
    let reply = upload(&upload_program, "/scribble/0", &bytes(200_000), 16 << 10).unwrap();
    assert!(
        reply.text().starts_with("/scribble/0 the argument text/up"),
        "{}",
        reply.text()
    );
    assert!(
        reply
            .text()
            .contains(&format!("wrong=0 sum={}", sum(&bytes(200_000))))
    );
}

#[test]
fn the_log_counts_what_all_parts_cost_also_where_one_fails() {
    let upload_program = program_with("upload", Threads::Callers, |recipe| recipe.concurrency = 1);
    fine(&upload_program);
    let runs = || {
        let stats = upload_program.statistics().unwrap();
        stats["request"]["machines"][0]["kvm_runs"]
            .as_u64()
            .unwrap()
    };
    for (url, line) in [
        ("/", "upload: on_post, status 200, cpu "),
        ("/answer/65536", "upload: stream_post, status 413, cpu "),
        ("/short/65536", "upload: stream_post, failed, cpu "),
        ("/", "upload: on_post, status 200, cpu "),
    ] {
        let before = runs();
        let mut exchange = Recorded::new("POST", &[]);
        let mut reservation = upload_program.reserve().unwrap();
        let body = bytes(4 * SEGMENT);
        let log = match send(&mut reservation, url, &body, 16 << 10, &mut exchange) {
            Ok(()) => finish(reservation, url, "", b"", exchange).log(),
            Err(_) => {
                drop(reservation);
                exchange.log_text()
            }
        };
        let (_, cost) = log.split_once(line).unwrap();
        let (cpu, exits) = cost.split_once(" us, exits ").unwrap();
        assert!(cpu.parse::<u64>().unwrap() > 0, "{log}");
        assert_eq!(exits.trim_end(), (runs() - before).to_string(), "{log}");
    }
}

#[test]
fn a_program_without_a_way_for_bodies_is_told_so_after_the_parts() {
    let upload_program = program_with("upload", Threads::AsHostLikes, |recipe| {
        recipe.main_arguments = vec![b"get".to_vec()];
    });
    let reply = upload(&upload_program, "/", b"a body", 6).unwrap();
    assert_eq!(reply.status(), 502);
    assert!(
        reply
            .text()
            .contains("no callback for requests with a body")
    );
    assert_eq!(support::get(&upload_program, "/").status(), 200);
}

#[test]
fn an_upload_that_is_given_up_leaves_the_vm_as_new() {
    for threads in BOTH {
        let upload_program = program_with("upload", threads, |recipe| recipe.concurrency = 1);
        for len in [10, SEGMENT, 200_000] {
            let mut reservation = upload_program.reserve().unwrap();
            let mut exchange = Recorded::new("POST", &[]);
            let request = Request {
                method: b"POST",
                url: b"/",
                argument: b"",
                content_type: b"",
            };
            reservation.begin(&request);
            reservation.begin_body(None).unwrap();
            reservation.push_body(&bytes(len), &mut exchange).unwrap();
            drop(reservation);
            fine(&upload_program);
        }
        let stats = upload_program.statistics().unwrap();
        assert_eq!(stats["program"]["machines_made"], 1, "{stats}");
    }
}

#[test]
fn what_a_chain_hands_over_comes_in_parts_too() {
    // Streamed out of one VM of little memory, and into another one.
    let small = |recipe: &mut runtime::Recipe| recipe.max_request_memory = 8 * MIB;
    let stream = program_with("stream", Threads::AsHostLikes, small);
    let upload_program = program_with("upload", Threads::AsHostLikes, small);
    drop((stream.reserve().unwrap(), upload_program.reserve().unwrap()));
    let item = |program: &Arc<Program>, url: &str| Item::Program {
        program: Arc::clone(program),
        url: url.as_bytes().into(),
        argument: b"".as_slice().into(),
    };
    let mut chain = Chain::new();
    for item in [
        item(&stream, "/20000000/100000"),
        item(&upload_program, "/"),
    ] {
        let threshold = Link::NEVER;
        chain.push(Link { item, threshold }).unwrap();
    }
    let opening = Opening {
        method: b"GET",
        content_type: b"",
        last_method: None,
    };
    let mut exchange = Recorded::new("GET", &[]);
    let mut no_body = |_: &mut Reservation, _: &mut dyn Exchange| Ok::<(), Infallible>(());
    let mut outcome = chain.run(opening, &mut no_body, &mut exchange).unwrap();
    let text = support::body(outcome.reservation.as_mut().unwrap());
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("text/stream data=no len=20000000 "), "{text}");
    assert!(
        text.contains("bytes=20000000 largest=65536 wrong=0"),
        "{text}"
    );
}

/// A program of one VM that keeps its state, and takes its requests in that way.
fn keeping(threads: Threads, way: &str) -> Arc<Program> {
    program_with("upload", threads, |recipe| {
        recipe.concurrency = 1;
        recipe.ephemeral = false;
        recipe.main_arguments = vec![way.as_bytes().to_vec()];
    })
}

#[test]
fn a_program_that_keeps_its_state_takes_one_body_after_the_other() {
    for threads in BOTH {
        for way in ["post", "request", "paused"] {
            let upload_program = keeping(threads, way);
            for request in 1..=5 {
                let body = bytes(70_000 * request);
                let reply = upload(&upload_program, "/", &body, 16 << 10).unwrap();
                let expected = format!("wrong=0 sum={} request={request} ", sum(&body));
                assert!(reply.text().contains(&expected), "{way}: {}", reply.text());
            }
            let stats = upload_program.statistics().unwrap();
            assert_eq!(stats["request"]["totals"]["resets"], 0, "{way}: {stats}");
            // What fails is reset, and goes on.
            upload(&upload_program, "/crash/0", b"x", 1).unwrap_err();
            fine(&upload_program);
        }
    }
}

#[test]
fn an_answer_before_all_is_there_costs_no_state_also_where_the_client_leaves_meanwhile() {
    for threads in BOTH {
        for way in ["post", "request", "paused"] {
            let upload_program = keeping(threads, way);
            let body = bytes(70_000);
            let next = |number: u32| {
                let reply = upload(&upload_program, "/", &body, 16 << 10).unwrap();
                assert_eq!(reply.status(), 200, "{way}: {}", reply.log());
                let expected = format!("wrong=0 sum={} request={number} ", sum(&body));
                assert!(reply.text().contains(&expected), "{way}: {}", reply.text());
            };
            for round in 0..2 {
                next(3 * round + 1);
                next(3 * round + 2);
                for url in ["/answer/0", "/stream/0"] {
                    let mut reservation = upload_program.reserve().unwrap();
                    let mut exchange = Recorded::new("POST", &[]);
                    reservation.begin(&Request {
                        method: b"POST",
                        url: url.as_bytes(),
                        argument: b"",
                        content_type: b"",
                    });
                    reservation.begin_body(None).unwrap();
                    reservation.push_body(&body, &mut exchange).unwrap();
                }
                next(3 * round + 3);
                for (url, status) in [("/answer/0", 413), ("/stream/0", 403)] {
                    let reply = upload(&upload_program, url, &body, 16 << 10).unwrap();
                    assert_eq!(reply.status(), status, "{way}: {}", reply.log());
                }
            }
            next(7);
            let stats = upload_program.statistics().unwrap();
            assert_eq!(stats["request"]["totals"]["resets"], 0, "{way}: {stats}");
        }
    }
}
