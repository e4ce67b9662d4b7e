//! Live updates without Varnish: what they bring, what they refuse, what they meet.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code outside of test functions"
)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use runtime::{
    Binaries, Patience, Phase, Program, Recipe, Recorded, ReserveError, Source, StateMoved, Stored,
    Threads, UpdateError,
};
use support::{BOTH, get, program_with};

/// Answers its own name.
fn build(version: &str) -> Binaries {
    build_with(version, "")
}

/// The same with code that runs in `main()` before it waits.
fn build_with(version: &str, before: &str) -> Binaries {
    let text = format!(
        r#"#include "kvm_api.h"
        static void on_get(const char *url, const char *arg)
        {{
            (void)url;
            (void)arg;
            backend_response_str(200, "text/plain", "{version}");
        }}
        int main(void)
        {{
            set_backend_get(on_get);
            {before}
            wait_for_requests();
        }}"#
    );
    let path = guests::compile_text("update", &text, guests::Compiler::Gcc, &[]);
    std::fs::read(path).unwrap().into()
}

/// A program whose file is missing, and what live updates have left.
struct Missing(Arc<AtomicU32>);

impl Source for Missing {
    fn recipe(&self) -> Result<Recipe, String> {
        let mut recipe = Recipe::new("p");
        recipe.max_boot_time *= guests::slowness();
        Ok(recipe)
    }

    fn binaries(&self) -> Result<Binaries, String> {
        Err("there is no file".to_owned())
    }

    fn keep(&self, _binaries: &Binaries) -> Stored {
        self.0.fetch_add(1, Ordering::SeqCst);
        Stored::Yes("/p".into())
    }
}

fn missing() -> (Arc<Program>, Arc<AtomicU32>) {
    let kept = Arc::new(AtomicU32::new(0));
    let source = Box::new(Missing(Arc::clone(&kept)));
    (Program::new("p", source), kept)
}

#[test]
fn an_update_replaces_the_program_for_all_who_come_after_it() {
    for threads in BOTH {
        let hello = program_with("hello", threads, |_| {});
        assert_eq!(get(&hello, "/").text(), "Hello World");
        let running = hello.reserve().unwrap();
        let updated = hello.update(&build("v1")).unwrap();
        assert_eq!(updated.state, StateMoved::Nothing);
        assert!(matches!(updated.stored, Stored::No));
        assert_eq!(hello.phase(), Phase::Serving);
        assert_eq!(get(&hello, "/").text(), "v1");
        let reply = support::finish(running, "/", "", b"", Recorded::new("GET", &[]));
        assert_eq!(reply.text(), "Hello World", "a request that ran already");
        hello.update(&build("v2")).unwrap();
        assert_eq!(get(&hello, "/").text(), "v2");
        let stats = hello.statistics().unwrap();
        assert_eq!(stats["program"]["live_updates"], 2);
        assert_eq!(stats["program"]["live_update_transfer_bytes"], 0);
    }
}

#[test]
fn a_program_that_could_not_start_is_brought_to_life_by_an_update() {
    let (program, kept) = missing();
    assert!(matches!(
        program.reserve(),
        Err(ReserveError::NotStarted { .. })
    ));
    assert_eq!(program.phase(), Phase::Failed);
    let updated = program.update(&build("v1")).unwrap();
    assert!(matches!(updated.stored, Stored::Yes(_)));
    assert_eq!(kept.load(Ordering::SeqCst), 1);
    assert_eq!(get(&program, "/").text(), "v1");
    assert!(program.failure().is_none());
}

#[test]
fn a_bad_program_is_refused_with_the_reason_and_the_old_one_stays() {
    let (program, kept) = missing();
    program.update(&build("v1")).unwrap();
    let elf = guests::elf("hello");
    let mut other_machine = elf.clone();
    other_machine[18] = 183;
    let random: Vec<u8> = (1..1000_u32)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let crashes = build_with("x", "*(volatile int *)8 = 1;");
    let returns = build_with("x", "return 3;");
    let refused: [(&str, Binaries, &str); 9] = [
        ("empty", Vec::new().into(), "Empty file received"),
        ("text", b"#!/bin/sh\n".to_vec().into(), "ELF"),
        ("random", random.into(), "ELF"),
        ("header only", elf[..64].to_vec().into(), "cannot load"),
        ("cut", elf[..elf.len() / 2].to_vec().into(), "cannot load"),
        ("ARM", other_machine.into(), "cannot load"),
        ("crash", crashes, "page fault"),
        ("exit", returns, "exited with status 3"),
        (
            "no callback",
            guests::elf("no_callback").into(),
            "without a callback",
        ),
    ];
    for (what, binaries, reason) in refused {
        let status = if what == "empty" { 400 } else { 422 };
        let error = program.update(&binaries).unwrap_err();
        assert!(error.to_string().contains(reason), "{what}: {error}");
        assert_eq!(error.status(), status, "{what}: {error}");
        assert_eq!(program.phase(), Phase::Serving);
        assert_eq!(get(&program, "/").text(), "v1", "{what}");
    }
    assert_eq!(kept.load(Ordering::SeqCst), 1);
    assert_eq!(program.statistics().unwrap()["program"]["live_updates"], 1);
}

