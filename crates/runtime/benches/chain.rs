//! What a chain of three programs costs against the three alone, each with the same data in and
//! out, resets included. Prints; asserts nothing.
//!
//! `cargo bench -p tinykvm-runtime --bench chain`
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a failing benchmark panics"
)]

#[path = "../tests/support/mod.rs"]
mod support;
mod turns;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::chain::{Chain, Item, Link, Opening};
use runtime::{Exchange, Program, Recorded, Reservation, Threads};
use support::program_with;
use turns::{Turns, in_turns};

const ROUNDS: usize = 200;
const OPENING: Opening<'_> = Opening {
    method: b"POST",
    content_type: b"text/plain",
    last_method: None,
};

fn main() {
    // Two kinds of callback, and one of them twice.
    let programs =
        ["echo", "answer", "echo"].map(|name| program_with(name, Threads::AsHostLikes, |_| {}));
    let together = chain(&programs);
    let alone: Vec<Chain> = programs
        .iter()
        .map(|one| chain(std::slice::from_ref(one)))
        .collect();
    println!(
        "{:<24} {:>12} {:>12} {:>7}  (quartiles)    target",
        "chain of three", "chain", "sum", "ratio"
    );
    for (name, size) in [("100 bytes", 100), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)] {
        let body = vec![b'x'; size];
        let Turns {
            medians: [chained, sum],
            ratios: [low, ratio, high],
        } = in_turns(
            ROUNDS,
            || timed(&together, &body),
            || alone.iter().map(|one| timed(one, &body)).sum(),
        );
        println!(
            "{name:<24} {:>10.1}us {:>10.1}us {ratio:>7.3}  ({low:.3}..{high:.3})  at most 1.10",
            chained * 1e6,
            sum * 1e6,
        );
    }
}

fn chain(programs: &[Arc<Program>]) -> Chain {
    let mut chain = Chain::new();
    for program in programs {
        let item = Item::Program {
            program: Arc::clone(program),
            url: b"/echo".as_slice().into(),
            argument: Box::default(),
        };
        let threshold = 400;
        chain.push(Link { item, threshold }).unwrap();
    }
    chain
}

/// From the request body in the host's memory to the response body there, the VMs wiped.
fn timed(chain: &Chain, body: &[u8]) -> Duration {
    let mut exchange = Recorded::new("POST", &["Host: example.com"]);
    let mut answer = vec![0; body.len() + 1];
    let begun = Instant::now();
    let mut first = |to: &mut Reservation, exchange: &mut dyn Exchange| {
        to.begin_body(u64::try_from(body.len()).ok()).unwrap();
        to.push_body(body, exchange).unwrap();
        Ok::<(), Infallible>(())
    };
    let mut outcome = chain.run(OPENING, &mut first, &mut exchange).unwrap();
    let mut filled = 0;
    loop {
        match outcome.pull(&mut answer[filled..]).unwrap() {
            0 => break,
            count => filled += count,
        }
    }
    drop(outcome);
    let time = begun.elapsed();
    assert_eq!(filled, body.len(), "{}", exchange.log_text());
    time
}
