//! The threads that carry requests out: libcurl needs more stack than a worker of Varnish has, and a
//! worker must be able to stop waiting. They are started when needed and end when nobody needs
//! them; who finished last is asked first, since its connections are still open.
//!
//! Guards: a bounded number of threads; an order is carried out or refused, never left lying.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use curl::multi::Multi;
use parking_lot::Mutex;

use super::FetchError;
use super::transfer::Order;

pub(super) const MOST_THREADS: usize = 256;
const STACK: usize = 1 << 20;
/// How long a thread waits for its next order.
const IDLE: Duration = Duration::from_secs(5);
/// Connections that a thread keeps open; without a number libcurl makes one up.
const CONNECTIONS: usize = 5;

static CREW: Mutex<Crew> = Mutex::new(Crew {
    idle: Vec::new(),
    threads: 0,
    numbers: 0,
});

struct Crew {
    idle: Vec<Idle>,
    threads: usize,
    numbers: u64,
}

struct Idle {
    number: u64,
    orders: Sender<Order>,
}

/// Hands an order to a thread that is free, or to a new one.
pub(super) fn give(order: Order) -> Result<(), FetchError> {
    let mut crew = CREW.lock();
    let mut order = order;
    while let Some(idle) = crew.idle.pop() {
        match idle.orders.send(order) {
            Ok(()) => return Ok(()),
            // A thread that a panic ended.
            Err(back) => order = back.0,
        }
    }
    if crew.threads >= MOST_THREADS {
        return Err(FetchError::Host(format!(
            "{MOST_THREADS} fetches are under way already"
        )));
    }
    crew.numbers = crew.numbers.wrapping_add(1);
    let number = crew.numbers;
    thread::Builder::new()
        .name("tinykvm-fetch".to_owned())
        .stack_size(STACK)
        .spawn(move || work(number, order))
        .map_err(|error| FetchError::Host(format!("no thread for a fetch: {error}")))?;
    crew.threads = crew.threads.saturating_add(1);
    Ok(())
}

/// Counts the thread for as long as it lives, however it ends.
struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        let mut crew = CREW.lock();
        crew.threads = crew.threads.saturating_sub(1);
    }
}

fn work(number: u64, first: Order) {
    let _counted = Counted;
    let (orders, inbox) = channel();
    let mut multi = keeping();
    let mut next = Some(first);
    while let Some(order) = next {
        let done = catch_unwind(AssertUnwindSafe(|| order.carry_out(&multi)));
        if done.is_err() {
            // The hook has reported it; nobody knows what state the handle is in.
            multi = keeping();
        }
        // Whoever hears of the end may order the next one, and should find this thread.
        CREW.lock().idle.push(Idle {
            number,
            orders: orders.clone(),
        });
        if let Ok(done) = done {
            done.tell();
        }
        next = wait(number, &inbox);
    }
}

fn keeping() -> Multi {
    let mut multi = Multi::new();
    let _as_libcurl_likes = multi.set_max_connects(CONNECTIONS);
    multi
}

fn wait(number: u64, inbox: &Receiver<Order>) -> Option<Order> {
    match inbox.recv_timeout(IDLE) {
        Ok(order) => Some(order),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => {
            let mut crew = CREW.lock();
            match crew.idle.iter().position(|idle| idle.number == number) {
                Some(at) => {
                    crew.idle.remove(at);
                    None
                }
                // Somebody took it off the list to send an order, with the lock held.
                None => inbox.try_recv().ok(),
            }
        }
    }
}
