//! Requests that a main VM answers before it is frozen, so that every request VM starts with warm
//! caches: by its callbacks, or, where it waits in the middle of its code, by going on there.
//!
//! Guards: afterwards the program waits as it did before, or the caller is told to start it anew;
//! a program in the middle of a failed request is never frozen.

use std::time::{Duration, Instant};

use sandbox::{Exit, Fault, GuestVirt, MainVm, MapError, Place, Protection};
use tinykvm_sys::bytes_of;

use crate::Recorded;
use crate::hypercalls::{Desk, Entry, EntryPoints, MemoryLimits, Scene, Stage, Waiting};
use crate::random::Random;
use crate::recipe::Warming;
use crate::request_abi::{Layout, Request};
use crate::storage::Storage;

/// Room for one request's texts in the main VM, for the time of the warming.
const AREA: u64 = 64 << 10;
/// How long a program may take from its answer back to waiting.
pub(crate) const BACK_TO_WAITING: Duration = Duration::from_secs(1);
/// Fields that a warming request may set.
const MAX_FIELDS: usize = 64;

/// Why warming up ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cold {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error("no memory for warm-up requests: {0}")]
    NoMemory(#[from] MapError),
    #[error("the warm-up request does not fit: {0}")]
    TooBig(String),
    #[error("the program did not answer a warm-up request")]
    NoAnswer,
    #[error("the program did not wait for the next request")]
    DidNotWait,
    #[error("the program has no callback for requests without a body")]
    NoCallback,
}

/// What is needed besides the VM.
pub(crate) struct Warmer<'a> {
    pub(crate) warming: &'a Warming,
    pub(crate) entry: &'a mut EntryPoints,
    pub(crate) desk: &'a mut Desk,
    pub(crate) limits: &'a MemoryLimits,
    pub(crate) storage: Option<&'a Storage>,
    pub(crate) max_request_time: Duration,
    /// For all requests together.
    pub(crate) max_time: Duration,
}

impl Warmer<'_> {
    /// Has the program answer requests: how many. After an error it must not be frozen.
    pub(crate) fn run(&mut self, main: &mut MainVm) -> Result<u32, Cold> {
        let area = main
            .memory_mut()
            .map(Place::Anywhere, AREA, Protection::READ_WRITE)?;
        let mut answered = 0;
        let (mut fastest, mut since_fastest) = (Duration::MAX, 0);
        let most = if self.warming.exact {
            self.warming.requests
        } else {
            u32::MAX
        };
        let end = Instant::now() + self.max_time;
        while answered < most && since_fastest < self.warming.requests && Instant::now() < end {
            let begun = Instant::now();
            self.one(main, area)?;
            answered += 1;
            if !self.warming.exact {
                since_fastest += 1;
                if begun.elapsed() < fastest {
                    fastest = begun.elapsed();
                    since_fastest = 0;
                }
            }
        }
        main.memory_mut().unmap(area, AREA)?;
        Ok(answered)
    }

    fn one(&mut self, main: &mut MainVm, area: GuestVirt) -> Result<(), Cold> {
        let waiting = self.entry.waiting().ok_or(Cold::DidNotWait)?;
        let mut exchange = self.exchange();
        let method = exchange.method.clone();
        let request = Request {
            method: &method,
            url: &self.warming.url,
            argument: b"",
            content_type: b"",
        };
        let too_big = |error: &dyn std::fmt::Display| Cold::TooBig(error.to_string());
        let mut layout = Layout::for_warming();
        let strings = layout.strings(&request);
        layout.headers(&exchange).map_err(|error| too_big(&error))?;
        if u64::try_from(layout.complete_len()).unwrap_or(u64::MAX) > AREA {
            return Err(Cold::TooBig(format!("more than {AREA} bytes")));
        }
        let random = Random::new().pair().map_err(|error| too_big(&error))?;
        let (whole, shown) = layout
            .complete(area, strings, &request, None, random)
            .map_err(|error| too_big(&error))?;
        let memory = main.memory_mut();
        memory.write(area, layout.bytes()).map_err(Fault::from)?;
        self.desk.answer.reset();
        match waiting {
            Waiting::Paused { request: place } => {
                memory.write(place, bytes_of(&shown)).map_err(Fault::from)?;
                self.entry.goes_on();
                self.step(main, &mut exchange, self.max_request_time)?;
            }
            Waiting::ForCallbacks => {
                let at = strings.at(area);
                let (function, arguments) =
                    match (self.entry.get(Entry::Request), self.entry.get(Entry::Get)) {
                        (Some(function), _) => (function, [whole, 0]),
                        (None, Some(function)) => (function, [at.url, at.argument]),
                        (None, None) => return Err(Cold::NoCallback),
                    };
                self.run_within(self.max_request_time, &mut exchange, |deadline, scene| {
                    main.call(function, &arguments, deadline, scene)
                })?;
            }
        }
        if self.desk.answer.status().is_none() {
            return Err(Cold::NoAnswer);
        }
        self.desk.answer.reset();
        if let Waiting::Paused { .. } = waiting {
            self.step(main, &mut exchange, BACK_TO_WAITING)?;
        }
        if self.entry.waiting().is_none() {
            return Err(Cold::DidNotWait);
        }
        Ok(())
    }

    /// Runs the program until it answers or waits.
    fn step(
        &mut self,
        main: &mut MainVm,
        exchange: &mut Recorded,
        time: Duration,
    ) -> Result<(), Cold> {
        self.run_within(time, exchange, |deadline, scene| main.run(deadline, scene))
    }

    fn run_within(
        &mut self,
        time: Duration,
        exchange: &mut Recorded,
        run: impl FnOnce(Instant, &mut Scene<'_>) -> Result<Exit, Fault>,
    ) -> Result<(), Cold> {
        let mut scene = Scene {
            stage: Stage::Warming {
                exchange,
                entry: self.entry,
            },
            desk: self.desk,
            limits: self.limits,
            storage: self.storage,
        };
        match run(Instant::now() + time, &mut scene)? {
            Exit::Stopped(_) => Ok(()),
            Exit::Returned { .. } => Err(Cold::NoAnswer),
        }
    }

    fn exchange(&self) -> Recorded {
        Recorded {
            method: self.warming.method.clone(),
            request: self.warming.headers.clone(),
            max_fields: MAX_FIELDS,
            ..Recorded::new("GET", &[])
        }
    }
}
