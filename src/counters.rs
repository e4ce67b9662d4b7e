//! The counters in `varnishstat`: one set for the process, one for each program in use.
//!
//! ```text
//! first VCL is loaded --> a thread copies the figures into shared memory, once a second
//! last VCL is discarded --> the thread ends, and takes the sets away
//! ```
//!
//! Guards: requests never write to shared memory (docs/decisions/0012-counters.md); nothing writes
//! to a set that was taken away.

use std::{
    collections::HashMap,
    ffi::CString,
    ptr::{self, NonNull},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use runtime::figures::{Segment, segments};

use crate::{
    ffi,
    guard::guard,
    log::{Tag, line},
};

/// `varnishstat` looks no more often either.
const PERIOD: Duration = Duration::from_secs(1);
/// What a program's name may take of the name of its counters.
const MAX_NAME: usize = 64;

static USERS: Mutex<Users> = Mutex::new(Users {
    vcls: 0,
    writer: None,
});

struct Users {
    vcls: usize,
    writer: Option<Writer>,
}

struct Writer {
    stop: Arc<Stop>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

/// A VCL was loaded.
pub(crate) fn open() {
    let mut users = USERS.lock();
    users.vcls = users.vcls.saturating_add(1);
    if users.writer.is_some() {
        return;
    }
    let mut sets = Sets::default();
    // At once, so that there is something to see as soon as the VCL is there.
    sets.write(segments());
    let stop = Arc::new(Stop::default());
    let heard = Arc::clone(&stop);
    let thread = thread::Builder::new()
        .name("tinykvm-figures".to_owned())
        .spawn(move || guard(None, (), || sets.write_until(&heard)));
    match thread {
        Ok(thread) => users.writer = Some(Writer { stop, thread }),
        Err(error) => {
            let text = format!("tinykvm: no counters for varnishstat: no thread: {error}");
            line(None, Tag::Error, &text);
        }
    }
}

/// A VCL is discarded.
pub(crate) fn close() {
    let mut users = USERS.lock();
    users.vcls = users.vcls.saturating_sub(1);
    if users.vcls > 0 {
        return;
    }
    if let Some(Writer { stop, thread }) = users.writer.take() {
        *stop.stopped.lock() = true;
        stop.changed.notify_one();
        let _guarded_against_panics = thread.join();
    }
}

/// The sets that `varnishstat` sees.
#[derive(Default)]
struct Sets {
    process: Option<Set>,
    programs: HashMap<String, Set>,
}

impl Sets {
    fn write_until(&mut self, stop: &Stop) {
        let mut stopped = stop.stopped.lock();
        while !*stopped {
            let _woken = stop.changed.wait_for(&mut stopped, PERIOD);
            self.write(segments());
        }
    }

    /// Programs that are not in use any more lose their sets.
    fn write(&mut self, segments: Vec<Segment>) {
        let mut old = std::mem::take(&mut self.programs);
        for Segment { program, values } in segments {
            let Some(program) = program else {
                self.process = self.process.take().or_else(|| Set::new(None));
                if let Some(set) = &self.process {
                    set.write(&values);
                }
                continue;
            };
            if let Some(set) = old.remove(&program).or_else(|| Set::new(Some(&program))) {
                set.write(&values);
                self.programs.insert(program, set);
            }
        }
    }
}

/// One set of counters in shared memory.
struct Set(NonNull<ffi::tk_counters>);

// SAFETY: varnishd makes and takes away counters on any thread, and has its own lock for that.
unsafe impl Send for Set {}

impl Set {
    /// Later, where few descriptors are left: varnishd ends where it does not get those it needs.
    fn new(program: Option<&str>) -> Option<Self> {
        if runtime::descriptors_are_scarce() {
            return None;
        }
        let name = program.map(shown);
        let name = name.as_ref().map_or(ptr::null(), |name| name.as_ptr());
        // SAFETY: null or a text that is read during the call.
        NonNull::new(unsafe { ffi::tk_counters_new(name) }).map(Self)
    }

    fn write(&self, values: &[u64]) {
        // SAFETY: made by `new` and not yet deleted; as many values as said, read in the call.
        unsafe { ffi::tk_counters_write(self.0.as_ptr(), values.as_ptr(), values.len()) };
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        // SAFETY: made by `new`, deleted once.
        unsafe { ffi::tk_counters_delete(self.0.as_ptr()) };
    }
}

/// A program's name as part of the names of its counters, which are words with dots between them.
fn shown(program: &str) -> CString {
    let plain = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => byte,
        _ => b'_',
    };
    let bytes: Vec<u8> = program.bytes().take(MAX_NAME).map(plain).collect();
    // There is no NUL in it.
    CString::new(bytes).unwrap_or_default()
}
