//! How long the load of one VCL may wait. varnishd's manager ends a child that does not answer for
//! longer than `cli_timeout`, 60 seconds if not set, and has the next one load the same VCLs.
//!
//! Guards: all calls of one vcl_init that wait have one budget together, whatever each of them may
//! take by itself; what is waited for in vain goes on without anybody waiting.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Clearly below the default of `cli_timeout`.
const WHOLE: Duration = Duration::from_secs(45);

/// The time that one vcl_init may wait.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    whole: Duration,
    until: Instant,
}

impl Budget {
    pub(crate) fn new(begun: Instant, whole: Duration) -> Self {
        Self {
            whole,
            until: begun + whole,
        }
    }

    pub(crate) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    pub(crate) fn exceeded_by(&self, awaited: String) -> OutOfTime {
        let whole = self.whole;
        OutOfTime { awaited, whole }
    }
}

/// That of a VCL whose load begins now.
impl Default for Budget {
    fn default() -> Self {
        Self::new(Instant::now(), WHOLE)
    }
}

/// The budget is used up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no time is left to wait for {awaited}: all calls in vcl_init have {whole:?} together, because varnishd ends a child that is silent for longer than cli_timeout"
)]
pub struct OutOfTime {
    awaited: String,
    whole: Duration,
}

/// Why there is no answer of a thread.
#[derive(Debug)]
pub(crate) enum Unanswered {
    Late,
    Panicked,
    Thread(io::Error),
}

/// Has a thread of ours do some work and waits for it, but not longer than `most`; then it goes
/// on. With no time at all it does not begin.
pub(crate) fn within<T: Send + 'static>(
    most: Duration,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unanswered> {
    if most.is_zero() {
        return Err(Unanswered::Late);
    }
    let (tell, told) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let _nobody_waits_any_more = tell.send(work());
        })
        .map_err(Unanswered::Thread)?;
    told.recv_timeout(most).map_err(|end| match end {
        RecvTimeoutError::Timeout => Unanswered::Late,
        RecvTimeoutError::Disconnected => Unanswered::Panicked,
    })
}
