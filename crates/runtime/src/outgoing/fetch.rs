//! One fetch from the side of the one who waits for it: where it may go, hop by hop, and what
//! becomes of its parts.
//!
//! ```text
//! address -> allowed? -> order -> crew
//!    ^                     |
//!    +---- redirect -------+--> head, body -> taker
//! ```
//!
//! Guards: nothing is asked that was not looked at before; no wait beyond the deadline.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::time::{Duration, Instant};

use super::address::Address;
use super::allowed::{FetchRule, allows};
use super::fields::{Fields, Towards};
use super::share::Share;
use super::tie::Owner;
use super::transfer::{Event, Head, Method, Order};
use super::{Cause, FetchError, MOST_DEPTH, Outgoing, crew};

const MOST_REDIRECTS: u32 = 10;
/// Parts of a body that wait to be taken.
const PARTS: usize = 4;

/// What is wanted.
#[derive(Debug)]
pub(crate) struct Wish<'a> {
    /// An address, or a path of this Varnish.
    pub(crate) url: &'a [u8],
    pub(crate) method: Method,
    pub(crate) fields: Fields,
    pub(crate) follow: bool,
    pub(crate) verify_host: bool,
    pub(crate) deadline: Instant,
    /// Who wants it, if it is a program.
    pub(crate) program: Option<Arc<str>>,
}

/// Who the answer is for.
pub(crate) trait Taker {
    type Error: From<FetchError>;

    /// A part of the request body, of up to `room` bytes.
    fn part(&mut self, offset: u64, room: usize) -> Result<Vec<u8>, Self::Error>;
    fn head(&mut self, head: Head) -> Result<(), Self::Error>;
    fn body(&mut self, part: &[u8]) -> Result<(), Self::Error>;
}

/// Where one hop goes.
struct Place {
    address: Address,
    home: bool,
}

impl Outgoing {
    /// Whether a wish would be a self-request.
    pub(crate) fn is_home(&self, url: &[u8]) -> bool {
        url.first() == Some(&b'/')
            || Address::parse(url).is_ok_and(|address| self.has_at_home(&address))
    }

    /// Hands the answer to `taker`. `rules` say what may be asked besides this Varnish.
    pub(crate) fn fetch<T: Taker>(
        &self,
        wish: &Wish<'_>,
        rules: &[FetchRule],
        taker: &mut T,
    ) -> Result<(), T::Error> {
        let mut place = self.place(wish.url, rules)?;
        let mut method = wish.method;
        let mut first = true;
        for _ in 0..=MOST_REDIRECTS {
            let there = Towards {
                home: place.home,
                first,
                has_body: matches!(method, Method::Post(_)),
            };
            let Some((status, next)) = self.hop(wish, &place, method, there, taker)? else {
                return Ok(());
            };
            let next = self.place(next.as_bytes(), rules)?;
            first = first && next.address.same_origin(&place.address);
            if status <= 303 && method != Method::Head {
                method = Method::Get;
            }
            place = next;
        }
        Err(FetchError::Redirects(MOST_REDIRECTS).into())
    }

    fn has_at_home(&self, address: &Address) -> bool {
        self.home.as_ref().is_some_and(|home| home.is_home(address))
    }

    fn place(&self, url: &[u8], rules: &[FetchRule]) -> Result<Place, FetchError> {
        if url.first() == Some(&b'/') {
            let home = self.home.as_ref().ok_or(FetchError::NoHome)?;
            let address = home.address(url)?;
            return Ok(Place {
                address,
                home: true,
            });
        }
        let address =
            Address::parse(url).map_err(|flaw| FetchError::Malformed(flaw.to_string()))?;
        let home = self.has_at_home(&address);
        if home || allows(rules, &address) {
            Ok(Place { address, home })
        } else {
            Err(FetchError::Refused(address.to_string()))
        }
    }

    /// Asks once: where the answer redirects to, if that is to be followed.
    fn hop<T: Taker>(
        &self,
        wish: &Wish<'_>,
        place: &Place,
        method: Method,
        there: Towards,
        taker: &mut T,
    ) -> Result<Option<(u16, String)>, T::Error> {
        let mut fields = wish.fields.towards(there);
        let (mut permit, mut socket) = (None, None);
        if place.home {
            let home = self.home.as_ref().ok_or(FetchError::NoHome)?;
            if self.depth >= MOST_DEPTH {
                return Err(FetchError::TooDeep(self.depth).into());
            }
            permit = Some(home.permit()?);
            socket = home.socket().map(str::to_owned);
            fields.push(Cause::field(
                self.depth.saturating_add(1),
                sooner(wish.deadline),
            ));
        }
        let share = wish.program.as_ref().map(Share::of).transpose()?;
        let owner = Owner::default();
        let (events, inbox) = sync_channel(PARTS);
        let (outbox, parts) = channel();
        crew::give(Order {
            address: place.address.to_string(),
            socket,
            permit,
            share,
            method,
            fields,
            verify_host: wish.verify_host,
            private: !place.home && wish.fields.has_credentials(),
            deadline: wish.deadline,
            tie: owner.tie(),
            events,
            parts,
        })?;
        let mut redirect = None;
        loop {
            match next_event(&inbox, wish.deadline)? {
                Event::Wants { offset, room } => {
                    give_part(&outbox, taker.part(offset, room)?);
                }
                Event::Head(head) => {
                    if wish.follow && head.redirects {
                        redirect = Some(head.status);
                    } else {
                        taker.head(head)?;
                    }
                }
                Event::Body(part) => {
                    if redirect.is_none() {
                        taker.body(&part)?;
                    }
                }
                Event::End(result) => {
                    return Ok(match (redirect, result?) {
                        (None, _) => None,
                        (Some(status), Some(next)) => Some((status, next)),
                        (Some(_), None) => {
                            let text = "the answer redirects to no address".to_owned();
                            return Err(FetchError::Malformed(text).into());
                        }
                    });
                }
            }
        }
    }
}

/// Until when an answer is of use: it has to be made known, too.
fn sooner(deadline: Instant) -> Instant {
    const MOST: Duration = Duration::from_millis(250);
    let left = deadline.saturating_duration_since(Instant::now());
    let margin = (left / 16).min(MOST);
    deadline.checked_sub(margin).unwrap_or(deadline)
}

fn next_event(inbox: &Receiver<Event>, deadline: Instant) -> Result<Event, FetchError> {
    let left = deadline.saturating_duration_since(Instant::now());
    inbox.recv_timeout(left).map_err(|error| match error {
        RecvTimeoutError::Timeout => FetchError::TimedOut,
        RecvTimeoutError::Disconnected => {
            FetchError::Host("a failure of the host ended the fetch".to_owned())
        }
    })
}

fn give_part(outbox: &Sender<Vec<u8>>, part: Vec<u8>) {
    // A transfer that has ended meanwhile says so by its end.
    let _ended = outbox.send(part);
}
