//! Programs from compiled guests, and requests to them, without Varnish.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "test code")]

use std::sync::Arc;

use runtime::{
    Binaries, Patience, Program, Recipe, Recorded, Request, Reservation, Response, Source, Threads,
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
    Program::with(name, Box::new(source), threads, Patience::default())
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
    let mut exchange = Recorded::new("POST", &["Host: example.com"]);
    let request = Request {
        method: b"POST",
        url: url.as_bytes(),
        argument: b"",
        content_type: content_type.as_bytes(),
    };
    reservation.begin(&request);
    reservation
        .begin_body(u64::try_from(body.len()).ok())
        .unwrap();
    reservation.push_body(body, &mut exchange).unwrap();
    reservation.end_body(&mut exchange).unwrap();
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
    let body = body(&mut reservation);
    assert_eq!(response.content_length, u64::try_from(body.len()).unwrap());
    Reply {
        response,
        body,
        exchange,
    }
}

/// Reads a whole response body.
pub(crate) fn body(reservation: &mut Reservation) -> Vec<u8> {
    let mut body = Vec::new();
    let mut part = vec![0; 10_000];
    loop {
        let len = reservation.pull(&mut part).unwrap();
        if len == 0 {
            return body;
        }
        body.extend_from_slice(part.get(..len).unwrap());
    }
}
