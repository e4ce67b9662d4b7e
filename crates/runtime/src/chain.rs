//! Programs in a row: each takes the answer of the one before as its request body.
//!
//! ```text
//! request --> item --answer as POST--> item --answer as POST--> item --> outcome
//!               \--status >= threshold: that answer is the outcome
//! ```
//!
//! Guards: nobody waits for a request VM while he holds another. When the next program has none
//! free, the data is copied out first and the VM that held it is given back: requests through
//! a, b and requests through b, a cannot block each other, nor can a chain block itself that uses
//! a program of one VM twice. What finds no room there fails at once (`detached.rs`). Each item gets
//! a VM that has been reset. What an item makes while the chain reads it is whole by one deadline.

use std::sync::Arc;
use std::time::Duration;

use smallvec::{SmallVec, smallvec};

use crate::body::BodyError;
use crate::detached::Detached;
pub use crate::detached::{NoRoom, SMALL, detached_bytes};
use crate::exchange::{Deadline, Exchange, Say, Severity};
use crate::fields::check_value;
use crate::program::{Program, ReserveError};
use crate::request_abi::Request;
use crate::reservation::Reservation;
use crate::response::{ContentType, Response};
use crate::statistics::Waiting;
use crate::stream::PullError;

/// Items of a chain, the last one included.
pub const MOST_LINKS: usize = 16;
/// Bytes that go from one VM to the next at once.
const CHUNK: usize = 64 << 10;
/// How long the item `fetch` may take.
const FETCH_TIME: Duration = Duration::from_secs(60);

/// What an item of a chain is.
#[derive(Debug, Clone)]
pub enum Item {
    Program {
        program: Arc<Program>,
        url: Box<[u8]>,
        argument: Box<[u8]>,
    },
    /// A request to this very server, only as the first item.
    Fetch {
        path: Box<[u8]>,
        headers: Box<[Box<[u8]>]>,
    },
}

impl Item {
    pub fn name(&self) -> &str {
        match self {
            Self::Program { program, .. } => program.name(),
            Self::Fetch { .. } => "fetch",
        }
    }
}

/// An item in its place.
#[derive(Debug, Clone)]
pub struct Link {
    pub item: Item,
    /// An answer whose status is this or more ends the chain.
    pub threshold: i64,
}

impl Link {
    /// Whatever is answered does not end the chain.
    pub const NEVER: i64 = i64::MAX;
}

/// Items in the order in which they run. A plain value: it belongs to whoever holds it.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    /// Most chains are a program alone, which takes no allocation.
    links: SmallVec<[Link; 1]>,
}

/// The chain has [`MOST_LINKS`] items already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chain has at most {MOST_LINKS} items, the last one included")]
pub struct TooLong;

/// What the first and the last program see of the transaction.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    pub method: &'a [u8],
    pub content_type: &'a [u8],
    /// The method that the last program sees, if not the usual one.
    pub last_method: Option<&'a [u8]>,
}

/// What came of a chain.
#[derive(Debug)]
pub struct Outcome {
    pub response: Response,
    /// The VM that has the body. Without one the host has it.
    pub reservation: Option<Reservation>,
    /// A threshold was reached.
    pub broken: bool,
    held: Detached,
}

/// Why a chain has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ChainError<E> {
    #[error(transparent)]
    NoVm(#[from] ReserveError),
    #[error("program {program}: {error}")]
    Body { program: String, error: E },
    #[error("program {to} does not get the answer of {from}: {error}")]
    Transfer {
        from: String,
        to: String,
        error: TransferError,
    },
    #[error("chain: fetch can only be the first item")]
    LateFetch,
    #[error("chain: there is no item")]
    Empty,
}

