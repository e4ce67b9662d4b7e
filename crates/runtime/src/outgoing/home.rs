//! What a VCL says about self-requests, and how many of its own are under way.
//!
//! Guards: never more at once than the VCL allows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::FetchError;
use super::address::Address;

/// Where Varnish listens if VCL does not say.
const DEFAULT_PORT: u16 = 6081;
const DEFAULT_MOST: usize = 50;
/// What `sockaddr_un` holds, with a NUL.
const LONGEST_SOCKET: usize = 107;

/// One VCL's self-requests.
#[derive(Debug)]
pub struct SelfRequests {
    socket: Option<String>,
    prefix: Address,
    most: usize,
    running: AtomicUsize,
}

/// Why a VCL's word about self-requests is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelfRequestsError {
    #[error("http_prefix {text:?}: {reason}")]
    Prefix { text: String, reason: String },
    #[error("unix_socket {0:?}: the path of a socket has at most {LONGEST_SOCKET} bytes")]
    Socket(String),
    #[error("max_concurrent_requests {0}: at least 1")]
    Most(i64),
}

impl SelfRequests {
    /// `socket` may be empty: then the prefix alone says where Varnish is.
    pub fn new(socket: &str, prefix: &str, most: i64) -> Result<Self, SelfRequestsError> {
        let bad_prefix = |reason: String| SelfRequestsError::Prefix {
            text: prefix.to_owned(),
            reason,
        };
        let address =
            Address::parse(prefix.as_bytes()).map_err(|flaw| bad_prefix(flaw.to_string()))?;
        if prefix.contains(['?', '#']) {
            return Err(bad_prefix(
                "only a scheme, a host, a port and a path".to_owned(),
            ));
        }
        let socket = socket.strip_suffix('/').unwrap_or(socket);
        if socket.len() > LONGEST_SOCKET {
            return Err(SelfRequestsError::Socket(socket.to_owned()));
        }
        let most = match usize::try_from(most) {
            Ok(0) | Err(_) => return Err(SelfRequestsError::Most(most)),
            Ok(most) => most,
        };
        Ok(Self {
            socket: (!socket.is_empty()).then(|| socket.to_owned()),
            prefix: address,
            most,
            running: AtomicUsize::new(0),
        })
    }

    pub(super) fn socket(&self) -> Option<&str> {
        self.socket.as_deref()
    }

    /// The address that a path of this Varnish has.
    pub(super) fn address(&self, path: &[u8]) -> Result<Address, FetchError> {
        let base = self.prefix.target().trim_end_matches('/');
        let malformed = || FetchError::Malformed(String::from_utf8_lossy(path).into_owned());
        if path.first() != Some(&b'/') {
            return Err(malformed());
        }
        self.prefix
            .with_target(&[base.as_bytes(), path].concat())
            .map_err(|_| malformed())
    }

    /// Whether an address that was spelt out means this Varnish.
    pub(super) fn is_home(&self, address: &Address) -> bool {
        let base = self.prefix.target().trim_end_matches('/');
        address.same_origin(&self.prefix)
            && address
                .target()
                .strip_prefix(base)
                .is_some_and(|rest| rest.starts_with('/'))
    }

    /// The right to one self-request, for as long as it is held.
    pub(super) fn permit(self: &Arc<Self>) -> Result<Permit, FetchError> {
        let more = |running: usize| (running < self.most).then_some(running.saturating_add(1));
        match self
            .running
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
        {
            Ok(_before) => Ok(Permit(Arc::clone(self))),
            Err(_all_taken) => Err(FetchError::Busy(self.most)),
        }
    }
}

impl Default for SelfRequests {
    fn default() -> Self {
        Self {
            socket: None,
            prefix: Address::local(DEFAULT_PORT),
            most: DEFAULT_MOST,
            running: AtomicUsize::new(0),
        }
    }
}

/// Counted until it is dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<SelfRequests>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT_PREFIX: &str = "http://127.0.0.1:6081";

    #[test]
    fn settings_are_those_of_the_manual() {
        let home = SelfRequests::default();
        assert_eq!(
            home.address(b"/x?y").unwrap().to_string(),
            "http://127.0.0.1:6081/x?y"
        );
        assert_eq!((home.socket(), home.most), (None, 50));
        let home = SelfRequests::new("/run/v.sock/", "http://example.com/sub/", 1).unwrap();
        assert_eq!(home.socket(), Some("/run/v.sock"));
        assert_eq!(
            home.address(b"/x").unwrap().to_string(),
            "http://example.com/sub/x"
        );
        for wrong in [
            "",
            "/x",
            "example.com",
            "ftp://h",
            "http://u@h",
            "http://h/?q",
        ] {
            assert!(SelfRequests::new("", wrong, 1).is_err(), "{wrong}");
        }
        assert!(SelfRequests::new(&"s".repeat(108), DEFAULT_PREFIX, 1).is_err());
        assert_eq!(
            SelfRequests::new("", DEFAULT_PREFIX, 0).err(),
            Some(SelfRequestsError::Most(0))
        );
        assert!(SelfRequests::new("", DEFAULT_PREFIX, -1).is_err());
    }

    #[test]
    fn a_spelt_out_address_of_this_varnish_is_a_self_request_as_well() {
        let home = SelfRequests::new("", "http://localhost:80/sub", 1).unwrap();
        let is = |text: &str| home.is_home(&Address::parse(text.as_bytes()).unwrap());
        assert!(is("http://LOCALHOST./sub/x"));
        assert!(!is("http://localhost/other"));
        assert!(!is("http://localhost/subway/x"));
        assert!(!is("https://localhost/sub/x"));
    }

    #[test]
    fn no_more_permits_than_the_vcl_allows() {
        let home = Arc::new(SelfRequests::new("", DEFAULT_PREFIX, 2).unwrap());
        let (first, _second) = (home.permit().unwrap(), home.permit().unwrap());
        assert_eq!(home.permit().err(), Some(FetchError::Busy(2)));
        drop(first);
        assert!(home.permit().is_ok());
    }
}
