//! Programs in a row.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use runtime::chain::{
    Chain, ChainError, Item, Link, MOST_LINKS, Opening, Outcome, TooLong, detached_bytes,
};
use runtime::{Exchange, Program, Recorded, Reservation, Threads};
use support::{BOTH, program, program_with};

const OPENING: Opening<'_> = Opening {
    method: b"PUT",
    content_type: b"text/first",
    last_method: None,
};

fn item(program: &Arc<Program>, url: &str) -> Item {
    Item::Program {
        program: Arc::clone(program),
        url: url.as_bytes().into(),
        argument: b"arg".as_slice().into(),
    }
}

fn chain(items: &[(&Arc<Program>, &str)]) -> Chain {
    let mut chain = Chain::new();
    for (program, url) in items {
        let link = Link {
            item: item(program, url),
            threshold: 400,
        };
        chain.push(link).unwrap();
    }
    chain
}

fn run_with(
    chain: &Chain,
    opening: Opening<'_>,
    body: &[u8],
    exchange: &mut Recorded,
) -> Result<Outcome, ChainError<Infallible>> {
    let mut first = |reservation: &mut Reservation, exchange: &mut dyn Exchange| {
        if !body.is_empty() {
            reservation.begin_body(None).unwrap();
            reservation.push_body(body, exchange).unwrap();
        }
        Ok(())
    };
    chain.run(opening, &mut first, exchange)
}

fn run(chain: &Chain, body: &[u8]) -> Outcome {
    run_with(chain, OPENING, body, &mut Recorded::new("PUT", &[])).unwrap()
}

fn text(mut outcome: Outcome) -> String {
    let mut all = Vec::new();
    let mut part = [0; 7];
    loop {
        match outcome.pull(&mut part).unwrap() {
            0 => break,
            len => all.extend_from_slice(part.get(..len).unwrap()),
        }
    }
    String::from_utf8(all).unwrap()
}

#[test]
fn the_answer_of_one_is_the_post_of_the_next() {
    for threads in BOTH {
        let answer = program_with("answer", threads, |_| {});
        let request = program_with("request", threads, |_| {});
        let outcome = run(
            &chain(&[(&answer, "/one?type=text/x"), (&request, "/two")]),
            b"body",
        );
        assert_eq!(outcome.response.status, 200);
        let told = text(outcome);
        // "PUT /one?type=text/x arg 4" has 26 bytes.
        assert!(
            told.starts_with("method=POST\nurl=/two\narg=arg\ncontent_type=text/x\n"),
            "{told}"
        );
        assert!(told.contains("content=yes 26\n"), "{told}");
    }
}

#[test]
fn the_first_sees_the_request_and_a_last_method_is_for_the_last_alone() {
    let request = program("request");
    let told = text(run(&chain(&[(&request, "/")]), b"12345"));
    assert!(told.starts_with("method=PUT\n"), "{told}");
    assert!(told.contains("content_type=text/first\n"), "{told}");
    let opening = Opening {
        last_method: Some(b"GET"),
        ..OPENING
    };
    let mut exchange = Recorded::new("PUT", &[]);
    let answer = program("answer");
    let both = chain(&[(&answer, "/a"), (&answer, "/b")]);
    let outcome = run_with(&both, opening, b"", &mut exchange).unwrap();
    // "PUT /a arg 0" has 12 bytes.
    assert_eq!(text(outcome), "GET /b arg 12");
}

#[test]
fn an_empty_answer_is_an_empty_post() {
    let answer = program("answer");
    let outcome = run(&chain(&[(&answer, "/size/0"), (&answer, "/b")]), b"");
    assert_eq!(text(outcome), "POST /b arg 0");
}

