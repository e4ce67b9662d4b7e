//! Response bodies that the program makes while they are read.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::chain::{Chain, Item, Link, Opening, Outcome};
use runtime::{
    Deadline, Exchange, Limit, Program, PullError, Recorded, Request, Reservation, Response,
    Severity, Threads,
};
use support::{BOTH, program, program_with};

const MIB: u64 = 1 << 20;

/// The head of a response, and the VM that makes its body.
fn begin(program: &Arc<Program>, url: &str) -> (Response, Reservation, String) {
    let mut reservation = program.reserve().unwrap();
    let request = Request {
        method: b"GET",
        url: url.as_bytes(),
        argument: b"",
        content_type: b"",
    };
    let mut exchange = Recorded::new("GET", &[]);
    let response = reservation.handle(&request, &mut exchange);
    (response, reservation, exchange.log_text())
}

/// Reads a body in parts of that size and checks each byte of it.
fn read(reservation: &mut Reservation, room: usize) -> (u64, Result<(), PullError>) {
    let mut part = vec![0; room];
    let mut done: u64 = 0;
    loop {
        match reservation.pull(&mut part) {
            Ok(0) => return (done, Ok(())),
            Ok(len) => {
                for byte in part.get(..len).unwrap() {
                    let expected = b'a' + u8::try_from(done % 26).unwrap();
                    assert_eq!(*byte, expected, "byte {done}");
                    done += 1;
                }
            }
            Err(error) => return (done, Err(error)),
        }
    }
}

fn fine(program: &Arc<Program>) {
    let (response, mut reservation, log) = begin(program, "/100");
    assert_eq!(response.status, 200, "{log}");
    assert_eq!(read(&mut reservation, 64), (100, Ok(())));
}

#[test]
fn a_body_is_made_part_by_part_as_there_is_room_for_it() {
    for threads in BOTH {
        for paused in [false, true] {
            let stream = program_with("stream", threads, |recipe| {
                recipe.concurrency = 1;
                if paused {
                    recipe.main_arguments = vec![b"paused".to_vec()];
                }
            });
            for (size, part, room) in [
                (1, 0, 1),
                (1, 0, 16_384),
                (100, 1, 16_384),
                (16_383, 0, 16_384),
                (16_384, 0, 16_384),
                (16_385, 7, 1000),
                (1_000_000, 4096, 10_000),
                (3_000_000, 0, 4_000_000),
            ] {
                let (response, mut reservation, log) = begin(&stream, &format!("/{size}/{part}"));
                assert_eq!(response.status, 200, "{log}");
                assert_eq!(response.content_length, size);
                assert!(response.streams);
                assert_eq!(&*response.content_type, b"text/stream");
                assert_eq!(
                    read(&mut reservation, room),
                    (size, Ok(())),
                    "{size}/{part}"
                );
                assert_eq!(reservation.pull(&mut [0; 16]), Ok(0));
            }
        }
    }
}

#[test]
fn a_body_may_be_larger_than_the_programs_memory_many_times() {
    let stream = program_with("stream", Threads::AsHostLikes, |recipe| {
        recipe.max_request_memory = 16 * MIB;
        recipe.concurrency = 1;
    });
    let size = 100 * MIB / u64::from(guests::slowness());
    let (_, mut reservation, _) = begin(&stream, &format!("/{size}"));
    assert_eq!(read(&mut reservation, 1 << 20), (size, Ok(())));
    drop(reservation);
    fine(&stream);
}

#[test]
fn a_part_costs_one_kvm_run_and_no_other_call() {
    let stream = program_with("stream", Threads::Callers, |recipe| recipe.concurrency = 1);
    let run = || {
        let (_, mut reservation, _) = begin(&stream, "/10000/1000");
        assert_eq!(read(&mut reservation, 16_384), (10_000, Ok(())));
        drop(reservation);
        let stats = stream.statistics().unwrap();
        let machine = &stats["request"]["machines"][0];
        let of = |key: &str| machine[key].as_u64().unwrap();
        (
            of("kvm_runs") - of("interruptions"),
            of("ioctls"),
            of("invocations"),
        )
    };
    for _ in 0..5 {
        run();
    }
    let (runs, ioctls, calls) = run();
    let (runs_after, ioctls_after, calls_after) = run();
    assert_eq!(runs_after - runs, 11);
    assert_eq!(calls_after - calls, 11);
    assert_eq!(ioctls_after - ioctls, 0);
}

