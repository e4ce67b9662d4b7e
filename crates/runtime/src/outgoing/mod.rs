//! Requests that go out: to this Varnish itself (self-requests), and from programs to where the
//! operator allows it.
//!
//! A self-request belongs to the VCL whose request caused it: that VCL's `init_self_requests`
//! says where it goes and how many there may be at once. The [`Exchange`](crate::Exchange) of the
//! causing request knows the VCL and how deep the request itself is; programs, which VCLs share, do
//! not.
//!
//! Everything here may be called with the small stack of a worker: libcurl runs on threads of its
//! own (`crew.rs`), and the caller waits no longer than its deadline.

mod address;
mod allowed;
mod crew;
mod depth;
mod fetch;
mod fields;
mod home;
mod share;
#[cfg(test)]
mod tests;
mod tie;
mod transfer;

use std::sync::{Arc, LazyLock};
use std::time::Instant;

pub use address::{Address, Flaw};
pub use allowed::FetchRule;
pub use depth::{Cause, depth_field, is_depth_field};
pub(crate) use fetch::{Taker, Wish};
pub(crate) use fields::Fields;
pub use home::{SelfRequests, SelfRequestsError};
pub(crate) use transfer::{Head, Method};

use crate::detached::{Detached, NoRoom};
use crate::statistics::{OutgoingCounters, OutgoingValues};

/// Self-requests that cause one another.
pub const MOST_DEPTH: u32 = 8;
/// What is taken of an answer that the host keeps.
const MOST_KEPT: u64 = 64 << 20;

/// Of the whole process.
static COUNTERS: LazyLock<OutgoingCounters> = LazyLock::new(OutgoingCounters::default);

/// What the process has asked others for, for the table of figures.
pub(crate) fn values() -> OutgoingValues {
    COUNTERS.values()
}

/// Where requests go that are caused by a certain request.
#[derive(Debug, Clone)]
pub struct Outgoing {
    home: Option<Arc<SelfRequests>>,
    depth: u32,
}

impl Default for Outgoing {
    /// What a request from outside causes, in a VCL that says nothing about it.
    fn default() -> Self {
        Self::new(Arc::default(), 0)
    }
}

impl Outgoing {
    /// What a request causes that belongs to the VCL of `home` and is itself the `depth`th
    /// self-request in a row; 0 for one from outside.
    pub fn new(home: Arc<SelfRequests>, depth: u32) -> Self {
        Self {
            home: Some(home),
            depth,
        }
    }

    /// For what nobody waits for, in the same VCL.
    pub(crate) fn uncaused(&self) -> Self {
        Self {
            depth: 0,
            ..self.clone()
        }
    }

    /// What is caused by no request, and so belongs to no VCL: there are no self-requests.
    pub fn without_home() -> Self {
        Self {
            home: None,
            depth: 0,
        }
    }

    /// Asks this Varnish for `path`, which begins with a slash, and follows redirects within this
    /// Varnish. `headers` are "Name: value"; those that a program may not choose are left out.
    /// Waits for the answer, but not beyond `deadline`; a status that is an error is no failure.
    pub fn self_request(
        &self,
        path: &[u8],
        headers: &[&[u8]],
        deadline: Instant,
    ) -> Result<Fetched, FetchError> {
        let mut fields = Fields::default();
        for field in headers {
            fields.add(field)?;
        }
        if path.first() != Some(&b'/') {
            return Err(FetchError::Malformed(
                "a path begins with a slash".to_owned(),
            ));
        }
        let wish = Wish {
            url: path,
            method: Method::Get,
            fields,
            follow: true,
            verify_host: true,
            deadline,
            program: None,
        };
        let mut fetched = Fetched::default();
        self.counted(&wish, &[], &mut fetched)?;
        Ok(fetched)
    }

    /// As `fetch`, with an entry in the statistics.
    pub(crate) fn counted<T: Taker>(
        &self,
        wish: &Wish<'_>,
        rules: &[FetchRule],
        taker: &mut T,
    ) -> Result<(), T::Error> {
        let counters = &*COUNTERS;
        let (count, failures) = if self.is_home(wish.url) {
            (&counters.self_requests, &counters.self_requests_failed)
        } else {
            (&counters.fetches, &counters.fetches_failed)
        };
        let begun = Instant::now();
        let result = self.fetch(wish, rules, taker);
        count.add(1);
        failures.add(u64::from(result.is_err()));
        counters.fetch_time.add_time(begun.elapsed());
        result
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Fetched {
    pub status: u16,
    /// Empty if there is none.
    pub content_type: Vec<u8>,
    pub(crate) body: Detached,
}

impl Default for Fetched {
    fn default() -> Self {
        Self {
            status: 0,
            content_type: Vec::new(),
            body: Detached::fetched(),
        }
    }
}

impl Taker for Fetched {
    type Error = FetchError;

    fn part(&mut self, _offset: u64, _room: usize) -> Result<Vec<u8>, FetchError> {
        Ok(Vec::new())
    }

    fn head(&mut self, head: Head) -> Result<(), FetchError> {
        self.status = head.status;
        self.content_type = head.content_type;
        Ok(())
    }

    fn body(&mut self, part: &[u8]) -> Result<(), FetchError> {
        let len = self.body.len().saturating_add(part.len());
        if u64::try_from(len).unwrap_or(u64::MAX) > MOST_KEPT {
            return Err(FetchError::TooLarge(MOST_KEPT));
        }
        Ok(self.body.push(part)?)
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("only requests can make self-requests: nothing else belongs to a VCL")]
    NoHome,
    #[error("{0} self-requests have led here already: a loop?")]
    TooDeep(u32),
    #[error("{0} self-requests are under way already (max_concurrent_requests)")]
    Busy(usize),
    #[error("{0} requests of the program are under way already, as many as one program may have")]
    Crowded(usize),
    #[error("{0}")]
    Malformed(String),
    #[error("{0}")]
    Field(String),
    #[error("{0} is not in the program's allowed_fetch")]
    Refused(String),
    #[error("more than {0} redirects")]
    Redirects(u32),
    #[error("no answer in time")]
    TimedOut,
    #[error("the answer has more than {0} bytes")]
    TooLarge(u64),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// By libcurl: its code and its words.
    #[error("{text}")]
    Transfer { code: u32, text: String },
    /// Our own fault.
    #[error("{0}")]
    Host(String),
}

impl FetchError {
    /// The status for a client that gets nothing else.
    pub fn status(&self) -> u16 {
        match self {
            Self::TooDeep(_) => 508,
            Self::Busy(_) | Self::Crowded(_) | Self::NoRoom(_) => 503,
            Self::TimedOut => 504,
            Self::NoHome | Self::Malformed(_) | Self::Field(_) | Self::Host(_) => 500,
            Self::Refused(_) | Self::Redirects(_) | Self::TooLarge(_) | Self::Transfer { .. } => {
                502
            }
        }
    }
}
