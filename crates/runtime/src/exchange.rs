//! The HTTP transaction around a request, as the runtime sees it: the seam towards Varnish.
//! The VMOD implements it over VRT, tests and the command line over vectors (`recorded.rs`).
//!
//! Texts that reach an implementation are checked before (`fields.rs`): an implementation never
//! sees a field with a line break or another control character in it.

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::outgoing::Outgoing;

/// Which header table of the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What the client (or Varnish on its behalf) asked: bereq, or req in a client task.
    Request,
    /// What the program answers: beresp, or resp in a client task.
    Response,
}

/// Why a field did not get into a header table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// The transaction has no such table.
    #[error("there is no such header table here")]
    NotAvailable,
    /// The table has no free entry.
    #[error("the header table is full")]
    Full,
    /// The workspace has no room for the text.
    #[error("no workspace left for the header")]
    NoSpace,
    /// Varnish cannot take it.
    #[error("a header field that Varnish cannot take: {0}")]
    Refused(&'static str),
}

/// Whether and for how long the response may be cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cacheability {
    pub cacheable: bool,
    pub ttl: Duration,
    pub grace: Duration,
    pub keep: Duration,
}

impl Cacheability {
    /// What is not for the cache.
    pub const NEVER: Self = Self {
        cacheable: false,
        ttl: Duration::ZERO,
        grace: Duration::ZERO,
        keep: Duration::ZERO,
    };

    /// What is left of it when another response takes the place of the one it came with: no
    /// lifetime, but what was not for the cache is not, as it may have been for one client.
    #[must_use]
    pub fn of_replaced(self) -> Option<Self> {
        (!self.cacheable).then_some(Self::NEVER)
    }
}

/// What ends a wait, or a guest call. The log says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    MaxRequestTime,
    MaxQueueTime,
    /// A part of a body that is made while it is read.
    Part,
    /// What VCL says for this fetch.
    FirstByteTimeout,
    /// The program whose self-request this is waits no longer.
    Asker,
    /// What the load of a VCL may wait.
    VclInit,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MaxRequestTime => "max_request_time",
            Self::MaxQueueTime => "max_queue_time",
            Self::Part => "the time of a part of the body",
            Self::FirstByteTimeout => "bereq.first_byte_timeout",
            Self::Asker => "the time of the program that asked for this",
            Self::VclInit => "the time that vcl_init has",
        })
    }
}

/// When something ends, and why then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    pub at: Instant,
    pub limit: Limit,
}

impl Deadline {
    /// The earlier one; of two that are equal this one.
    #[must_use]
    pub fn or_earlier(self, other: Option<Self>) -> Self {
        other.filter(|other| other.at < self.at).unwrap_or(self)
    }
}

/// What kind of log line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// What the guest says, and what happened as it should.
    Info,
    /// What an operator should look at.
    Error,
}

/// Takes log lines where there is no exchange any more.
pub type Say<'a> = dyn FnMut(Severity, &[u8]) + Send + 'a;

/// The transaction that a program answers. `Send`, because where a virtual CPU may not change
/// threads the guest runs on another thread than the caller's, which waits meanwhile: never two
/// threads at once.
pub trait Exchange: Send {
    /// Visits each request field, "Name: value", without the request line.
    fn visit_request_headers(&self, visit: &mut dyn FnMut(&[u8]));
    /// The request method, empty where there is none.
    fn method(&self) -> &[u8];
    /// The first field of that name, whole.
    fn find(&self, side: Side, name: &[u8]) -> Option<&[u8]>;
    /// Adds a field, answers its index.
    fn append(&mut self, side: Side, field: &[u8]) -> Result<u32, FieldError>;
    /// Replaces the first field of the same name or adds one, answers its index.
    fn set(&mut self, side: Side, field: &[u8]) -> Result<u32, FieldError>;
    /// Where fields go that come with a response: to the request while there is no other table.
    fn side_of_response(&self) -> Side {
        Side::Response
    }
    /// Removes the first field of that name, answers the index that it had, or 0.
    fn unset(&mut self, side: Side, name: &[u8]) -> u32;
    /// `false` when the transaction has no object to be cached.
    fn set_cacheable(&mut self, how: Cacheability) -> bool;
    /// The call that may have said it has failed: leaves what `Cacheability::of_replaced` does.
    fn forget_lifetime(&mut self);
    /// When whoever causes this request stops waiting for it, if that is known.
    fn deadline(&self) -> Option<Deadline> {
        None
    }
    /// The end of something that may take so long, or when nobody waits for it any more.
    fn deadline_within(&self, most: Duration) -> Instant {
        self.call_deadline(most).at
    }
    /// The end of a guest call that may take so long.
    fn call_deadline(&self, max_request_time: Duration) -> Deadline {
        let own = Deadline {
            at: Instant::now() + max_request_time,
            limit: Limit::MaxRequestTime,
        };
        own.or_earlier(self.deadline())
    }
    /// The request body is whole: whoever waits for the answer counts from here.
    fn body_ended(&mut self) {}
    /// Where requests go that this one causes.
    fn outgoing(&self) -> Outgoing {
        Outgoing::default()
    }
    /// The transaction is about to wait for a request VM: time to give back those it holds.
    fn before_waiting(&mut self) {}
    /// One line of log, without line break; the runtime bounds number and length.
    fn log(&mut self, severity: Severity, line: &[u8]);
}