#[test]
fn data_of_any_size_passes_unchanged() {
    let answer = program_with("answer", Threads::AsHostLikes, |recipe| {
        recipe.max_request_memory = 64 << 20;
        recipe.max_request_time = Duration::from_secs(60);
    });
    for size in [1, 65_535, 65_536, 65_537, 10_000_001] {
        let url = format!("/size/{size}");
        let outcome = run(
            &chain(&[(&answer, &url), (&answer, "/echo"), (&answer, "/echo")]),
            b"",
        );
        assert_eq!(outcome.response.content_length, size);
        let mut wanted = (0..size).map(|i| b'a' + u8::try_from(i % 26).unwrap());
        assert!(text(outcome).bytes().eq(&mut wanted), "{size}");
    }
}

#[test]
fn a_status_from_the_threshold_on_ends_the_chain_with_that_answer() {
    let answer = program("answer");
    let mut exchange = Recorded::new("GET", &[]);
    let long = chain(&[(&answer, "/1?status=404"), (&answer, "/2")]);
    let outcome = run_with(&long, OPENING, b"", &mut exchange).unwrap();
    assert!(outcome.broken);
    assert_eq!(outcome.response.status, 404);
    assert_eq!(text(outcome), "PUT /1?status=404 arg 0");
    assert!(
        exchange.log_text().contains("answer answered 404"),
        "{}",
        exchange.log_text()
    );
    let outcome = run(&chain(&[(&answer, "/1?status=399"), (&answer, "/2")]), b"");
    assert!(!outcome.broken);
    assert_eq!(outcome.response.status, 200);
    let last = Chain::of(item(&answer, "/1?status=599"));
    assert!(!run(&last, b"").broken);
}

#[test]
fn a_program_that_crashes_ends_the_chain_with_500() {
    let hostile = program("hostile");
    let answer = program("answer");
    let outcome = run(&chain(&[(&hostile, "/null"), (&answer, "/2")]), b"");
    assert_eq!((outcome.response.status, outcome.broken), (500, true));
    assert_eq!(text(outcome), "");
}

#[test]
fn a_program_of_one_vm_may_come_many_times_and_is_reset_each_time() {
    for threads in BOTH {
        let paused = program_with("paused", threads, |recipe| recipe.concurrency = 1);
        let six: Vec<_> = (0..6).map(|_| (&paused, "/")).collect();
        let told = text(run(&chain(&six), b""));
        // Each has put what it got behind its own header, and counts requests in its memory.
        assert_eq!(told.matches("served=1\n").count(), 6, "{told}");
    }
}

#[test]
fn chains_through_the_same_programs_in_opposite_order_do_not_block_each_other() {
    let with_one = |name| {
        program_with(name, Threads::AsHostLikes, |recipe| {
            recipe.concurrency = 1;
            recipe.max_waiting = 100;
        })
    };
    let (a, b) = (with_one("answer"), with_one("paused"));
    thread::scope(|scope| {
        for number in 0..8 {
            let (a, b) = (&a, &b);
            scope.spawn(move || {
                let there = chain(&[(a, "/size/100"), (b, "/")]);
                let back = chain(&[(b, "/"), (a, "/echo"), (b, "/")]);
                for _ in 0..25 {
                    let chosen = if number % 2 == 0 { &there } else { &back };
                    assert_eq!(run(chosen, b"").response.status, 200);
                }
            });
        }
    });
}

#[test]
fn a_body_that_is_too_big_for_the_next_program_is_an_error_that_names_both() {
    let answer = program_with("answer", Threads::AsHostLikes, |_| {});
    let small = program_with("echo", Threads::AsHostLikes, |recipe| {
        recipe.max_request_memory = 8 << 20;
        recipe.concurrency = 1;
    });
    let long = chain(&[(&answer, "/size/9000000"), (&small, "/")]);
    // With and without the small one's VM at hand.
    for _ in 0..2 {
        let error = run_with(&long, OPENING, b"", &mut Recorded::new("GET", &[])).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("program echo does not get the answer of answer: ")
                && text.contains("max_request_memory"),
            "{text}"
        );
    }
    assert_eq!(run(&chain(&[(&small, "/")]), b"x").response.status, 200);
}

