//! Programs with a storage VM, without Varnish.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::{Program, Recipe, Severity, Threads};
use support::{BOTH, Reply, get, program_with};

/// `storage.c` with storage.
fn storage(change: impl FnOnce(&mut Recipe)) -> Arc<Program> {
    storage_on(Threads::AsHostLikes, change)
}

fn storage_on(threads: Threads, change: impl FnOnce(&mut Recipe)) -> Arc<Program> {
    program_with("storage", threads, |recipe| {
        recipe.storage = true;
        recipe.max_storage_time *= guests::slowness();
        change(recipe);
    })
}

fn text(program: &Arc<Program>, url: &str) -> String {
    let reply = get(program, url);
    assert_eq!(reply.status(), 200, "{url}: {}", reply.log());
    reply.text()
}

/// A request that the guest ends by a fault of its own: its log.
fn fault(program: &Arc<Program>, url: &str) -> String {
    let reply: Reply = get(program, url);
    assert_eq!(reply.status(), 500, "{url}: {}", reply.text());
    reply.log()
}

fn counter(program: &Arc<Program>, key: &str) -> u64 {
    let statistics = program.statistics().unwrap();
    statistics["storage"][0][key].as_u64().unwrap()
}

/// Asks until it is so.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60) * guests::slowness();
    while !is_so() {
        assert!(Instant::now() < patience, "{what} did not come true");
        std::thread::yield_now();
    }
}

/// What is found in the log by a search for errors.
fn errors(reply: &Reply) -> Vec<String> {
    let lines = reply.exchange.log.iter();
    lines
        .filter(|(severity, _)| *severity == Severity::Error)
        .map(|(_, line)| String::from_utf8_lossy(line).into_owned())
        .collect()
}

#[test]
fn requests_share_what_the_storage_keeps() {
    for threads in BOTH {
        let program = storage_on(threads, |_| {});
        for number in 1..=5 {
            assert_eq!(text(&program, "/add"), number.to_string());
        }
        assert_eq!(text(&program, "/add?10"), "15");
        assert_eq!(text(&program, "/put?colour=green"), "0");
        assert_eq!(text(&program, "/put?shape=round"), "0");
        assert_eq!(text(&program, "/get?colour"), "green");
        assert_eq!(text(&program, "/get?shape"), "round");
        assert_eq!(get(&program, "/get?size").status(), 404);
        assert_eq!(text(&program, "/is-storage"), "0");
    }
}

#[test]
fn a_function_goes_on_after_it_has_returned_its_result() {
    let program = storage(|_| {});
    text(&program, "/add");
    text(&program, "/add");
    assert_eq!(text(&program, "/cleaned-up"), "2");
}

#[test]
fn eight_clients_count_to_sixteen_hundred_exactly() {
    let program = storage(|recipe| recipe.concurrency = 4);
    text(&program, "/add?0");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..200 {
                    text(&program, "/add");
                }
            });
        }
    });
    assert_eq!(text(&program, "/add?0"), "1600");
    assert_eq!(counter(&program, "calls"), 1602);
    assert_eq!(counter(&program, "invocations"), 1602);
}

#[test]
fn buffers_and_results_of_all_sizes_arrive_whole() {
    let program = storage(|_| {});
    for len in [
        0,
        1,
        63,
        64,
        4096,
        100_000,
        190_000,
        200_000,
        3_000_000,
        16 << 20,
    ] {
        let url = format!("/reflect?{len}");
        assert_eq!(text(&program, &url), format!("{len} same"));
    }
    assert_eq!(text(&program, "/length?12345"), "5");
    assert_eq!(text(&program, "/cut?abcdef"), "3 abc");
    let too_much = (16 << 20) + 64;
    let reply = get(&program, &format!("/reflect?{too_much}"));
    assert_eq!(reply.text(), "-1 different");
    assert_eq!(
        errors(&reply),
        ["storage: storage_call: more than 16777216 bytes"]
    );
    assert_eq!(counter(&program, "restarts"), 0);
}

#[test]
fn only_functions_that_the_storage_allows_can_be_called() {
    let program = storage(|_| {});
    let log = fault(&program, "/forbidden");
    assert!(log.contains("sys_storage_allow"), "{log}");
    let open = storage(|recipe| recipe.environment = vec![b"OPEN=1".to_vec()]);
    assert_eq!(text(&open, "/forbidden"), "result 0");
    assert_eq!(text(&program, "/allow"), "-1", "a request allows nothing");
    // Code, but none of the program's functions: it is up to the storage VM what comes of it.
    let log = fault(&open, "/wild-function?10");
    assert!(log.contains("no code"), "{log}");
    assert_eq!(counter(&open, "restarts"), 0);
}

