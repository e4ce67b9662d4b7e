//! CPU time of guest calls.
//!
//! A look at a thread's CPU clock is a system call, and a costly one (clock_getcpuclockid(3): it is
//! not in the vDSO). Most requests exit once, with their answer, and do without: until a guest's
//! first exit it can have waited for nothing but a CPU, so what elapsed until then is taken for CPU
//! time. From there on the CPU clock counts, whatever the guest has the host wait for.

use std::time::{Duration, Instant};

use crate::clock;

#[derive(Debug)]
pub(crate) struct Stopwatch {
    begun: Instant,
    /// What had elapsed at the first exit, and the thread's CPU clock there.
    exited: Option<(Duration, Duration)>,
}

impl Stopwatch {
    /// A call begins.
    pub(crate) fn start() -> Self {
        Self {
            begun: Instant::now(),
            exited: None,
        }
    }

    /// The guest has come out, and what comes next may wait.
    pub(crate) fn exit(&mut self) {
        if self.exited.is_none() {
            self.exited = Some((self.begun.elapsed(), thread_cpu_time()));
        }
    }

    /// CPU time since the start. The same thread reads it.
    pub(crate) fn read(&self) -> Duration {
        match self.exited {
            None => self.begun.elapsed(),
            Some((elapsed, clock)) => elapsed + thread_cpu_time().saturating_sub(clock),
        }
    }
}

fn thread_cpu_time() -> Duration {
    clock::read(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const NAP: Duration = Duration::from_millis(50);

    fn work(time: Duration) {
        let begun = thread_cpu_time();
        while thread_cpu_time().saturating_sub(begun) < time {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn waiting_behind_the_first_exit_is_not_cpu_time_and_work_is() {
        let mut stopwatch = Stopwatch::start();
        stopwatch.exit();
        let before = stopwatch.read();
        thread::sleep(NAP);
        stopwatch.exit();
        let slept = stopwatch.read();
        work(NAP);
        let worked = stopwatch.read();
        assert!(slept - before < NAP, "{:?}", slept - before);
        assert!(worked - slept >= NAP, "{:?}", worked - slept);
    }

    #[test]
    fn a_call_without_another_exit_costs_what_elapsed() {
        let stopwatch = Stopwatch::start();
        work(NAP);
        assert!(stopwatch.read() >= NAP);
    }
}