#[test]
fn a_refused_update_leaves_a_program_that_is_not_loaded_as_it_was() {
    let hello = program_with("hello", Threads::AsHostLikes, |_| {});
    hello.update(&b"nonsense".to_vec().into()).unwrap_err();
    assert_eq!(hello.phase(), Phase::Unloaded);
    assert_eq!(get(&hello, "/").text(), "Hello World");
}

#[test]
fn no_request_fails_while_the_program_is_updated_over_and_over() {
    let builds = [build("v1"), build("v2")];
    for threads in BOTH {
        let program = program_with("hello", threads, |recipe| {
            recipe.concurrency = 2;
            // All callers: with threads of their own, VMs may be on their way back.
            recipe.max_waiting = 9;
        });
        program.update(&builds[1]).unwrap();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let reply = get(&program, "/");
                        assert_eq!(reply.status(), 200, "{}", reply.log());
                        let text = reply.text();
                        assert!(text == "v1" || text == "v2", "{text}");
                    }
                });
            }
            for round in 0..50 {
                program.update(&builds[round % 2]).unwrap();
                let expected = ["v1", "v2"][round % 2];
                assert_eq!(get(&program, "/").text(), expected, "round {round}");
            }
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!(program.statistics().unwrap()["program"]["live_updates"], 51);
    }
}

#[test]
fn who_waits_in_a_full_queue_moves_to_the_new_instance() {
    let hello = program_with("hello", Threads::AsHostLikes, |recipe| {
        recipe.concurrency = 1;
        recipe.max_waiting = 4;
    });
    let held = hello.reserve().unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(get(&hello, "/").text(), "v1"));
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while hello.statistics().unwrap()["program"]["queue_length"] != 4 {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
        assert!(matches!(
            hello.reserve(),
            Err(ReserveError::QueueFull { .. })
        ));
        // The held VM is the old instance's: only the new one can serve those four.
        hello.update(&build("v1")).unwrap();
    });
    drop(held);
}

#[test]
fn updates_that_come_at_once_take_place_one_after_the_other() {
    let (program, kept) = missing();
    let together = Barrier::new(4);
    thread::scope(|scope| {
        for number in 0..4 {
            let (program, together) = (&program, &together);
            scope.spawn(move || {
                let build = build(&format!("n{number}"));
                together.wait();
                program.update(&build).unwrap();
            });
        }
    });
    assert_eq!(kept.load(Ordering::SeqCst), 4);
    assert_eq!(program.statistics().unwrap()["program"]["live_updates"], 4);
    assert_eq!(get(&program, "/").text().as_bytes()[0], b'n');
}

#[test]
fn an_update_that_waits_too_long_for_its_turn_says_so() {
    /// Its settings take until the test lets them through.
    struct Slow(Arc<Barrier>);
    impl Source for Slow {
        fn recipe(&self) -> Result<Recipe, String> {
            self.0.wait();
            self.0.wait();
            Err("not meant to start".to_owned())
        }

        fn binaries(&self) -> Result<Binaries, String> {
            Ok(Vec::new().into())
        }
    }
    let gate = Arc::new(Barrier::new(2));
    let source = Box::new(Slow(Arc::clone(&gate)));
    let patience = Patience {
        time: Duration::from_millis(50),
        ..Patience::default()
    };
    let program = Program::with("p", source, Threads::AsHostLikes, patience);
    thread::scope(|scope| {
        let first = scope.spawn(|| program.update(&b"x".to_vec().into()).unwrap_err());
        gate.wait();
        let error = program.update(&b"y".to_vec().into()).unwrap_err();
        assert!(matches!(error, UpdateError::Busy { .. }), "{error}");
        assert!(error.to_string().contains("another update"), "{error}");
        assert_eq!(error.status(), 503);
        gate.wait();
        let error = first.join().unwrap();
        assert!(matches!(error, UpdateError::Settings(_)), "{error}");
    });
}

#[test]
fn updates_and_unloads_at_the_same_time_end_with_a_program_that_serves() {
    let program = program_with("hello", Threads::AsHostLikes, |_| {});
    let over = AtomicBool::new(false);
    let build = build("v1");
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let reply = get(&program, "/");
                    assert_eq!(reply.status(), 200, "{}", reply.log());
                    let text = reply.text();
                    assert!(text == "v1" || text == "Hello World", "{text}");
                }
            });
        }
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                program.unload();
                get(&program, "/");
            }
        });
        for _ in 0..30 {
            program.update(&build).unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    // Without an unload after it, an update stays; with one, the next load is the source's.
    program.update(&build).unwrap();
    assert_eq!(get(&program, "/").text(), "v1");
    program.unload();
    assert_eq!(get(&program, "/").text(), "Hello World");
}

#[test]
fn callbacks_for_state_without_storage_do_not_stop_an_update() {
    let (program, _kept) = missing();
    let callbacks = "set_on_live_update((void (*)(void))main); \
                     set_on_live_restore((void (*)(size_t))main);";
    for version in ["v1", "v2"] {
        let updated = program.update(&build_with(version, callbacks)).unwrap();
        assert_eq!(updated.state, StateMoved::Nothing);
        assert_eq!(get(&program, "/").text(), version);
    }
}
