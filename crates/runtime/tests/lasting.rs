//! Programs whose request VMs keep their state, and what ends it.

mod support;

use std::sync::Arc;
use std::sync::mpsc;

use runtime::{BodyError, Program, Recipe, Recorded};
use support::{BOTH, finish, get, post, program_with};

/// A program of one VM that keeps its state.
fn lasting(threads: runtime::Threads, change: impl FnOnce(&mut Recipe)) -> Arc<Program> {
    program_with("lasting", threads, |recipe| {
        recipe.ephemeral = false;
        recipe.concurrency = 1;
        change(recipe);
    })
}

fn paused(recipe: &mut Recipe) {
    recipe.main_arguments = vec![b"paused".to_vec()];
}

fn expected(count: u32, tail: u32) -> String {
    format!(
        "count={count} mapped={count} piped={count} tail={tail} match=1 body=0 used=1 decided=1"
    )
}

#[test]
fn a_program_that_is_not_ephemeral_keeps_memory_mappings_descriptors_and_regexes() {
    for threads in BOTH {
        let program = lasting(threads, |_| {});
        for number in 1..=100 {
            let reply = get(&program, "/a");
            assert_eq!(reply.text(), expected(number, 0), "{}", reply.log());
        }
    }
}

#[test]
fn a_paused_program_goes_on_behind_its_answer_to_where_it_waits() {
    for threads in BOTH {
        let program = lasting(threads, paused);
        for number in 1..=100 {
            let reply = get(&program, "/a");
            assert_eq!(
                reply.text(),
                expected(number, number - 1),
                "{}",
                reply.log()
            );
        }
    }
}

#[test]
fn a_paused_program_goes_on_where_it_waits_also_behind_a_callback() {
    for threads in BOTH {
        let program = lasting(threads, |recipe| {
            recipe.main_arguments = vec![b"paused".to_vec(), b"posts".to_vec()];
        });
        for round in 0..10 {
            let reply = get(&program, "/a");
            let text = expected(2 * round + 1, round);
            assert_eq!(reply.text(), text, "{}", reply.log());
            let reply = post(&program, "/a", "text/plain", b"x");
            let text = expected(2 * round + 2, round + 1).replace("body=0", "body=1");
            assert_eq!(reply.text(), text, "{}", reply.log());
        }
    }
}

#[test]
fn a_large_body_costs_the_state_of_a_program_nothing_whether_it_is_taken_or_not() {
    const MIB: usize = 1 << 20;
    let program = lasting(runtime::Threads::AsHostLikes, |recipe| {
        recipe.max_request_memory = 16 << 20;
    });
    assert_eq!(get(&program, "/a").text(), expected(1, 0));
    for count in 2..6 {
        let mut reservation = program.reserve().unwrap();
        let mut exchange = Recorded::new("POST", &[]);
        reservation.begin_body(Some(15 << 20)).unwrap();
        let part = vec![b'x'; MIB];
        let refused = (0..15).find_map(|_| reservation.push_body(&part, &mut exchange).err());
        assert_eq!(refused, Some(BodyError::TooLarge { limit: 16 << 20 }));
        drop(reservation);
        assert_eq!(get(&program, "/a").text(), expected(count, 0));
    }
}

#[test]
fn each_vm_has_a_state_of_its_own() {
    let program = lasting(runtime::Threads::AsHostLikes, |recipe| {
        recipe.concurrency = 2
    });
    let first = program.reserve().unwrap();
    let mut texts = vec![get(&program, "/a").text()];
    let reply = finish(first, "/a", "", b"", Recorded::new("GET", &[]));
    texts.push(reply.text());
    assert_eq!(texts, [expected(1, 0), expected(1, 0)]);
}

#[test]
fn a_failure_ends_the_state_also_where_the_error_callback_answers() {
    for change in [paused, |_: &mut Recipe| {}] {
        let program = lasting(runtime::Threads::AsHostLikes, change);
        for _ in 0..3 {
            assert!(get(&program, "/a").text().starts_with("count=1 "));
            assert!(get(&program, "/a").text().starts_with("count=2 "));
            assert_eq!(get(&program, "/fail").status(), 500);
        }
    }
}

#[test]
fn a_request_can_ask_for_a_reset_after_it() {
    for change in [paused, |_: &mut Recipe| {}] {
        let program = lasting(runtime::Threads::AsHostLikes, change);
        get(&program, "/a");
        let mut reservation = program.reserve().unwrap();
        reservation.reset_afterwards();
        let reply = finish(reservation, "/a", "", b"", Recorded::new("GET", &[]));
        assert!(reply.text().starts_with("count=2 "));
        assert!(get(&program, "/a").text().starts_with("count=1 "));
        assert!(get(&program, "/a").text().starts_with("count=2 "));
    }
}