#[test]
fn whatever_a_callback_does_wrong_ends_its_body_and_nothing_else() {
    for threads in BOTH {
        let stream = program_with("stream", threads, |recipe| {
            recipe.max_request_memory = 16 * MIB;
            recipe.concurrency = 1;
        });
        for (what, reason) in [
            ("empty", "returned no data"),
            ("null", "not mapped"),
            ("wild", "not mapped"),
            ("kernel", "not mapped"),
            ("crash", "page fault (#PF)"),
            ("exit", "exited with status 3"),
            (
                "answer",
                "backend_response was called while the response body is sent",
            ),
            ("again", "begin_streaming_response was called while"),
            ("wait", "wait_for_requests was called during a request"),
            ("http", "was called while the response body is sent"),
        ] {
            for when in [0, 5000] {
                let (response, mut reservation, _) =
                    begin(&stream, &format!("/10000/1000/{what}/{when}"));
                assert_eq!((response.status, response.exceptions), (200, 0));
                let (len, result) = read(&mut reservation, 4096);
                assert_eq!(len, when, "{what}");
                let Err(PullError::Failed {
                    told,
                    written,
                    total,
                    timed_out,
                    ..
                }) = result
                else {
                    panic!("{what}: {result:?}");
                };
                assert!(told.contains(reason), "{what}: {told}");
                assert_eq!((written, total, timed_out), (when, 10_000, false));
                assert_eq!(
                    reservation.pull(&mut [0; 16]),
                    Err(PullError::Over),
                    "{what}"
                );
                drop(reservation);
                fine(&stream);
            }
        }
        // Whichever comes first: the end of the heap or the limit.
        let (_, mut reservation, _) = begin(&stream, "/10000/1000/memory");
        let (len, result) = read(&mut reservation, 4096);
        assert!((len, result.is_err()) == (0, true), "{len}");
        drop(reservation);
        fine(&stream);
        let stats = stream.statistics().unwrap();
        assert_eq!(stats["program"]["machines_poisoned"], 0, "{stats}");
        assert_eq!(stats["program"]["machines_made"], 1, "{stats}");
    }
}

#[test]
fn a_callback_that_never_ends_is_stopped_after_its_two_seconds() {
    let stream = program_with("stream", Threads::AsHostLikes, |recipe| {
        recipe.concurrency = 1
    });
    let (_, mut reservation, _) = begin(&stream, "/10000/1000/loop/1000");
    let (len, result) = read(&mut reservation, 4096);
    assert_eq!(len, 1000);
    assert!(
        matches!(
            result,
            Err(PullError::Failed {
                timed_out: true,
                ..
            })
        ),
        "{result:?}"
    );
    drop(reservation);
    fine(&stream);
    assert_eq!(
        stream.statistics().unwrap()["request"]["totals"]["timeouts"],
        1
    );
}

#[test]
fn more_than_was_asked_for_is_cut_and_missing_calls_can_be_done_without() {
    let stream = program("stream");
    for what in ["more", "missing"] {
        let (_, mut reservation, _) = begin(&stream, &format!("/100000/0/{what}"));
        assert_eq!(read(&mut reservation, 1000), (100_000, Ok(())), "{what}");
    }
}

#[test]
fn a_callback_can_log_within_the_requests_budget() {
    let stream = program("stream");
    let (_, mut reservation, _) = begin(&stream, "/100000/100/log");
    let mut lines = Vec::new();
    let mut part = [0; 4096];
    let mut say = |severity, line: &[u8]| {
        assert_eq!(severity, Severity::Info);
        lines.push(String::from_utf8_lossy(line).into_owned());
    };
    while reservation.pull_and_say(&mut part, None, &mut say).unwrap() > 0 {}
    assert_eq!(lines.first().unwrap(), "stream says: part 1: 0 of 100000");
    assert_eq!(lines.get(1).unwrap(), "stream says: printed");
    assert_eq!(lines.get(2).unwrap(), "stream says: part 2: 100 of 100000");
    assert!(lines.len() <= 257, "{}", lines.len());
}

#[test]
fn lengths_and_functions_that_cannot_be_are_refused_before_anything_is_sent() {
    let stream = program("stream");
    for (url, reason) in [
        ("/0", "a body of 0 bytes"),
        ("/call/ffffffffffffffff/400000", "a body of"),
        ("/call/8000000000000000/400000", "a body of"),
        ("/call/10/0", "there is no code at"),
        ("/call/10/10000", "there is no code at"),
        ("/call/10/7fffffff0000", "there is no code at"),
        ("/call/10/ffffffff80000000", "there is no code at"),
    ] {
        let (response, mut reservation, log) = begin(&stream, url);
        assert_eq!(response.status, 500, "{url}");
        assert!(log.contains(reason), "{url}: {log}");
        assert!(!response.streams);
        assert_eq!(reservation.pull(&mut [0; 16]), Ok(0));
    }
    fine(&stream);
}