#[test]
fn a_program_without_storage_is_told_so() {
    let program = program_with("storage", Threads::AsHostLikes, |_| {});
    for url in ["/add", "/task?1", "/timer?1,1"] {
        let log = fault(&program, url);
        assert!(log.contains("\"storage\": true"), "{log}");
    }
    assert_eq!(text(&program, "/stop?1"), "0");
    assert!(program.statistics().unwrap().get("storage").is_none());
}

#[test]
fn wild_pointers_and_lengths_cost_the_request_and_nothing_else() {
    let program = storage(|_| {});
    assert_eq!(text(&program, "/add"), "1");
    for url in [
        "/wild-function?0",
        "/wild-function?7fffffffffff",
        "/wild-function?ffffffffffffffff",
        "/wild-buffers?10",
        "/wild-buffers?fffffffffffffff8",
        "/wild-data?10",
        "/wild-data?ffffffffffffffff",
        "/wild-task",
        "/wild-task-data",
        "/return",
    ] {
        fault(&program, url);
    }
    for (url, why) in [
        ("/many-buffers", "storage_call: more than 64 buffers"),
        ("/wrapping-result", "storage_call: the result does not end"),
        ("/wild-length", "storage_call: more than 16777216 bytes"),
        ("/long-task-data", "storage_task: more than 2097152 bytes"),
        ("/endless-timer", "storage_task: too many tasks or timers"),
    ] {
        let reply = get(&program, url);
        assert_eq!(reply.text(), "-1", "{url}");
        let errors = errors(&reply);
        assert!(errors.len() == 1 && errors[0].contains(why), "{errors:?}");
    }
    for url in ["/stop?0", "/stop?-1", "/stop?12345"] {
        assert_eq!(text(&program, url), "0", "{url}");
    }
    assert_eq!(text(&program, "/add"), "2");
    // The call itself is made before its result has nowhere to go.
    fault(&program, "/wild-result?10");
    assert_eq!(text(&program, "/add"), "4");
    assert_eq!(counter(&program, "restarts"), 0);
}

#[test]
fn calls_with_anything_as_arguments_break_nothing_but_their_own() {
    let program = storage(|recipe| {
        recipe.environment = vec![b"OPEN=1".to_vec()];
        recipe.max_storage_time = Duration::from_secs(1) * guests::slowness();
    });
    for seed in 0..150_u64 {
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Whatever comes of it: an answer, or a fault of the caller or of the storage function.
        let reply = get(&program, &format!("/wild?{seed}"));
        assert!([200, 500].contains(&reply.status()));
        let reply = get(&program, &format!("/goes-wild?{seed}"));
        assert!([200, 500].contains(&reply.status()));
    }
    for timer in 0..1000 {
        text(&program, &format!("/stop?{timer}"));
    }
    assert_eq!(counter(&program, "timers"), 0);
    let before: i64 = text(&program, "/add").parse().unwrap();
    assert_eq!(text(&program, "/add"), (before + 1).to_string());
}

#[test]
fn a_function_that_breaks_fails_its_call_and_the_storage_starts_over() {
    let program = storage(|recipe| {
        recipe.max_storage_time = Duration::from_secs(1) * guests::slowness();
    });
    let mut restarts = 0;
    for url in [
        "/crash",
        "/spin",
        "/spins-afterwards",
        "/returns-nonsense",
        "/http",
    ] {
        text(&program, "/add?5");
        assert_eq!(text(&program, url), "result -1", "{url}");
        restarts += 1;
        assert_eq!(text(&program, "/add"), "1", "after {url}");
        assert_eq!(counter(&program, "restarts"), restarts, "{url}");
        assert_eq!(text(&program, "/add?-1"), "0");
    }
    assert_eq!(text(&program, "/add?7"), "7");
    // Only as much is read as the caller takes, and more than the host carries is no result.
    assert_eq!(text(&program, "/returns-too-much"), "7");
    assert_eq!(text(&program, "/returns-much"), "-1");
    assert_eq!(
        text(&program, "/cleaned-up"),
        "4",
        "three times add, once that"
    );
    // Returning without a result fails, but breaks nothing; storage cannot call storage.
    assert_eq!(text(&program, "/returns"), "result -1");
    assert_eq!(text(&program, "/calls-storage"), "-1");
    assert_eq!(text(&program, "/add"), "8");
    assert_eq!(counter(&program, "restarts"), restarts);
    assert_eq!(counter(&program, "timeouts"), 2);
}

