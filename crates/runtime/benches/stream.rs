//! Bodies of 1 MiB in parts against the same ones in one piece, resets included. Prints; asserts
//! nothing.
//!
//! `cargo bench -p tinykvm-runtime --bench stream`
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a failing benchmark panics"
)]

#[path = "../tests/support/mod.rs"]
mod support;
mod turns;

use std::sync::Arc;
use std::time::Instant;

use runtime::{Program, Recorded, Request, Threads};
use support::program_with;
use turns::{Turns, in_turns};

const ROUNDS: usize = 100;
const BODY: usize = 1 << 20;
/// What Varnish reads of a client at once.
const CHUNK: usize = 16 << 10;

fn main() {
    let one = |name| program_with(name, Threads::AsHostLikes, |recipe| recipe.concurrency = 1);
    let (stream, upload, echo) = (one("stream"), one("upload"), one("echo"));
    println!(
        "{:<26} {:>12} {:>12} {:>7}  (quartiles)",
        "1 MiB in parts", "in parts", "in one", "ratio"
    );
    for part in [16 << 10, 64 << 10, 1 << 20] {
        let (parts, plain) = (format!("/{BODY}/{part}"), format!("/plain/{BODY}"));
        compare(
            &format!("response, parts of {} KiB", part >> 10),
            || response(&stream, &parts),
            || response(&stream, &plain),
        );
    }
    let body = vec![b'x'; BODY];
    compare(
        "upload",
        || request(&upload, &body),
        || request(&echo, &body),
    );
}

fn compare(name: &str, parts: impl Fn(), whole: impl Fn()) {
    let timed = |work: &dyn Fn()| {
        let begun = Instant::now();
        work();
        begun.elapsed()
    };
    let Turns {
        medians: [parts, whole],
        ratios: [low, ratio, high],
    } = in_turns(ROUNDS, || timed(&parts), || timed(&whole));
    let rate = |seconds: f64| f64::from(1 << 20) / 1e6 / seconds;
    println!(
        "{name:<26} {:>7.0} MB/s {:>7.0} MB/s {ratio:>7.2}  ({low:.2}..{high:.2})",
        rate(parts),
        rate(whole),
    );
}

fn response(program: &Arc<Program>, url: &str) {
    let request = Request {
        method: b"GET",
        url: url.as_bytes(),
        argument: b"",
        content_type: b"",
    };
    let mut exchange = Recorded::new("GET", &[]);
    let mut storage = vec![0; BODY];
    let mut reservation = program.reserve().unwrap();
    reservation.handle(&request, &mut exchange);
    let mut filled = 0;
    loop {
        match reservation.pull(&mut storage[filled..]).unwrap() {
            0 => break,
            count => filled += count,
        }
    }
    assert_eq!(filled, BODY, "{}", exchange.log_text());
}

fn request(program: &Arc<Program>, body: &[u8]) {
    let request = Request {
        method: b"POST",
        url: b"/skip",
        argument: b"",
        content_type: b"a/b",
    };
    let mut exchange = Recorded::new("POST", &[]);
    let mut reservation = program.reserve().unwrap();
    reservation.begin(&request);
    reservation.begin_body(None).unwrap();
    for chunk in body.chunks(CHUNK) {
        reservation.push_body(chunk, &mut exchange).unwrap();
    }
    reservation.end_body(&mut exchange).unwrap();
    let response = reservation.handle(&request, &mut exchange);
    assert_eq!(response.status, 200, "{}", exchange.log_text());
}