#[test]
fn what_ends_the_state_of_a_program_without_its_will_is_in_the_log() {
    let (said, heard) = mpsc::channel();
    runtime::journal::listen(move |_, program, line| {
        let _nobody_listens = said.send(format!("{program}: {}", String::from_utf8_lossy(line)));
    });
    let program = lasting(runtime::Threads::AsHostLikes, paused);
    get(&program, "/a");
    let reply = get(&program, "/lost");
    assert!(reply.text().starts_with("count=2 "));
    assert_eq!(get(&program, "/a").text(), expected(1, 0));
    let mut lost = heard
        .iter()
        .filter(|line| line.contains("is reset, what it kept is lost"));
    lost.find(|line| line.contains("within 1s of its answer"))
        .unwrap();
    assert_eq!(get(&program, "/fail").status(), 500);
    assert_eq!(get(&program, "/a").text(), expected(1, 0));
    lost.find(|line| line.ends_with(": its request failed"))
        .unwrap();
}

#[test]
fn bodies_of_requests_do_not_pile_up() {
    // 100 bodies of 2 MiB in 16 MiB.
    for change in [paused, |_: &mut Recipe| {}] {
        let program = lasting(runtime::Threads::AsHostLikes, |recipe| {
            recipe.max_request_memory = 16 << 20;
            change(recipe);
        });
        let body = vec![b'x'; 2 << 20];
        for number in 1..=100 {
            let reply = post(&program, "/a", "text/plain", &body);
            let begin = format!("count={number} ");
            assert!(reply.text().starts_with(&begin), "{}", reply.text());
            assert!(reply.text().contains(" body=2097152 "), "{}", reply.text());
        }
    }
}

#[test]
fn a_body_of_unknown_length_gets_what_room_the_program_has_left() {
    const MIB: usize = 1 << 20;
    for change in [paused, |_: &mut Recipe| {}] {
        let program = lasting(runtime::Threads::AsHostLikes, |recipe| {
            recipe.max_request_memory = 16 << 20;
            change(recipe);
        });
        assert_eq!(get(&program, "/hold").status(), 200);
        let mut reservation = program.reserve().unwrap();
        let mut exchange = Recorded::new("POST", &[]);
        reservation.begin_body(None).unwrap();
        for _ in 0..9 {
            let part = vec![b'x'; MIB];
            reservation.push_body(&part, &mut exchange).unwrap();
        }
        let reply = finish(reservation, "/a", "", b"a/b", exchange);
        assert!(reply.text().contains(" body=9437184 "), "{}", reply.text());
    }
}

#[test]
fn a_body_without_a_request_leaves_the_state_alone() {
    let program = lasting(runtime::Threads::AsHostLikes, paused);
    get(&program, "/a");
    let mut reservation = program.reserve().unwrap();
    let mut exchange = Recorded::new("POST", &[]);
    reservation
        .push_body(&vec![1; 1 << 20], &mut exchange)
        .unwrap();
    drop(reservation);
    assert_eq!(get(&program, "/a").text(), expected(2, 1));
}

#[test]
fn main_may_decide_about_resets_only_where_it_is_allowed_to() {
    for (argument, allowed, ephemeral, keeps, answer) in [
        ("keep", true, true, true, 0),
        ("reset", true, false, false, 0),
        ("keep", false, true, false, -1),
        ("reset", false, false, true, -1),
    ] {
        let program = lasting(runtime::Threads::AsHostLikes, |recipe| {
            recipe.main_arguments = vec![argument.into()];
            recipe.control_ephemeral = allowed;
            recipe.ephemeral = ephemeral;
        });
        get(&program, "/a");
        let text = get(&program, "/a").text();
        let count = if keeps { "count=2 " } else { "count=1 " };
        assert!(text.starts_with(count), "{argument} {allowed}: {text}");
        assert!(text.ends_with(&format!(" decided={answer}")), "{text}");
    }
}

#[test]
fn waiting_again_without_an_answer_is_told_as_what_it_is() {
    let program = lasting(runtime::Threads::AsHostLikes, paused);
    let reply = get(&program, "/skip");
    assert_eq!(reply.status(), 500);
    let told = "waits for the next request and has not answered this one";
    assert!(reply.log().contains(told), "{}", reply.log());
    assert_eq!(get(&program, "/a").text(), expected(1, 0));
}
