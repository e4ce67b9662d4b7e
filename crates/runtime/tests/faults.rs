//! What a guest does wrong costs its own request and nothing else.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use runtime::{
    Binaries, Cacheability, Exchange, FieldError, Program, Recipe, Recorded, Request, ReserveError,
    Severity, Side, Source, Threads,
};
use support::{BOTH, Fixed, get, get_with, post, program, program_with};

#[test]
fn on_error_answers_with_the_reason() {
    for threads in BOTH {
        let program = program_with("on_error", threads, |recipe| {
            recipe.max_request_time = Duration::from_millis(300);
        });
        assert_eq!(get(&program, "/").text(), "fine");
        for (url, reason) in [
            ("/null", "page fault"),
            ("/loop", "timed out"),
            ("/silent", "returned without a response"),
            ("/status", "response status 99"),
        ] {
            let reply = get_with(&program, url, "arg", Recorded::new("GET", &[]));
            assert_eq!(reply.status(), 503, "{url}: {}", reply.log());
            let text = reply.text();
            assert!(
                text.contains(&format!("url={url}\narg=arg\nreason=")),
                "{text}"
            );
            assert!(text.contains(reason), "{text}");
            assert!(reply.log().contains(reason), "{}", reply.log());
            assert_eq!(reply.response.exceptions, 1);
            assert_eq!(reply.response.timeouts, u32::from(url == "/loop"));
        }
        assert_eq!(get(&program, "/").text(), "fine");
    }
}

#[test]
fn on_error_answers_also_where_a_request_has_used_more_memory_than_it_may() {
    let program = program_with("on_error", Threads::AsHostLikes, |recipe| {
        recipe.max_request_memory = 8 << 20;
    });
    for _ in 0..3 {
        let reply = get(&program, "/memory");
        assert_eq!(reply.status(), 503, "{}", reply.log());
        assert!(reply.text().contains("out of memory"), "{}", reply.text());
    }
}

#[test]
fn a_second_fault_in_on_error_is_a_plain_500_within_its_second() {
    let program = program_with("on_error", Threads::AsHostLikes, |recipe| {
        recipe.max_request_time = Duration::from_millis(300);
    });
    for url in [
        "/null?twice",
        "/loop?twice",
        "/silent?twice",
        "/status?twice",
    ] {
        let begun = Instant::now();
        let reply = get(&program, url);
        assert_eq!((reply.status(), reply.body.len()), (500, 0), "{url}");
        assert!(reply.response.content_type.is_empty());
        assert_eq!(reply.response.exceptions, 2);
        assert!(begun.elapsed() < Duration::from_secs(4), "{url}");
    }
    assert_eq!(get(&program, "/").text(), "fine");
}

#[test]
fn the_lifetime_of_a_call_that_failed_is_not_that_of_what_is_answered_instead() {
    for threads in BOTH {
        let program = program_with("on_error", threads, |recipe| {
            recipe.max_request_time = Duration::from_millis(300);
        });
        let lifetime = |url: &str, status| {
            let reply = get(&program, url);
            assert_eq!(reply.status(), status, "{url}: {}", reply.log());
            let how = reply.exchange.cacheability;
            how.map(|how| (how.cacheable, how.ttl.as_secs()))
        };
        for (url, status, expected) in [
            ("/?lifetime", 200, Some((true, 3600))),
            ("/null?lifetime", 503, None),
            ("/loop?lifetime&ok", 200, None),
            ("/silent?lifetime&own", 503, Some((true, 10))),
            ("/status?twice&lifetime&own", 500, None),
            // What was not for the cache still is not.
            ("/null?private&ok", 200, Some((false, 0))),
            ("/null?twice&private", 500, Some((false, 0))),
        ] {
            assert_eq!(lifetime(url, status), expected, "{url}");
        }
    }
    // Without a callback for errors.
    let answer = get(&program("answer"), "/?ttl=3600,1,1&status=99");
    assert_eq!((answer.status(), answer.exchange.cacheability), (500, None));
}

