//! Ends runs that take too long. One thread for the process looks at all running VMs; a request
//! arms its VM's watch with two stores and needs no timer of its own.
//!
//! A kick is `immediate_exit` plus a signal. Both may arrive late, when the VM already runs its
//! next request: the watch's state says which run was meant, and a run that finds itself
//! interrupted without having been kicked just goes on.
//!
//! ```text
//!            arm(generation + 1)                kick (deadline thread, compare-and-swap)
//!   idle ------------------------> running ------------------------> kicked
//!     ^                               |                                 |
//!     +------------- disarm ----------+------------- disarm ------------+
//! ```

use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// The precision of deadlines.
const TICK: Duration = Duration::from_millis(1);
/// How long the thread sleeps at most; bounds how long it outlives the last VM.
const NAP: Duration = Duration::from_secs(10);
/// How long a VM has to look at its memory before it is asked again. One that waits in a host call
/// cannot, and must not be woken up all the time.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// The thread is awake: whoever arms a watch wakes it once more.
const AWAKE: u64 = u64::MAX;

const IDLE: u64 = 0;
const RUNNING: u64 = 1;
const KICKED: u64 = 2;
const STATE_MASK: u64 = 3;

/// One VM as the deadline thread sees it.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Generation of the run in the upper bits, IDLE, RUNNING or KICKED in the lowest two.
    state: AtomicU64,
    /// When the run must have ended, in nanoseconds since the thread's start.
    deadline: AtomicU64,
    /// When the run is interrupted once, without being ended, to look at its memory.
    memory_check: AtomicU64,
    thread: AtomicI32,
    /// `immediate_exit` of the VM's `kvm_run` page; null once the VM is gone.
    immediate_exit: AtomicPtr<u8>,
    deadlines: Weak<Deadlines>,
}

/// The deadline thread and the VMs it looks after.
#[derive(Debug)]
pub(crate) struct Deadlines {
    started: Instant,
    watches: Mutex<Vec<Arc<Watch>>>,
    wake: Condvar,
    /// When the thread is going to look again, or AWAKE.
    next_look: AtomicU64,
}