#[test]
fn a_chain_has_an_end() {
    let answer = program("answer");
    let mut chain = Chain::new();
    let link = Link {
        item: item(&answer, "/echo"),
        threshold: 400,
    };
    for _ in 0..MOST_LINKS {
        chain.push(link.clone()).unwrap();
    }
    assert_eq!(chain.push(link), Err(TooLong));
    assert_eq!(chain.len(), MOST_LINKS);
    assert_eq!(
        text(run(&chain, b"through all of them")),
        "through all of them"
    );
}

#[test]
fn an_answer_outlives_its_vm_once_it_is_detached() {
    let answer = program_with("answer", Threads::AsHostLikes, |recipe| {
        recipe.concurrency = 1
    });
    let mut outcome = run(&chain(&[(&answer, "/size/100000")]), b"");
    let mut begun = vec![0; 10];
    assert_eq!(outcome.pull(&mut begun).unwrap(), 10);
    outcome.detach(&mut Recorded::new("GET", &[])).unwrap();
    assert!(outcome.reservation.is_none());
    assert_eq!(text(run(&chain(&[(&answer, "/b")]), b"")), "PUT /b arg 0");
    let rest = text(outcome);
    assert_eq!(rest.len(), 99_990);
    assert!(rest.starts_with("klm"));
}

/// A program of one VM and little memory.
fn tight(name: &str) -> Arc<Program> {
    program_with(name, Threads::AsHostLikes, |recipe| {
        recipe.max_request_memory = 4 << 20;
        recipe.max_request_time = Duration::from_secs(60);
        recipe.concurrency = 1;
    })
}

#[test]
fn nothing_waits_for_a_program_that_is_too_big_for_it() {
    let (maker, taker) = (tight("stream"), tight("echo"));
    let long = chain(&[(&maker, "/100000000/65536"), (&taker, "/")]);
    let busy = taker.reserve().unwrap();
    for _ in 0..3 {
        let result = run_with(&long, OPENING, b"", &mut Recorded::new("GET", &[]));
        let text = result.unwrap_err().to_string();
        assert!(text.contains("max_request_memory"), "{text}");
    }
    drop(busy);
    assert_eq!(run(&chain(&[(&taker, "/")]), b"x").response.status, 200);
}

#[test]
fn what_waits_for_a_busy_program_without_a_vm_is_bounded_and_what_is_beyond_fails_at_once() {
    const LEN: u64 = 100_000_000;
    let (maker, taker) = (tight("stream"), tight("upload"));
    let long = chain(&[(&maker, "/100000000/65536"), (&taker, "/")]);
    let other = chain(&[(&tight("answer"), "/size/100000"), (&taker, "/")]);
    let small = chain(&[(&maker, "/10000/0"), (&taker, "/")]);
    let busy = taker.reserve().unwrap();
    thread::scope(|scope| {
        let waiting = [(); 2].map(|()| scope.spawn(|| run(&long, b"").response.status));
        while detached_bytes() < 2 * LEN {
            thread::yield_now();
        }
        for _ in 0..3 {
            let result = run_with(&long, OPENING, b"", &mut Recorded::new("GET", &[]));
            let text = result.unwrap_err().to_string();
            let why = "does not get the answer of stream: no room for 100000000 bytes";
            assert!(text.contains(why), "{text}");
            assert!(detached_bytes() < 3 * LEN);
        }
        // Others have room, and small answers need none.
        let more = [&other, &small].map(|chain| scope.spawn(|| run(chain, b"").response.status));
        while detached_bytes() < 2 * LEN + 100_000 {
            thread::yield_now();
        }
        drop(busy);
        for thread in waiting.into_iter().chain(more) {
            assert_eq!(thread.join().unwrap(), 200);
        }
    });
}