#[test]
fn every_kind_of_fault_is_a_500_that_says_why_and_the_vm_serves_on() {
    let hostile = program_with("hostile", Threads::AsHostLikes, |recipe| {
        recipe.max_request_time = Duration::from_millis(500);
        recipe.concurrency = 1;
    });
    for (url, reason) in [
        ("/null", "page fault (#PF)"),
        ("/loop", "timed out (max_request_time)"),
        ("/return", "returned without a response"),
        ("/ud2", "invalid opcode (#UD)"),
        ("/div0", "divide error (#DE)"),
        ("/hlt", "general protection fault (#GP)"),
        ("/cli", "general protection fault (#GP)"),
        ("/overflow", "stack overflow"),
        ("/exit/3", "exited with status 3"),
        ("/read/12000", "page fault (#PF)"),
        ("/write/ffffffff80000000", "page fault (#PF)"),
        ("/jump/7fff00000000", "page fault (#PF)"),
        ("/stack-code", "page fault (#PF)"),
        ("/data-code", "page fault (#PF)"),
        ("/write-text", "page fault (#PF)"),
        ("/status/63", "response status 99"),
        ("/status/ffff", "response status -1"),
        ("/type/1000", "too long"),
        ("/body/12000/10", "not mapped"),
        ("/body/400000/ffffffffffffffff", "not mapped"),
        ("/extra/1", "not mapped"),
        ("/headers/0/1", "not mapped"),
        ("/headers/400000/41", "65 extra headers"),
    ] {
        let reply = get(&hostile, url);
        assert_eq!(
            reply.status(),
            500,
            "{url}: {} {}",
            reply.text(),
            reply.log()
        );
        assert!(reply.log().contains(reason), "{url}: {}", reply.log());
        let fine = get(&hostile, "/fine");
        assert_eq!(
            fine.text(),
            "survived /fine\n",
            "after {url}: {}",
            fine.log()
        );
    }
    let stats = hostile.statistics().unwrap();
    assert_eq!(stats["program"]["machines_poisoned"], 0, "{stats}");
}

#[test]
fn memory_without_end_ends_the_request_near_its_limit() {
    let hostile = program_with("hostile", Threads::AsHostLikes, |recipe| {
        recipe.max_request_memory = 16 << 20;
        recipe.concurrency = 1;
    });
    for url in ["/memory", "/malloc"] {
        let reply = get(&hostile, url);
        assert!(
            reply.status() == 500 || reply.text().contains("failed"),
            "{url}: {}",
            reply.text()
        );
        assert_eq!(get(&hostile, "/fine").text(), "survived /fine\n");
    }
}

#[test]
fn wild_values_in_every_hypercall_harm_nobody() {
    let hostile = program_with("hostile", Threads::AsHostLikes, |recipe| {
        recipe.max_request_time = Duration::from_secs(5);
        recipe.concurrency = 1;
    });
    let numbers = (0x10000..0x10040)
        .chain(0x10100..0x10101)
        .chain(0x10500..0x10501);
    let numbers = numbers
        .chain(0x10700..0x10714)
        .chain([0x10a00, 0x20000, 0x20001]);
    let numbers: Vec<u32> = numbers.chain([0x7f000, 0x7f7f7, 0x7fdeb]).collect();
    for value in [
        0_u64,
        1,
        0xfff,
        0x12000,
        0x40_0000,
        0x7fff_ffff,
        0x8000_0000_0000,
        u64::MAX,
    ] {
        for number in &numbers {
            let v = format!("{value:x}");
            let reply = get(
                &hostile,
                &format!("/call/{number:x}/{v}/{v}/{v}/{v}/{v}/{v}"),
            );
            assert!(
                matches!(reply.status(), 200 | 500),
                "{number:#x} {value:#x}"
            );
        }
    }
    assert_eq!(get(&hostile, "/fine").text(), "survived /fine\n");
    assert_eq!(
        hostile.statistics().unwrap()["program"]["machines_poisoned"],
        0
    );
}

#[test]
fn a_guest_cannot_flood_the_log() {
    let hostile = program("hostile");
    for url in ["/log/2710", "/stderr/2710"] {
        let reply = get(&hostile, url);
        assert_eq!(reply.status(), 200, "{}", reply.log());
        let said = reply.log().matches("hostile says: ").count();
        assert!((250..=257).contains(&said), "{said}");
    }
}