/// Why data did not get from one item to the next.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Refused(#[from] BodyError),
    #[error(transparent)]
    Lost(#[from] PullError),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl Chain {
    pub fn new() -> Self {
        Self::default()
    }

    /// A chain of one, which no status ends.
    pub fn of(item: Item) -> Self {
        let threshold = Link::NEVER;
        Self {
            links: smallvec![Link { item, threshold }],
        }
    }

    pub fn len(&self) -> usize {
        self.links.len()
    }

    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    pub fn push(&mut self, link: Link) -> Result<(), TooLong> {
        if self.links.len() >= MOST_LINKS {
            return Err(TooLong);
        }
        self.links.push(link);
        Ok(())
    }

    /// The last item.
    pub fn last(&self) -> Option<&Link> {
        self.links.last()
    }

    /// Runs all items. `first_body` hands the request body to the first program.
    pub fn run<E>(
        &self,
        opening: Opening<'_>,
        first_body: &mut dyn FnMut(&mut Reservation, &mut dyn Exchange) -> Result<(), E>,
        exchange: &mut dyn Exchange,
    ) -> Result<Outcome, ChainError<E>> {
        let mut before: Option<(&Item, Outcome)> = None;
        for (position, link) in self.links.iter().enumerate() {
            let last = position + 1 == self.links.len();
            let mut outcome = match &link.item {
                Item::Program {
                    program,
                    url,
                    argument,
                } => {
                    let _counted = Waiting::begin();
                    let carried = before
                        .as_ref()
                        .map(|(_, outcome)| outcome.response.content_type.clone());
                    let usual = match before {
                        None => opening.method,
                        Some(_) => b"POST",
                    };
                    let request = Request {
                        method: opening.last_method.filter(|_| last).unwrap_or(usual),
                        url,
                        argument,
                        content_type: carried.as_deref().unwrap_or(opening.content_type),
                    };
                    let reservation = match &mut before {
                        None => first(program, &request, first_body, exchange)?,
                        Some((from, outcome)) => next(program, &request, from, outcome, exchange)?,
                    };
                    Outcome::of_program(reservation, &request, exchange)
                }
                Item::Fetch { path, headers } if before.is_none() => {
                    exchange.before_waiting();
                    Outcome::of_fetch(path, headers, exchange)
                }
                Item::Fetch { .. } => return Err(ChainError::LateFetch),
            };
            if i64::from(outcome.response.status) >= link.threshold {
                outcome.broken = true;
                if !last {
                    let (name, status) = (link.item.name(), outcome.response.status);
                    let line = format!("chain: {name} answered {status}, which ends the chain");
                    exchange.log(Severity::Error, line.as_bytes());
                }
                return Ok(outcome);
            }
            before = Some((&link.item, outcome));
        }
        before.map(|(_, outcome)| outcome).ok_or(ChainError::Empty)
    }
}

/// A VM with the request body in it.
fn first<E>(
    program: &Arc<Program>,
    request: &Request<'_>,
    body: &mut dyn FnMut(&mut Reservation, &mut dyn Exchange) -> Result<(), E>,
    exchange: &mut dyn Exchange,
) -> Result<Reservation, ChainError<E>> {
    let mut reservation = match program.try_reserve() {
        Some(reservation) => reservation,
        None => {
            exchange.before_waiting();
            program.reserve_before(exchange.deadline())?
        }
    };
    reservation.begin(request);
    body(&mut reservation, exchange).map_err(|error| ChainError::Body {
        program: program.name().to_owned(),
        error,
    })?;
    Ok(reservation)
}

/// A VM with the answer of the item before in it, whose own VM is given back.
fn next<E>(
    program: &Arc<Program>,
    request: &Request<'_>,
    from: &Item,
    outcome: &mut Outcome,
    exchange: &mut dyn Exchange,
) -> Result<Reservation, ChainError<E>> {
    let lost = |error| ChainError::Transfer {
        from: from.name().to_owned(),
        to: program.name().to_owned(),
        error,
    };
    let mut reservation = match program.try_reserve() {
        Some(reservation) => reservation,
        None => {
            // What it would refuse is not held until then.
            let len = outcome.response.content_length;
            program
                .check_body(len)
                .map_err(|error| lost(error.into()))?;
            outcome.detach(exchange).map_err(lost)?;
            exchange.before_waiting();
            program.reserve_before(exchange.deadline())?
        }
    };
    reservation.begin(request);
    outcome
        .hand_over(&mut reservation, exchange)
        .map_err(lost)?;
    Ok(reservation)
}

impl Outcome {
    fn of_program(
        mut reservation: Reservation,
        request: &Request<'_>,
        exchange: &mut dyn Exchange,
    ) -> Self {
        let response = reservation.handle(request, exchange);
        Self {
            response,
            reservation: Some(reservation),
            broken: false,
            held: Detached::default(),
        }
    }

