//! Requests that go out: to this Varnish itself (self-requests), and from programs to where the
//! operator allows it.
//!
//! A self-request belongs to the VCL whose request caused it: that VCL's `init_self_requests`
//! says where it goes and how many there may be at once. The [`Exchange`](crate::Exchange) of the
//! causing request knows the VCL and how deep the request itself is; programs, which VCLs share, do
//! not.

use std::sync::Arc;
use std::time::Instant;

/// Travels with self-requests and says how many of them led here.
pub const DEPTH_FIELD: &str = "X-TinyKVM-Depth";
/// Self-requests that cause one another.
pub const MOST_DEPTH: u32 = 8;

/// What one VCL says about self-requests, and those under way.
#[derive(Debug, Default)]
pub struct SelfRequests {}

/// Where requests go that are caused by a certain request.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    home: Arc<SelfRequests>,
    depth: u32,
}

impl Outgoing {
    /// What a request causes that belongs to the VCL of `home` and is itself the `depth`th
    /// self-request in a row; 0 for one from outside.
    pub fn new(home: Arc<SelfRequests>, depth: u32) -> Self {
        Self { home, depth }
    }

    /// Asks this Varnish for `path`, which begins with a slash. `headers` are "Name: value"; those
    /// that a program may not choose are left out. Waits for the answer, but not beyond
    /// `deadline`; a status that is an error is no failure.
    pub fn self_request(
        &self,
        path: &[u8],
        headers: &[&[u8]],
        deadline: Instant,
    ) -> Result<Fetched, FetchError> {
        let _ = (&self.home, self.depth, path, headers, deadline);
        Err(FetchError::Host("not in this version".to_owned()))
    }
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub status: u16,
    /// Empty if there is none.
    pub content_type: Vec<u8>,
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("{0} self-requests have led here already: the request may not cause another one")]
    TooDeep(u32),
    #[error("{0} self-requests are under way already (max_concurrent_requests)")]
    Busy(usize),
    #[error("{0} is not an address")]
    Malformed(String),
    #[error("{0} is not in the program's allowed_fetch")]
    Refused(String),
    #[error("more than {0} redirects")]
    Redirects(u32),
    #[error("no answer in time")]
    TimedOut,
    #[error("the answer has more than {0} bytes")]
    TooLarge(u64),
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
            Self::Busy(_) => 503,
            Self::TimedOut => 504,
            Self::Malformed(_) | Self::Host(_) => 500,
            Self::Refused(_) | Self::Redirects(_) | Self::TooLarge(_) | Self::Transfer { .. } => {
                502
            }
        }
    }
}