#[test]
fn every_line_that_a_request_leaves_in_the_log_names_its_program() {
    let hostile = program_with("hostile", Threads::AsHostLikes, |recipe| {
        recipe.voice.system_calls = true;
    });
    for (url, told) in [
        ("/call/12345", "hostile: unknown hypercall 0x12345"),
        (
            "/call/10710",
            "hostile: multiprocess is not available in this version",
        ),
        ("/call/7f7f7", "hostile: sys_breakpoint() skipped: "),
        ("/syscall/27", "hostile: getpid("),
        ("/log/2710", "hostile says: "),
        ("/null", "hostile: page fault (#PF)"),
        ("/return", "hostile: "),
    ] {
        let log = get(&hostile, url).log();
        assert!(log.contains(told), "{url}: {log}");
        for line in log.lines() {
            let named = line.starts_with("hostile: ") || line.starts_with("hostile says: ");
            assert!(named, "{url}: {line}");
        }
    }
}

#[test]
fn others_go_on_while_a_program_misbehaves() {
    for threads in BOTH {
        let hostile = program_with("hostile", threads, |recipe| {
            recipe.max_request_time = Duration::from_millis(200);
        });
        let hello = program_with("hello", threads, |_| {});
        let stop = AtomicBool::new(false);
        let served = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        assert_eq!(get(&hello, "/").text(), "Hello World");
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for url in ["/loop", "/null", "/ud2", "/exit/1", "/return", "/loop"] {
                assert_eq!(get(&hostile, url).status(), 500, "{url}");
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(served.load(Ordering::Relaxed) > 10);
    }
}

#[test]
fn a_program_without_any_callback_does_not_start_unless_it_has_a_storage_to_work_for() {
    let alone = program("no_callback");
    let error = alone.reserve().unwrap_err().to_string();
    assert!(
        error.contains("without a callback") && error.contains("set_backend_get()"),
        "{error}"
    );
    let with_storage = program_with("no_callback", Threads::AsHostLikes, |recipe| {
        recipe.storage = true;
    });
    let reply = get(&with_storage, "/");
    assert_eq!(reply.status(), 500);
    assert!(
        reply.log().contains("no callback for requests"),
        "{}",
        reply.log()
    );
}

#[test]
fn requests_that_no_callback_takes_are_refused_in_plain_words() {
    let hello = program("hello");
    let reply = post(&hello, "/", "text/plain", b"body");
    assert_eq!(reply.status(), 500);
    assert!(
        reply.log().contains("no callback for requests with a body"),
        "{}",
        reply.log()
    );
}

#[test]
fn a_program_that_does_not_start_says_why_and_is_not_started_over_and_over() {
    struct Broken(AtomicU32);
    impl Source for Broken {
        fn recipe(&self) -> Result<Recipe, String> {
            Ok(Recipe::new("broken"))
        }

        fn binaries(&self) -> Result<Binaries, String> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Err("/no/such/file: not found".to_owned())
        }
    }
    let program = Program::new("broken", Box::new(Broken(AtomicU32::new(0))));
    for _ in 0..10 {
        match program.reserve() {
            Err(error @ ReserveError::NotStarted { .. }) => {
                assert!(error.to_string().contains("broken"), "{error}");
                assert!(error.to_string().contains("/no/such/file"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(program.failure().unwrap().contains("not found"));
    assert!(program.statistics().is_none());
}

#[test]
fn an_order_to_start_tries_again_at_once_and_requests_respect_the_pause() {
    struct Missing {
        there: Arc<AtomicBool>,
        attempts: Arc<AtomicU32>,
    }
    impl Source for Missing {
        fn recipe(&self) -> Result<Recipe, String> {
            Ok(Recipe::new("missing"))
        }

        fn binaries(&self) -> Result<Binaries, String> {
            let attempt = self.attempts.fetch_add(1, Ordering::SeqCst);
            match self.there.load(Ordering::SeqCst) {
                true => Ok(guests::elf("hello").into()),
                false => Err(format!("attempt {attempt}: not found")),
            }
        }
    }
    let (there, attempts) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let source = Missing {
        there: Arc::clone(&there),
        attempts: Arc::clone(&attempts),
    };
    let program = Program::new("missing", Box::new(source));
    // Each failure makes the pause longer: behind the third it is 4 s.
    for attempt in 0..3 {
        program.start();
        let error = program.await_serving(None).unwrap_err().to_string();
        assert!(error.contains(&format!("attempt {attempt}:")), "{error}");
    }
    there.store(true, Ordering::SeqCst);
    assert!(program.reserve().is_err());
    assert_eq!(attempts.load(Ordering::SeqCst), 3);
    program.start();
    program.await_serving(None).unwrap();
    assert_eq!(get(&program, "/").text(), "Hello World");
}

#[test]
fn programs_that_end_or_fail_before_they_wait_do_not_start() {
    let cases = [
        (
            "returns",
            "int main(void) { return 3; }",
            "exited with status 3",
        ),
        (
            "crashes",
            "int main(void) { *(volatile int *)8 = 1; }",
            ", in main+0x",
        ),
        (
            "loops",
            "int main(void) { for (;;) __asm__ volatile(\"\"); }",
            "timed out (max_boot_time, 500ms)",
        ),
        (
            "recurses",
            "__attribute__((noinline)) static int deeper(volatile char *above)\n\
             { volatile char more[1000]; *more = *above; return deeper(more) + *more; }\n\
             int main(void) { volatile char first = 1; return deeper(&first); }",
            "(the stack of main() has 4 MiB: put less on it, and what is large on the heap), in \
             deeper+0x",
        ),
        (
            "large_frame",
            "__attribute__((noinline)) static int large(void)\n\
             { volatile char all[19 << 20]; *all = 1; return *all; }\n\
             int main(void) { return large(); }",
            "(the stack of main() has 4 MiB: put less on it, and what is large on the heap), in \
             large+0x",
        ),
    ];
    for (name, text, reason) in cases {
        let path = guests::compile_text(name, text, guests::Compiler::Gcc, &[]);
        let mut recipe = Recipe::new(name);
        recipe.max_boot_time *= guests::slowness();
        if name == "loops" {
            recipe.max_boot_time = Duration::from_millis(500);
        }
        let source = Fixed {
            recipe,
            elf: std::fs::read(path).unwrap(),
        };
        let program = Program::new(name, Box::new(source));
        let error = program.reserve().unwrap_err().to_string();
        assert!(error.contains(reason), "{name}: {error}");
    }
    let source = Fixed {
        recipe: Recipe::new("junk"),
        elf: b"#!/bin/sh\n".to_vec(),
    };
    let error = Program::new("junk", Box::new(source))
        .reserve()
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("did not start: cannot load the program: not an ELF file but a script: give the program built with -static for x86-64 Linux"), "{error}");
}

/// A transaction whose implementation is broken.
struct Panics;

impl Exchange for Panics {
    fn visit_request_headers(&self, _: &mut dyn FnMut(&[u8])) {}

    fn method(&self) -> &[u8] {
        b"GET"
    }

    fn find(&self, _: Side, _: &[u8]) -> Option<&[u8]> {
        panic!("of the test, in the middle of a hypercall")
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
fn a_panic_of_ours_costs_the_vm_which_is_replaced() {
    for threads in BOTH {
        let headers = program_with("headers", threads, |recipe| recipe.concurrency = 1);
        for round in 1..=3 {
            let mut reservation = headers.reserve().unwrap();
            let request = Request {
                method: b"GET",
                url: b"/find",
                argument: b"host",
                content_type: b"",
            };
            let response = reservation.handle(&request, &mut Panics);
            assert_eq!((response.status, response.content_length), (500, 0));
            assert_eq!(reservation.pull(&mut [0; 16]), Ok(0));
            drop(reservation);
            let reply = get_with(&headers, "/method", "", Recorded::new("GET", &[]));
            assert_eq!(reply.status(), 200);
            let stats = headers.statistics().unwrap();
            assert_eq!(stats["program"]["machines_poisoned"], round);
            assert_eq!(stats["program"]["machines_made"], round + 1);
        }
    }
}

#[test]
fn a_reservation_serves_one_request() {
    let hello = program("hello");
    let mut reservation = hello.reserve().unwrap();
    let request = Request {
        method: b"GET",
        url: b"/",
        argument: b"",
        content_type: b"",
    };
    let mut exchange = Recorded::new("GET", &[]);
    assert_eq!(reservation.handle(&request, &mut exchange).status, 200);
    assert_eq!(reservation.handle(&request, &mut exchange).status, 500);
    assert_eq!(reservation.pull(&mut [0; 16]), Ok(0));
    assert!(reservation.push_body(b"late", &mut exchange).is_err());
}