#[test]
fn a_request_waits_for_storage_no_longer_than_its_own_time_and_breaks_nothing_by_leaving() {
    let program = storage(|recipe| {
        recipe.max_request_time = Duration::from_secs(1) * guests::slowness();
        recipe.max_storage_time = Duration::from_secs(4) * guests::slowness();
    });
    text(&program, "/add?3");
    let begun = Instant::now();
    let log = fault(&program, "/spin");
    assert!(log.contains("max_request_time"), "{log}");
    // Another request that would have to wait for it gives up, too, and is not served later.
    fault(&program, "/add?100");
    assert!(begun.elapsed() < Duration::from_secs(4) * guests::slowness());
    until("the endless function's end", || {
        counter(&program, "restarts") == 1
    });
    assert_eq!(text(&program, "/add?0"), "0");
    assert_eq!(counter(&program, "abandoned_calls"), 2);
    assert_eq!(counter(&program, "invocations"), 3);
}

#[test]
fn tasks_run_in_their_turn_without_anyone_waiting() {
    let program = storage(|_| {});
    for amount in 1..=10 {
        assert_eq!(text(&program, &format!("/task?{amount}")), "0");
    }
    // Calls come after the tasks before them.
    assert_eq!(text(&program, "/ticks"), "55");
    assert_eq!(text(&program, "/schedules"), "0");
    until("the task of the storage", || {
        text(&program, "/ticks") == "56"
    });
    assert_eq!(counter(&program, "tasks"), 11);
    assert_eq!(text(&program, "/task-crash"), "0");
    assert_eq!(text(&program, "/ticks"), "0");
    assert_eq!(counter(&program, "restarts"), 1);
}

#[test]
fn timers_fire_once_or_again_and_again_until_they_are_stopped() {
    let program = storage(|_| {});
    let ticks = || text(&program, "/ticks").parse::<u64>().unwrap();
    assert_eq!(text(&program, "/timer?0.001,0"), "1");
    until("the tick", || ticks() == 1);
    assert_eq!(text(&program, "/timer?0.001,0.001"), "2");
    until("many ticks", || ticks() > 20);
    assert_eq!(text(&program, "/stop?2"), "1");
    assert_eq!(text(&program, "/stop?2"), "0");
    let now = ticks();
    assert_eq!(text(&program, "/task?1000"), "0");
    assert_eq!(ticks(), now + 1000);
    // Many more in a lifetime than at once.
    for _ in 0..200 {
        let id = text(&program, "/timer?1000,0");
        assert_eq!(text(&program, &format!("/stop?{id}")), "1");
    }
    for _ in 0..64 {
        assert_ne!(text(&program, "/timer?1000,0"), "-1");
    }
    assert_eq!(text(&program, "/timer?1000,0"), "-1");
    assert_eq!(counter(&program, "timers"), 64);
    // What was set since the start is part of the state that a restart loses.
    text(&program, "/crash");
    assert_eq!(counter(&program, "timers"), 0);
}

#[test]
fn timers_of_the_start_survive_a_restart() {
    let program = storage(|recipe| recipe.environment = vec![b"TICKS=1".to_vec()]);
    let ticks = || text(&program, "/ticks").parse::<u64>().unwrap();
    until("ticks", || ticks() > 3);
    text(&program, "/crash");
    until("ticks after the restart", || ticks() > 3);
    assert_eq!(counter(&program, "timers"), 1);
}

#[test]
fn main_of_requests_may_call_storage() {
    let program = storage(|recipe| recipe.environment = vec![b"EARLY=1".to_vec()]);
    assert_eq!(text(&program, "/add?0"), "100");
}

#[test]
fn storage_linked_for_the_address_space_of_requests_is_refused_with_the_reason() {
    let mut binary = guests::elf("storage");
    binary[24..32].copy_from_slice(&0x4400_0000_u64.to_le_bytes());
    let program = program_with("storage", Threads::AsHostLikes, |_| {});
    drop(program);
    let mut recipe = Recipe::new("remote");
    recipe.storage = true;
    let source = support::Fixed {
        recipe,
        elf: binary,
    };
    let program = Program::new("remote", Box::new(source));
    let error = program.reserve().unwrap_err().to_string();
    assert!(error.contains("0x44000000"), "{error}");
    assert!(error.contains("not supported"), "{error}");
}

#[test]
fn a_dropped_program_ends_its_storage_in_the_middle_of_what_it_does() {
    let program = storage(|recipe| {
        recipe.environment = vec![b"TICKS=1".to_vec()];
        recipe.max_request_time = Duration::from_millis(50) * guests::slowness();
        recipe.max_storage_time = Duration::from_millis(500) * guests::slowness();
    });
    get(&program, "/spin");
    drop(program);
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        tasks
            .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
            .filter(|name| name.trim() == "tinykvm-store")
            .count()
    };
    until("the end of the thread", || threads() == 0);
}
