//! In steady state a request allocates nothing on the heap: not in the runtime, not in the sandbox.
//! Where memory ends, an answer is not lost that need not be.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::ptr;
use std::sync::Arc;

use runtime::chain::{Chain, Item, NoRoom, Opening, TransferError};
use runtime::{Cacheability, Exchange, FieldError, Request, Reservation, Severity, Side, Threads};
use support::program_with;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Nothing of that size is to be had.
    static REFUSED: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn count() {
    // A thread that ends may free and allocate after its counter is gone.
    let _gone = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

fn is_refused(size: usize) -> bool {
    REFUSED.try_with(|least| size >= least.get()) == Ok(true)
}

// SAFETY: all work is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        if is_refused(layout.size()) {
            return ptr::null_mut();
        }
        // SAFETY: the caller's promise is the one that `alloc` needs.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the one that `dealloc` needs.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        if is_refused(size) {
            return ptr::null_mut();
        }
        // SAFETY: the caller's promise is the one that `realloc` needs.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A transaction that allocates nothing itself.
struct Silent;

impl Exchange for Silent {
    fn visit_request_headers(&self, visit: &mut dyn FnMut(&[u8])) {
        visit(b"Host: example.com");
    }

    fn method(&self) -> &[u8] {
        b"GET"
    }

    fn find(&self, _: Side, _: &[u8]) -> Option<&[u8]> {
        None
    }

    fn append(&mut self, _: Side, _: &[u8]) -> Result<u32, FieldError> {
        Ok(0)
    }

    fn set(&mut self, _: Side, _: &[u8]) -> Result<u32, FieldError> {
        Ok(0)
    }

    fn unset(&mut self, _: Side, _: &[u8]) -> u32 {
        0
    }

    fn set_cacheable(&mut self, _: Cacheability) -> bool {
        true
    }

    fn forget_lifetime(&mut self) {}

    fn log(&mut self, _: Severity, _: &[u8]) {}
}

#[test]
fn a_request_in_steady_state_allocates_nothing() {
    for (name, threads) in [
        ("hello", Threads::Callers),
        ("hello", Threads::Own),
        ("request", Threads::Callers),
        ("hello_rust", Threads::Callers),
    ] {
        let program = program_with(name, threads, |recipe| recipe.concurrency = 1);
        let request = Request {
            method: b"GET",
            url: b"/some/url",
            argument: b"arg",
            content_type: b"",
        };
        let mut part = [0; 1024];
        let mut serve = || {
            let mut reservation = program.reserve().unwrap();
            let response = reservation.handle(&request, &mut Silent);
            assert_eq!(response.status, 200, "{name}");
            assert!(reservation.pull(&mut part).unwrap() > 0);
        };
        for _ in 0..10 {
            serve();
        }
        let before = ALLOCATIONS.get();
        for _ in 0..100 {
            serve();
        }
        assert_eq!(ALLOCATIONS.get() - before, 0, "{name} {threads:?}");
    }
}

#[test]
fn an_answer_is_lost_for_want_of_memory_only_where_some_of_it_was_read() {
    const SIZE: u64 = 1_000_000;
    let program = program_with("stream", Threads::AsHostLikes, |recipe| {
        recipe.concurrency = 1
    });
    let chain = Chain::of(Item::Program {
        program: Arc::clone(&program),
        url: format!("/{SIZE}").into_bytes().into(),
        argument: b"".as_slice().into(),
    });
    let opening = Opening {
        method: b"GET",
        content_type: b"",
        last_method: None,
    };
    let mut no_body = |_: &mut Reservation, _: &mut dyn Exchange| Ok::<(), Infallible>(());
    for (refused, lost) in [(64 << 10, false), (128 << 10, true)] {
        let mut outcome = chain.run(opening, &mut no_body, &mut Silent).unwrap();
        REFUSED.set(refused);
        let result = outcome.detach(&mut Silent);
        REFUSED.set(usize::MAX);
        assert!(
            matches!(
                result,
                Err(TransferError::NoRoom(NoRoom::TooLarge { len: SIZE }))
            ),
            "{result:?}"
        );
        assert_eq!(outcome.reservation.is_none(), lost);
        let mut part = [0; 16_384];
        let mut read = 0;
        while let Ok(len @ 1..) = outcome.pull(&mut part) {
            read += len;
        }
        assert_eq!(read, if lost { 0 } else { 1_000_000 });
    }
}