impl Deadlines {
    /// Installs the signal handler and starts the thread.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        install_handler()?;
        let deadlines = Arc::new(Self {
            started: Instant::now(),
            watches: Mutex::new(Vec::new()),
            wake: Condvar::new(),
            next_look: AtomicU64::new(AWAKE),
        });
        let weak = Arc::downgrade(&deadlines);
        std::thread::Builder::new()
            .name("tinykvm-deadline".into())
            .stack_size(64 << 10)
            .spawn(move || {
                while let Some(deadlines) = weak.upgrade() {
                    deadlines.look();
                }
            })?;
        Ok(deadlines)
    }

    /// A watch for a VM whose `immediate_exit` byte is at `flag`, for as long as it is held.
    pub(crate) fn watch(self: &Arc<Self>, flag: *mut u8) -> Watched {
        let watch = Arc::new(Watch {
            state: AtomicU64::new(IDLE),
            deadline: AtomicU64::new(u64::MAX),
            memory_check: AtomicU64::new(u64::MAX),
            thread: AtomicI32::new(0),
            immediate_exit: AtomicPtr::new(flag),
            deadlines: Arc::downgrade(self),
        });
        self.watches.lock().push(Arc::clone(&watch));
        Watched(watch)
    }

    /// Looks at the watches once and sleeps until the next one is due, or until one is armed that is
    /// due before that.
    fn look(&self) {
        let mut watches = self.watches.lock();
        // Before the look, so that who arms a watch behind the thread's back sees it and wakes it.
        self.next_look.store(AWAKE, Ordering::SeqCst);
        let now = self.now();
        let due = watches.iter().filter_map(|watch| watch.check(now)).min();
        let wait = due.map_or(NAP, |due| Duration::from_nanos(due.saturating_sub(now)));
        let wait = wait.clamp(TICK, NAP);
        self.next_look.store(self.after(wait), Ordering::SeqCst);
        self.wake.wait_for(&mut watches, wait);
    }

    /// A run is due at `due`: makes sure that the thread looks by then.
    fn look_by(&self, due: u64) {
        if due < self.next_look.load(Ordering::SeqCst) {
            // With the lock: the thread is either asleep or going to look anyway.
            let _asleep = self.watches.lock();
            self.wake.notify_one();
        }
    }

    fn after(&self, delay: Duration) -> u64 {
        self.now().saturating_add(nanoseconds(delay))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Holds a VM's watch. Must be dropped before the VM's `kvm_run` page goes.
#[derive(Debug)]
pub(crate) struct Watched(Arc<Watch>);

impl Deref for Watched {
    type Target = Watch;

    fn deref(&self) -> &Watch {
        &self.0
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(deadlines) = self.0.deadlines.upgrade() {
            // The lock keeps the deadline thread out while the pointer goes.
            let mut watches = deadlines.watches.lock();
            watches.retain(|watch| !Arc::ptr_eq(watch, &self.0));
            self.0
                .immediate_exit
                .store(std::ptr::null_mut(), Ordering::SeqCst);
        }
    }
}

impl Watch {
    /// Starts a run on the calling thread that must end by `deadline`, and whose memory is looked
    /// at for the first time after `memory_check`.
    pub(crate) fn arm(&self, deadline: Instant, memory_check: Duration) {
        let Some(deadlines) = self.deadlines.upgrade() else {
            return;
        };
        let at = deadline
            .saturating_duration_since(deadlines.started)
            .as_nanos();
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        let memory_check = deadlines.after(memory_check);
        self.deadline.store(at, Ordering::Relaxed);
        self.memory_check.store(memory_check, Ordering::Relaxed);
        self.thread.store(thread_id(), Ordering::Relaxed);
        let generation = self.state.load(Ordering::Relaxed) >> 2;
        self.state.store(
            (generation.wrapping_add(1) << 2) | RUNNING,
            Ordering::SeqCst,
        );
        deadlines.look_by(at.min(memory_check));
    }

    /// The run's memory was looked at; do it again after `delay`.
    pub(crate) fn check_memory_in(&self, delay: Duration) {
        if let Some(deadlines) = self.deadlines.upgrade() {
            let at = deadlines.after(delay);
            self.memory_check.store(at, Ordering::SeqCst);
            deadlines.look_by(at);
        }
    }

    /// Whether the current run was told to stop.
    pub(crate) fn kicked(&self) -> bool {
        self.state.load(Ordering::SeqCst) & STATE_MASK == KICKED
    }

    /// Ends the run. True: it had been told to stop.
    pub(crate) fn disarm(&self) -> bool {
        self.state.fetch_and(!STATE_MASK, Ordering::SeqCst) & STATE_MASK == KICKED
    }

    /// Kicks the run if it is overdue, interrupts it if its memory is to be looked at. When to look
    /// at it next, if there is a run.
    fn check(&self, now: u64) -> Option<u64> {
        let state = self.state.load(Ordering::SeqCst);
        if state & STATE_MASK == IDLE {
            return None;
        }
        let deadline = self.deadline.load(Ordering::Relaxed);
        let memory_check = self.memory_check.load(Ordering::Relaxed);
        if now >= deadline {
            let kicked = (state & !STATE_MASK) | KICKED;
            let swap =
                self.state
                    .compare_exchange(state, kicked, Ordering::SeqCst, Ordering::SeqCst);
            // A run that ended meanwhile is not kicked; one that was kicked already and still runs
            // gets the signal again.
            if swap.is_ok() {
                self.interrupt();
            }
        } else if now >= memory_check {
            let again = now.saturating_add(nanoseconds(LOOK_AGAIN));
            // A VM that looks just now says itself when the next time is.
            let swap = self.memory_check.compare_exchange(
                memory_check,
                again,
                Ordering::SeqCst,
                Ordering::SeqCst,
            );
            self.interrupt();
            return Some(deadline.min(swap.map_or_else(|theirs| theirs, |_| again)));
        }
        Some(deadline.min(memory_check))
    }

    /// Makes KVM_RUN return. Harmless when it comes late.
    fn interrupt(&self) {
        let flag = self.immediate_exit.load(Ordering::SeqCst);
        if !flag.is_null() {
            // SAFETY: the page lives until `Watched` is dropped, which needs the lock that our
            // caller holds;
            // KVM and the VM's thread only ever access this byte as a flag.
            unsafe { flag.write_volatile(1) };
        }
        kick(self.thread.load(Ordering::Relaxed));
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The signal that kicks VCPUs: in the middle of the real-time range, which nobody else uses here.
fn signal() -> i32 {
    libc::SIGRTMIN() + 7
}

fn install_handler() -> io::Result<()> {
    extern "C" fn nothing(_signal: i32) {}
    // SAFETY: an all-zero sigaction is a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = (nothing as extern "C" fn(i32)) as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: installs an empty handler for a signal of ours.
    if unsafe { libc::sigaction(signal(), &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn kick(thread: i32) {
    // SAFETY: a system call without arguments.
    let process = unsafe { libc::getpid() };
    // SAFETY: the signal has a handler; a thread that is gone makes the call fail with ESRCH.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal()) };
}

/// This thread's id, asked of the kernel once per thread.
fn thread_id() -> i32 {
    thread_local! {
        // SAFETY: a system call without arguments.
        static ID: i32 = unsafe { libc::gettid() };
    }
    ID.with(|id| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overdue_run_is_kicked_and_the_next_one_is_not() {
        let deadlines = Deadlines::start().unwrap();
        let mut flag = 0_u8;
        let watch = deadlines.watch(&raw mut flag);
        watch.arm(Instant::now(), Duration::MAX);
        while !watch.kicked() {
            std::thread::yield_now();
        }
        assert!(watch.disarm());
        watch.arm(Instant::now() + Duration::from_secs(3600), Duration::MAX);
        assert!(!watch.kicked());
        assert!(!watch.disarm());
    }

    #[test]
    fn a_vm_that_waits_in_a_host_call_is_left_alone_for_a_while() {
        let deadlines = Deadlines::start().unwrap();
        let mut flag = 0_u8;
        let watch = deadlines.watch(&raw mut flag);
        watch.arm(deadlines.started + NAP, Duration::ZERO);
        // As the thread does, which may have done so before.
        let (now, long) = (deadlines.now(), nanoseconds(LOOK_AGAIN));
        let next = watch.check(now).unwrap();
        assert!(next > now && next <= now + long, "{next} after {now}");
        assert!(!watch.kicked());
        // It looks at last, and says when it does so again.
        watch.check_memory_in(Duration::from_secs(1));
        let next = watch.check(now + long).unwrap();
        assert!(next > now + long);
    }

    #[test]
    fn a_run_that_starts_while_the_thread_sleeps_is_kicked_too() {
        let deadlines = Deadlines::start().unwrap();
        while deadlines.next_look.load(Ordering::SeqCst) < deadlines.after(NAP / 2)
            || deadlines.next_look.load(Ordering::SeqCst) == AWAKE
        {
            std::thread::yield_now();
        }
        let mut flag = 0_u8;
        let watch = deadlines.watch(&raw mut flag);
        watch.arm(Instant::now(), Duration::MAX);
        while !watch.kicked() {
            std::thread::yield_now();
        }
    }
}