    /// Never fails: without an answer the status says why.
    fn of_fetch(path: &[u8], headers: &[Box<[u8]>], exchange: &mut dyn Exchange) -> Self {
        let headers: Vec<&[u8]> = headers.iter().map(|field| &**field).collect();
        let deadline = exchange.deadline_within(FETCH_TIME);
        let mut response = Response::failed();
        let mut held = Detached::default();
        match exchange.outgoing().self_request(path, &headers, deadline) {
            Ok(fetched) => {
                response.status = fetched.status;
                if check_value(&fetched.content_type, 0).is_ok() {
                    response.content_type = ContentType::new(&fetched.content_type);
                }
                response.content_length = u64::try_from(fetched.body.len()).unwrap_or(u64::MAX);
                held = fetched.body;
            }
            Err(error) => {
                response.status = error.status();
                let path = String::from_utf8_lossy(path);
                let line = format!("chain: fetch of {path}: {error}");
                exchange.log(Severity::Error, line.as_bytes());
            }
        }
        Self {
            response,
            reservation: None,
            broken: false,
            held,
        }
    }

    /// An answer of the host's own.
    pub fn said(status: u16, content_type: &[u8], text: Vec<u8>) -> Self {
        Self {
            response: Response {
                status,
                content_type: ContentType::new(content_type),
                content_length: u64::try_from(text.len()).unwrap_or(u64::MAX),
                ..Response::failed()
            },
            reservation: None,
            broken: false,
            held: Detached::said(text),
        }
    }

    /// The program whose VM has the body; nothing where the host has it.
    pub fn program(&self) -> Option<&str> {
        self.reservation.as_ref().map(Reservation::program)
    }

    /// The next bytes of the body, as many as there is room for; 0 at the end.
    /// What a program that makes them logs goes to the journal.
    pub fn pull(&mut self, into: &mut [u8]) -> Result<usize, PullError> {
        match &mut self.reservation {
            Some(reservation) => reservation.pull(into),
            None => Ok(self.held.pull(into)),
        }
    }

    /// As `pull`, with the log where it belongs. Who reads all of the body passes `whole_by`.
    pub fn pull_and_say(
        &mut self,
        into: &mut [u8],
        whole_by: Option<Deadline>,
        say: &mut Say<'_>,
    ) -> Result<usize, PullError> {
        match &mut self.reservation {
            Some(reservation) => reservation.pull_and_say(into, whole_by, say),
            None => Ok(self.held.pull(into)),
        }
    }

    /// When who begins to read all of the body now, on behalf of `exchange`, gives up. Nothing where
    /// it is there.
    pub fn whole_by(&self, exchange: &dyn Exchange) -> Option<Deadline> {
        let maker = self.reservation.as_ref();
        maker
            .filter(|_| self.response.streams)
            .map(|reservation| reservation.whole_by(exchange))
    }

    /// Copies what is left of the body to the host and gives the VM back. On an error the VM is kept,
    /// and the answer in it, unless some of that is gone: then it is lost.
    pub fn detach(&mut self, exchange: &mut dyn Exchange) -> Result<(), TransferError> {
        let whole_by = self.whole_by(exchange);
        let Some(reservation) = &mut self.reservation else {
            return Ok(());
        };
        let mut held = Detached::new(reservation.detached());
        // Before the program is asked for anything.
        held.expect(self.response.content_length)?;
        let mut say = |severity, line: &[u8]| exchange.log(severity, line);
        let result = loop {
            let pull = |room: &mut [u8]| Ok(reservation.pull_and_say(room, whole_by, &mut say)?);
            match held.fill(CHUNK, pull) {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        match result {
            Err(error @ TransferError::NoRoom(_)) if held.len() == 0 => return Err(error),
            Err(_) => {}
            Ok(()) => self.held = held,
        }
        self.reservation = None;
        result
    }

    /// What is left of a body that the host has.
    pub fn held(&self) -> &[u8] {
        self.held.rest()
    }

    /// Makes the body the request body of another VM, and gives the own one back.
    fn hand_over(
        &mut self,
        to: &mut Reservation,
        exchange: &mut dyn Exchange,
    ) -> Result<(), TransferError> {
        to.begin_body(Some(self.response.content_length))?;
        if self.reservation.is_none() {
            let held = std::mem::take(&mut self.held);
            to.push_body(held.rest(), exchange)?;
            return Ok(to.end_body(exchange)?);
        }
        let len = usize::try_from(self.response.content_length).unwrap_or(usize::MAX);
        let mut chunk = vec![0; len.min(CHUNK)];
        let whole_by = self.whole_by(exchange);
        loop {
            let count = {
                let mut say = |severity, line: &[u8]| exchange.log(severity, line);
                self.pull_and_say(&mut chunk, whole_by, &mut say)?
            };
            match count {
                0 => break,
                count => to.push_body(chunk.get(..count).unwrap_or_default(), exchange)?,
            }
        }
        self.reservation = None;
        Ok(to.end_body(exchange)?)
    }
}
