//! Programs from compiled guests, and requests to them, without Varnish.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "test code")]

use std::sync::Arc;
use std::time::Duration;

use runtime::{
    Binaries, Program, Recipe, Recorded, Request, Reservation, Response, Source, Threads,
};

/// A binary in memory.
pub(crate) struct Fixed {
    pub(crate) recipe: Recipe,
    pub(crate) elf: Vec<u8>,
}

impl Source for Fixed {
    fn recipe(&self) -> Result<Recipe, String> {
        Ok(self.recipe.clone())
    }

    fn binaries(&self) -> Result<Binaries, String> {
        Ok(self.elf.clone().into())
    }
}

pub(crate) const BOTH: [Threads; 2] = [Threads::Callers, Threads::Own];

/// The guest of that name with default settings.
pub(crate) fn program(name: &str) -> Arc<Program> {
    program_with(name, Threads::AsHostLikes, |_| {})
}

pub(crate) fn program_with(
    name: &str,
    threads: Threads,
    change: impl FnOnce(&mut Recipe),
) -> Arc<Program> {
    let mut recipe = Recipe::new(name);
    recipe.max_boot_time *= guests::slowness();
    recipe.max_request_time *= guests::slowness();
    change(&mut recipe);
    let source = Fixed {
        recipe,
        elf: guests::elf(name),
    };
    Program::with(name, Box::new(source), threads, Duration::from_secs(60))
}

/// What came of a request.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) response: Response,
    pub(crate) body: Vec<u8>,
    pub(crate) exchange: Recorded,
}

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        self.response.status
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn log(&self) -> String {
        self.exchange.log_text()
    }
}

pub(crate) fn get(program: &Arc<Program>, url: &str) -> Reply {
    get_with(
        program,
        url,
        "",
        Recorded::new("GET", &["Host: example.com"]),
    )
}

pub(crate) fn get_with(
    program: &Arc<Program>,
    url: &str,
    argument: &str,
    exchange: Recorded,
) -> Reply {
    let reservation = program.reserve().unwrap();
    finish(reservation, url, argument, b"", exchange)
}

pub(crate) fn post(program: &Arc<Program>, url: &str, content_type: &str, body: &[u8]) -> Reply {
    let mut reservation = program.reserve().unwrap();
    reservation
        .begin_body(u64::try_from(body.len()).ok())
        .unwrap();
    reservation.push_body(body).unwrap();
    let exchange = Recorded::new("POST", &["Host: example.com"]);
    finish(reservation, url, "", content_type.as_bytes(), exchange)
}

pub(crate) fn finish(
    mut reservation: Reservation,
    url: &str,
    argument: &str,
    content_type: &[u8],
    mut exchange: Recorded,
) -> Reply {
    let method = exchange.method.clone();
    let request = Request {
        method: &method,
        url: url.as_bytes(),
        argument: argument.as_bytes(),
        content_type,
    };
    let response = reservation.handle(&request, &mut exchange);
    let body = body(&reservation);
    assert_eq!(response.content_length, u64::try_from(body.len()).unwrap());
    Reply {
        response,
        body,
        exchange,
    }
}

/// Copies a response body out of the guest.
pub(crate) fn body(reservation: &Reservation) -> Vec<u8> {
    let mut body = Vec::new();
    for piece in reservation.body() {
        // SAFETY: pieces are readable until the reservation is dropped.
        body.extend_from_slice(unsafe { std::slice::from_raw_parts(piece.ptr, piece.len) });
    }
    body
}
