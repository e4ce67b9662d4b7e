//! The thread of its own that a slot has where a virtual CPU may not change threads.
//!
//! Two ways to use it: `run` has a closure executed there while the caller waits; `post` leaves an
//! errand there and waits for nothing. Guards: the closure is never touched after `run` returned.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};

/// Work that a thread does without anyone waiting for it.
pub(crate) trait Errand: Send + 'static {
    fn run(self);
}

pub(crate) struct Runner<E> {
    desk: Arc<Desk<E>>,
    thread: Option<JoinHandle<()>>,
}

struct Desk<E> {
    order: Mutex<Order<E>>,
    ordered: Condvar,
    finished: Condvar,
}

enum Order<E> {
    None,
    Run(Job),
    Done(Option<Box<dyn Any + Send>>),
    Errand(E),
    Stop,
}

/// A closure on the stack of a caller who waits in `run`.
struct Job(*mut (dyn FnMut() + Send));

// SAFETY: the closure is Send, and its owner does not touch it until the thread says Done.
unsafe impl Send for Job {}

impl<E: Errand> Runner<E> {
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let desk = Arc::new(Desk {
            order: Mutex::new(Order::None),
            ordered: Condvar::new(),
            finished: Condvar::new(),
        });
        let thread = thread::Builder::new().name(name.to_owned()).spawn({
            let desk = Arc::clone(&desk);
            move || work(&desk)
        })?;
        Ok(Self {
            desk,
            thread: Some(thread),
        })
    }

    /// The way to order work that a caller may keep while the slot itself is borrowed by the work.
    pub(crate) fn orders(&self) -> Orders<E> {
        Orders(Arc::clone(&self.desk))
    }
}

/// Access to a runner's thread.
pub(crate) struct Orders<E>(Arc<Desk<E>>);

impl<E: Errand> Orders<E> {
    /// Has `job` executed on the thread and waits for its end. A panic there continues here.
    pub(crate) fn run<R: Send>(&self, job: impl FnOnce() -> R + Send) -> Option<R> {
        let mut job = Some(job);
        let mut result = None;
        let mut shell = || {
            if let Some(job) = job.take() {
                result = Some(job());
            }
        };
        self.run_erased(&mut shell);
        result
    }

    fn run_erased(&self, shell: &mut (dyn FnMut() + Send + '_)) {
        let shell: *mut (dyn FnMut() + Send + '_) = shell;
        // SAFETY: only the lifetime changes. This function does not return before the thread
        // has said Done, after which the thread does not use the pointer.
        let shell: *mut (dyn FnMut() + Send + 'static) = unsafe { std::mem::transmute(shell) };
        let mut order = self.0.order.lock();
        *order = Order::Run(Job(shell));
        self.0.ordered.notify_one();
        loop {
            self.0.finished.wait(&mut order);
            if let Order::Done(_) = *order {
                break;
            }
        }
        let done = std::mem::replace(&mut *order, Order::None);
        drop(order);
        if let Order::Done(Some(panic)) = done {
            resume_unwind(panic);
        }
    }

    /// Leaves an errand for the thread.
    pub(crate) fn post(&self, errand: E) {
        let mut order = self.0.order.lock();
        *order = Order::Errand(errand);
        self.0.ordered.notify_one();
    }
}

fn work<E: Errand>(desk: &Desk<E>) {
    loop {
        let order = {
            let mut order = desk.order.lock();
            loop {
                match std::mem::replace(&mut *order, Order::None) {
                    Order::None => {}
                    // The caller has not yet picked it up.
                    done @ Order::Done(_) => *order = done,
                    wanted => break wanted,
                }
                desk.ordered.wait(&mut order);
            }
        };
        match order {
            Order::Run(job) => {
                let result = catch_unwind(AssertUnwindSafe(|| {
                    // SAFETY: the caller in `run_erased` keeps the closure until it sees Done.
                    let shell = unsafe { &mut *job.0 };
                    shell();
                }));
                *desk.order.lock() = Order::Done(result.err());
                desk.finished.notify_one();
            }
            Order::Errand(errand) => {
                // The panic hook has reported it; what the errand owned is gone with it.
                let _panicked = catch_unwind(AssertUnwindSafe(|| errand.run()));
            }
            Order::Stop => return,
            Order::None | Order::Done(_) => {}
        }
    }
}

impl<E> Drop for Runner<E> {
    fn drop(&mut self) {
        *self.desk.order.lock() = Order::Stop;
        self.desk.ordered.notify_one();
        if let Some(thread) = self.thread.take() {
            // An errand may drop the last owner of its own thread: that one ends by itself.
            if thread.thread().id() != thread::current().id() {
                let _ended = thread.join();
            }
        }
    }
}

impl<E> fmt::Debug for Runner<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Say(mpsc::Sender<thread::ThreadId>);

    impl Errand for Say {
        fn run(self) {
            self.0.send(thread::current().id()).unwrap();
        }
    }

    struct Own(Option<Runner<Own>>, mpsc::Sender<()>);

    impl Errand for Own {
        fn run(mut self) {
            self.0 = None;
            self.1.send(()).unwrap();
        }
    }

    #[test]
    fn work_runs_on_one_other_thread_and_may_borrow_from_the_caller() {
        let runner = Runner::<Say>::start("test").unwrap();
        let mut text = String::from("a");
        let here = thread::current().id();
        let there = runner.orders().run(|| {
            text.push('b');
            thread::current().id()
        });
        let again = runner.orders().run(|| thread::current().id());
        assert_eq!(text, "ab");
        assert_ne!(there, Some(here));
        assert_eq!(there, again);
        let (say, heard) = mpsc::channel();
        runner.orders().post(Say(say));
        assert_eq!(heard.recv().ok(), there);
    }

    #[test]
    fn many_orders_in_a_row_are_all_done_once() {
        let runner = Runner::<Say>::start("test").unwrap();
        let orders = runner.orders();
        let mut count = 0;
        for _ in 0..20_000 {
            orders.run(|| count += 1);
        }
        assert_eq!(count, 20_000);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_thread_lives_on() {
        let runner = Runner::<Say>::start("test").unwrap();
        let orders = runner.orders();
        let caught = catch_unwind(AssertUnwindSafe(|| orders.run(|| panic!("of the test"))));
        assert!(caught.is_err());
        assert_eq!(orders.run(|| 5), Some(5));
    }

    #[test]
    fn an_errand_may_drop_its_own_runner() {
        let runner = Runner::start("test").unwrap();
        let orders = runner.orders();
        let (said, heard) = mpsc::channel();
        orders.post(Own(Some(runner), said));
        heard.recv().unwrap();
    }
}