#[test]
fn a_reservation_given_back_in_the_middle_of_a_body_is_as_new() {
    for threads in BOTH {
        let stream = program_with("stream", threads, |recipe| recipe.concurrency = 1);
        for _ in 0..20 {
            let (_, mut reservation, _) = begin(&stream, "/100000/1000");
            assert_eq!(reservation.pull(&mut [0; 500]), Ok(500));
            drop(reservation);
            fine(&stream);
        }
        let stats = stream.statistics().unwrap();
        assert_eq!(stats["program"]["machines_made"], 1, "{stats}");
    }
}

/// What comes of the items in a row.
fn run(items: &[(&Arc<Program>, &str)], exchange: &mut Recorded) -> Result<Outcome, String> {
    let mut chain = Chain::new();
    for (program, url) in items {
        let item = Item::Program {
            program: Arc::clone(program),
            url: url.as_bytes().into(),
            argument: b"".as_slice().into(),
        };
        let threshold = Link::NEVER;
        chain.push(Link { item, threshold }).unwrap();
    }
    let opening = Opening {
        method: b"GET",
        content_type: b"",
        last_method: None,
    };
    let mut no_body = |_: &mut Reservation, _: &mut dyn Exchange| Ok::<(), Infallible>(());
    chain
        .run(opening, &mut no_body, exchange)
        .map_err(|error| error.to_string())
}

#[test]
fn a_streamed_answer_goes_on_to_the_next_program_of_a_chain() {
    let (stream, echo) = (program("stream"), program("echo"));
    let url = "/200000/3000/log";
    let mut exchange = Recorded::new("GET", &[]);
    let mut outcome = run(&[(&stream, url), (&echo, url)], &mut exchange).unwrap();
    assert_eq!(&*outcome.response.content_type, b"text/stream");
    let (len, result) = read(outcome.reservation.as_mut().unwrap(), 10_000);
    assert_eq!((len, result), (200_000, Ok(())));
    assert!(exchange.log_text().contains("part 2: 3000 of 200000"));
}

/// Streams, with little time for a request and one VM.
fn brief(time: Duration) -> Arc<Program> {
    program_with("stream", Threads::AsHostLikes, |recipe| {
        recipe.concurrency = 1;
        recipe.max_request_time = time;
        recipe.main_arguments = vec![b"paused".to_vec()];
    })
}

#[test]
fn an_answer_that_a_chain_reads_is_whole_within_the_time_of_a_request() {
    // Less than a part may take.
    let time = Duration::from_millis(300) * guests::slowness();
    let brief = brief(time.min(Duration::from_millis(1500)));
    let answer = program("answer");
    // Bytes that come one by one, each of them in time, and one that never comes.
    for url in ["/3000000/1", "/30/7/loop/14"] {
        // The next program has a VM free, and it has none.
        for next in [&answer, &brief] {
            let error = run(
                &[(&brief, url), (next, "/1")],
                &mut Recorded::new("GET", &[]),
            )
            .unwrap_err();
            assert!(error.ends_with("timed out (max_request_time)"), "{error}");
            // VMs are free and fine.
            fine(&brief);
        }
    }
    let timeouts = &brief.statistics().unwrap()["request"]["totals"]["timeouts"];
    assert_eq!(*timeouts, 4);
}

#[test]
fn an_answer_that_a_chain_reads_is_not_waited_for_longer_than_who_caused_it_waits() {
    let (stream, answer) = (program("stream"), program("answer"));
    let mut exchange = Recorded::new("GET", &[]);
    exchange.deadline = Some(Deadline {
        at: Instant::now() + Duration::from_millis(300) * guests::slowness(),
        limit: Limit::FirstByteTimeout,
    });
    let error = run(&[(&stream, "/3000000/1"), (&answer, "/1")], &mut exchange).unwrap_err();
    assert!(
        error.ends_with("timed out (bereq.first_byte_timeout)"),
        "{error}"
    );
}

#[test]
fn an_answer_that_its_client_reads_may_take_longer_than_a_request() {
    let time = Duration::from_millis(100) * guests::slowness();
    let brief = brief(time);
    let (_, mut reservation, _) = begin(&brief, "/10000000/1");
    let begun = Instant::now();
    while begun.elapsed() < time * 2 {
        assert_eq!(reservation.pull(&mut [0; 16]), Ok(1));
    }
}
