//! Settings about memory: what is shared, what is there from the start, what is given back.

mod support;

use std::sync::Arc;

use runtime::{Program, Recipe, Region, Threads, Use, Warming};
use support::{BOTH, get, program_with};

const MIB: u64 = 1 << 20;

fn started(name: &str, change: impl FnOnce(&mut Recipe)) -> Arc<Program> {
    program_with(name, Threads::AsHostLikes, change)
}

#[test]
fn shared_memory_is_the_same_in_all_vms_and_no_reset_touches_it() {
    for threads in BOTH {
        let program = program_with("shared", threads, |recipe| {
            recipe.shared_memory = 4 * MIB;
            recipe.max_request_memory = MIB;
            recipe.concurrency = 4;
        });
        let mut held = Vec::new();
        for count in 1..=40 {
            // Different VMs, one behind the other.
            if held.len() < 3 {
                held.push(program.reserve().unwrap());
            } else {
                held.clear();
            }
            let reply = get(&program, "/count");
            let expected = format!("from main {count} 1 4194304 1");
            assert_eq!(reply.text(), expected, "{}", reply.log());
        }
        drop(held);
        assert_eq!(get(&program, "/fail").status(), 500);
        assert_eq!(get(&program, "/count").text(), "from main 42 1 4194304 1");
    }
}

#[test]
fn shared_memory_begins_anew_with_each_instance() {
    let program = started("shared", |recipe| recipe.shared_memory = 4 * MIB);
    assert!(get(&program, "/count").text().starts_with("from main 1 "));
    assert!(get(&program, "/count").text().starts_with("from main 2 "));
    program.unload();
    assert!(get(&program, "/count").text().starts_with("from main 1 "));
}

#[test]
fn a_program_cannot_arrange_shared_memory_anew() {
    let program = started("shared", |recipe| recipe.shared_memory = 4 * MIB);
    let no_memory = libc::ENOMEM;
    let expected = format!("{0} {0} {0} {0} {0} from main", no_memory);
    assert_eq!(get(&program, "/steal").text(), expected);
    assert!(get(&program, "/count").text().starts_with("from main 1 1 "));
}

#[test]
fn without_shared_memory_there_is_an_empty_area() {
    let program = started("shared", |_| {});
    assert_eq!(get(&program, "/count").text(), "none 1");
}

#[test]
fn a_body_in_shared_memory_can_change_while_it_is_read_and_has_its_length_all_the_same() {
    let program = started("shared", |recipe| {
        recipe.shared_memory = 4 * MIB;
        recipe.concurrency = 4;
    });
    get(&program, "/count");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..100).for_each(|_| drop(get(&program, "/count"))));
        }
        for _ in 0..100 {
            let reply = get(&program, "/body");
            assert_eq!(reply.body.len(), 1 << 20);
            assert!(reply.body.iter().all(u8::is_ascii_lowercase));
        }
    });
}

fn region(address: u64, len: u64, usage: Use) -> Region {
    Region {
        address: sandbox::GuestVirt::new(address),
        len,
        usage,
    }
}

const AREA: u64 = 0x100_0000_0000;
const NOTHING: u64 = 0x200_0000_0000;

#[test]
fn areas_are_there_without_being_mapped_and_are_reset_like_everything_else() {
    let program = started("areas", |recipe| {
        recipe.regions = vec![
            region(AREA, MIB, Use::Data),
            region(NOTHING, MIB, Use::Nothing),
        ];
    });
    let no_memory = libc::ENOMEM;
    for _ in 0..3 {
        assert_eq!(get(&program, "/").text(), format!("1 2 1 0 {no_memory}"));
        let mapped = format!("1 2 1 0 {no_memory} 1 0");
        assert_eq!(get(&program, "/map").text(), mapped);
    }
}

#[test]
fn an_executable_area_may_be_written_and_executed() {
    let program = started("areas", |recipe| {
        recipe.regions = vec![
            region(AREA, MIB, Use::Code),
            region(NOTHING, MIB, Use::Nothing),
        ];
        recipe.main_arguments = vec![b"execute".to_vec()];
    });
    let reply = get(&program, "/");
    let expected = format!("1 2 1 42 {}", libc::ENOMEM);
    assert_eq!(reply.text(), expected, "{}", reply.log());
}

#[test]
fn areas_that_overlap_something_keep_the_program_from_starting_and_are_named() {
    for regions in [
        vec![
            region(AREA, MIB, Use::Data),
            region(AREA, MIB, Use::Nothing),
        ],
        vec![
            region(AREA, MIB, Use::Nothing),
            region(AREA, 4096, Use::Data),
        ],
        // The program's own code.
        vec![region(0x40_0000, MIB, Use::Data)],
    ] {
        let program = started("areas", |recipe| recipe.regions = regions);
        let error = program.reserve().unwrap_err().to_string();
        assert!(error.contains("area at 0x"), "{error}");
        assert!(error.contains("address range is in use"), "{error}");
    }
}

#[test]
fn large_areas_and_large_pages_cost_nothing_that_is_not_used() {
    let program = started("areas", |recipe| {
        recipe.regions = vec![
            region(AREA, MIB, Use::Data),
            region(0x300_0000_0000, 100 << 30, Use::Data),
            region(0x400_0000_0000, 512 * MIB, Use::Code),
        ];
        recipe.large_pages = true;
    });
    assert!(get(&program, "/").text().starts_with("1 2 1 0 "));
}

#[test]
fn working_memory_that_is_not_kept_is_given_back_after_every_request() {
    for (keep, full) in [(u64::MAX, 0), (0, 3)] {
        let program = started("hello", |recipe| {
            recipe.keep_memory = keep;
            recipe.concurrency = 1;
        });
        for _ in 0..3 {
            assert_eq!(get(&program, "/").status(), 200);
        }
        drop(program.reserve().unwrap());
        let statistics = program.statistics().unwrap();
        let resets = &statistics["request"]["totals"]["resets_full"];
        assert_eq!(resets.as_u64().unwrap(), full, "{statistics}");
    }
}

#[test]
fn a_program_with_callbacks_is_warmed_up_too_and_waits_as_before() {
    for (name, text) in [("warm", "7 /\n"), ("hello", "Hello World")] {
        let program = started(name, |recipe| {
            recipe.warmup = Some(Warming {
                requests: 7,
                exact: true,
                method: b"GET".to_vec(),
                url: b"/warm".to_vec(),
                headers: Vec::new(),
            });
        });
        for _ in 0..3 {
            assert_eq!(get(&program, "/").text(), text);
        }
    }
}
