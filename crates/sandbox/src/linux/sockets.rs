//! Sockets: there are none. A request VM that could talk to the network would outlive its own
//! reset in somebody else's state, so this version offers no way to.

use super::args::low_i32;
use super::{Answer, Call, refuse};

/// socket(2), socketpair(2): no address family is supported.
pub(super) fn socket(_call: &mut Call<'_>) -> Answer {
    refuse(libc::EAFNOSUPPORT)
}

/// Every call that works on a socket: what the descriptor is, a socket it is not.
pub(super) fn on_descriptor(call: &mut Call<'_>) -> Answer {
    let [fd, ..] = call.args();
    call.process.files().get(low_i32(fd))?;
    refuse(libc::ENOTSOCK)
}
