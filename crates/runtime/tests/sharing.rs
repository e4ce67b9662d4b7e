//! Many requests at once, one VM after another's request, one instance after another.

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use runtime::{
    Binaries, Deadline, Limit, Patience, Phase, Program, Recipe, Recorded, ReserveError, Source,
    Threads, Warming,
};
use support::{BOTH, Fixed, get, post, program_with};

#[test]
fn more_callers_than_vms_are_all_answered_with_their_own_answer() {
    for threads in BOTH {
        let echo = program_with("echo", threads, |recipe| recipe.concurrency = 3);
        thread::scope(|scope| {
            for caller in 0..12 {
                let echo = &echo;
                scope.spawn(move || {
                    for round in 0..50 {
                        let text = format!("/{caller}/{round}");
                        assert_eq!(get(echo, &text).text(), format!("{text} "));
                        let body = text.repeat(1 + round * 20);
                        assert_eq!(post(echo, "/", "t", body.as_bytes()).text(), body);
                    }
                });
            }
        });
        let stats = echo.statistics().unwrap();
        assert_eq!(stats["request"]["totals"]["status_2xx"], 1200);
        assert_eq!(stats["program"]["queue_length"], 0);
    }
}

#[test]
fn two_requests_to_one_vm_see_the_same_fresh_state() {
    for threads in BOTH {
        let state = program_with("state", threads, |recipe| recipe.concurrency = 1);
        let first = get(&state, "/");
        assert_eq!(first.status(), 200, "{}", first.log());
        for _ in 0..5 {
            let next = get(&state, "/");
            assert_eq!(next.text(), first.text(), "{}", next.log());
        }
    }
}

#[test]
fn random_numbers_differ_between_requests_and_between_vms() {
    let random = program_with("random", Threads::AsHostLikes, |recipe| {
        recipe.concurrency = 4
    });
    let mut seen = HashSet::new();
    for _ in 0..3 {
        let all: Vec<_> = (0..4).map(|_| random.reserve().unwrap()).collect();
        drop(all);
        for _ in 0..4 {
            let reply = get(&random, "/");
            assert_eq!(reply.status(), 200, "{}", reply.log());
            assert!(seen.insert(reply.text()), "{}", reply.text());
        }
    }
}

#[test]
fn a_caller_gets_no_vm_while_all_are_held_and_one_when_one_comes_back() {
    let patience = Patience {
        time: Duration::from_millis(1500) * guests::slowness(),
        ..Patience::default()
    };
    let source = Fixed {
        recipe: Recipe {
            concurrency: 1,
            ..Recipe::new("hello")
        },
        elf: guests::elf("hello"),
    };
    let hello = Program::with("hello", Box::new(source), Threads::AsHostLikes, patience);
    let held = hello.reserve().unwrap();
    let begun = Instant::now();
    let error = hello.reserve().unwrap_err();
    assert!(matches!(error, ReserveError::TimedOut { .. }), "{error}");
    assert!(error.to_string().contains("concurrency"), "{error}");
    assert!(begun.elapsed() >= patience.time);
    let waiter = thread::spawn({
        let hello = Arc::clone(&hello);
        move || hello.reserve().map(drop)
    });
    drop(held);
    waiter.join().unwrap().unwrap();
    assert_eq!(
        hello.statistics().unwrap()["program"]["reservation_timeouts"],
        1
    );
}

#[test]
fn a_caller_waits_no_longer_than_its_own_time_and_is_told_whose_that_was() {
    let hello = program_with("hello", Threads::AsHostLikes, |recipe| {
        recipe.concurrency = 1
    });
    let _held = hello.reserve().unwrap();
    for (limit, told) in [
        (Limit::FirstByteTimeout, "(bereq.first_byte_timeout)"),
        (Limit::Asker, "longer than the program waits that asked"),
    ] {
        let at = Instant::now() + Duration::from_millis(50);
        let error = hello.reserve_before(Some(Deadline { at, limit }));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
        assert!(Instant::now() >= at);
    }
}

#[test]
fn callers_that_come_during_the_start_all_get_a_vm() {
    let hello = program_with("hello", Threads::AsHostLikes, |_| {});
    hello.start();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(get(&hello, "/").status(), 200));
        }
    });
}

#[test]
fn an_unloaded_program_finishes_its_requests_and_loads_anew() {
    struct Versions(std::sync::atomic::AtomicU32);
    impl Source for Versions {
        fn recipe(&self) -> Result<Recipe, String> {
            Ok(Recipe::new("p"))
        }

        fn binaries(&self) -> Result<Binaries, String> {
            let names = ["hello", "echo"];
            let number = self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let name = names[usize::try_from(number).unwrap() % 2];
            Ok(guests::elf(name).into())
        }
    }
    let program = Program::new("p", Box::new(Versions(0.into())));
    let old = program.reserve().unwrap();
    program.unload();
    assert_eq!(program.phase(), Phase::Unloaded);
    assert_eq!(get(&program, "/new").text(), "/new ");
    let reply = support::finish(old, "/", "", b"", Recorded::new("GET", &[]));
    assert_eq!(reply.text(), "Hello World");
}

#[test]
fn a_caller_that_waits_for_a_vm_is_moved_to_the_new_instance() {
    let hello = program_with("hello", Threads::AsHostLikes, |recipe| {
        recipe.concurrency = 1
    });
    let held = hello.reserve().unwrap();
    let waiter = thread::spawn({
        let hello = Arc::clone(&hello);
        move || get(&hello, "/").text()
    });
    while hello
        .statistics()
        .is_some_and(|stats| stats["program"]["queue_length"] != 1)
    {
        thread::yield_now();
    }
    hello.unload();
    assert_eq!(waiter.join().unwrap(), "Hello World");
    drop(held);
}

#[test]
fn a_program_that_was_warmed_up_goes_on_from_there_in_every_request() {
    let warming = |requests, exact| {
        program_with("paused", Threads::AsHostLikes, |recipe| {
            recipe.warmup = Some(Warming {
                requests,
                exact,
                method: b"GET".to_vec(),
                url: b"/warm".to_vec(),
                headers: vec![b"User-Agent: tinykvm".to_vec()],
            });
        })
    };
    let exact = warming(7, true);
    for _ in 0..3 {
        assert!(get(&exact, "/").text().contains("served=8\n"));
    }
    let until_steady = warming(5, false);
    let text = get(&until_steady, "/").text();
    let served = text
        .split("served=")
        .nth(1)
        .and_then(|rest| rest.lines().next());
    assert!(served.unwrap().parse::<u32>().unwrap() > 6, "{text}");
}

#[test]
fn a_program_that_cannot_be_warmed_up_starts_cold() {
    let text = r#"
        #include "kvm_api.h"
        int main(void)
        {
            struct kvm_request request;
            wait_for_requests_paused(&request);
            if (IS_WARMUP_REQUEST(&request))
                abort();
            backend_response_str(200, "text/plain", "cold");
        }"#;
    let path = guests::compile_text("cold", text, guests::Compiler::Gcc, &[]);
    let warmup = Warming {
        requests: 3,
        exact: true,
        method: b"GET".to_vec(),
        url: b"/".to_vec(),
        headers: Vec::new(),
    };
    let recipe = Recipe {
        warmup: Some(warmup),
        ..Recipe::new("cold")
    };
    let source = Fixed {
        recipe,
        elf: std::fs::read(path).unwrap(),
    };
    let cold = Program::new("cold", Box::new(source));
    assert_eq!(get(&cold, "/").text(), "cold");
}

#[test]
fn pages_that_a_request_dirtied_are_the_images_again() {
    let dirty = program_with("dirty", Threads::AsHostLikes, |recipe| {
        recipe.concurrency = 1;
        recipe.max_request_memory = 256 << 20;
        recipe.max_request_time = Duration::from_secs(120);
    });
    let sum = |url: &str, value: &str| {
        let exchange = Recorded::new("GET", &[]);
        let reply = support::get_with(&dirty, url, value, exchange);
        assert_eq!(reply.status(), 200, "{url}: {}", reply.log());
        reply.text()
    };
    let places = [
        "/1",
        "/1000",
        "/20000",
        "/heap/500",
        "/stack/500",
        "/mmap/500",
    ];
    let first: Vec<_> = places.iter().map(|place| sum(place, "1")).collect();
    for value in ["2", "3"] {
        for (place, expected) in places.iter().zip(&first).rev() {
            sum(place, value);
            // What is on a stack depends on the request itself too: ask for the same again.
            assert_eq!(sum(place, "1"), *expected, "{place}");
        }
    }
}
