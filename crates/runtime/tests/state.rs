//! State of a program's storage when its instance is replaced, and what storage may use.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod support;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use runtime::{
    Binaries, Patience, Program, Recipe, Recorded, Source, StateMoved, Threads, UpdateError, Vcl,
    journal,
};
use sandbox::AllowedPath;
use support::{get, program_with};

/// `storage.c`, whose environment can change from load to load.
struct Changing {
    environment: Mutex<Vec<Vec<u8>>>,
    is_missing: AtomicBool,
    loads: AtomicU32,
}

struct Shared(Arc<Changing>);

impl Source for Shared {
    fn recipe(&self) -> Result<Recipe, String> {
        let mut recipe = Recipe::new("storage");
        recipe.storage = true;
        recipe.concurrency = 4;
        recipe.max_boot_time *= guests::slowness();
        recipe.max_request_time *= guests::slowness();
        recipe.max_storage_time = Duration::from_secs(1) * guests::slowness();
        recipe.environment.clone_from(&self.0.environment.lock());
        Ok(recipe)
    }

    fn binaries(&self) -> Result<Binaries, String> {
        self.0.loads.fetch_add(1, Ordering::SeqCst);
        if self.0.is_missing.load(Ordering::SeqCst) {
            return Err("the file is missing".to_owned());
        }
        Ok(guests::elf("storage").into())
    }
}

fn changing() -> (Arc<Program>, Arc<Changing>) {
    let changing = Arc::new(Changing {
        environment: Mutex::default(),
        is_missing: AtomicBool::new(false),
        loads: AtomicU32::new(0),
    });
    let source = Box::new(Shared(Arc::clone(&changing)));
    let patience = Patience::default();
    let program = Program::with("storage", source, Threads::AsHostLikes, patience);
    (program, changing)
}

impl Changing {
    fn set(&self, variable: &str) {
        *self.environment.lock() = vec![variable.into()];
    }
}

fn text(program: &Arc<Program>, url: &str) -> String {
    let reply = get(program, url);
    assert_eq!(reply.status(), 200, "{url}: {}", reply.log());
    reply.text()
}

fn counter(program: &Arc<Program>, key: &str) -> u64 {
    program.statistics().unwrap()["storage"][0][key]
        .as_u64()
        .unwrap()
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60) * guests::slowness();
    while !is_so() {
        assert!(Instant::now() < patience, "{what} did not come true");
        std::thread::yield_now();
    }
}

fn elf() -> Binaries {
    guests::elf("storage").into()
}

#[test]
fn state_survives_live_updates_by_the_programs_own_callbacks() {
    let (program, _) = changing();
    assert_eq!(text(&program, "/add?5"), "5");
    for round in 1..=3 {
        let updated = program.update(&elf()).unwrap();
        assert_eq!(updated.state, StateMoved::Bytes(8));
        assert_eq!(text(&program, "/add"), (5 + round).to_string());
    }
    let stats = program.statistics().unwrap();
    assert_eq!(stats["program"]["live_update_transfer_bytes"], 8);
}

#[test]
fn callbacks_count_in_whichever_vm_they_were_registered() {
    let (program, changing) = changing();
    changing.set("STATE_IN=request");
    assert_eq!(text(&program, "/add?5"), "5");
    assert_eq!(program.update(&elf()).unwrap().state, StateMoved::Bytes(8));
    assert_eq!(text(&program, "/add"), "6");
    // Requests are answered although only the storage VM's main() has said by what.
    changing.set("GET_IN=storage");
    assert_eq!(program.update(&elf()).unwrap().state, StateMoved::Bytes(8));
    assert_eq!(text(&program, "/add"), "7");
}

#[test]
fn a_state_that_cannot_be_saved_is_lost_and_the_update_takes_place() {
    for how in ["crash", "spin", "return", "wild", "huge"] {
        let (program, changing) = changing();
        changing.set(&format!("SAVE={how}"));
        assert_eq!(text(&program, "/add?5"), "5");
        changing.set("NOTHING=1");
        let updated = program.update(&elf()).unwrap();
        assert!(
            matches!(updated.state, StateMoved::Lost(_)),
            "{how}: {updated:?}"
        );
        assert_eq!(text(&program, "/add"), "1", "{how}");
    }
}

#[test]
fn a_program_that_cannot_restore_the_state_is_refused_and_the_old_one_keeps_it() {
    let (program, changing) = changing();
    assert_eq!(text(&program, "/add?5"), "5");
    for how in ["crash", "spin", "return", "wild", "code"] {
        changing.set(&format!("RESTORE={how}"));
        let refused = program.update(&elf()).unwrap_err();
        assert!(
            matches!(refused, UpdateError::Restore(_)),
            "{how}: {refused}"
        );
        assert_eq!(text(&program, "/add?0"), "5", "{how}");
    }
    changing.set("NOTHING=1");
    program.update(&elf()).unwrap();
    assert_eq!(text(&program, "/add"), "6");
}

#[test]
fn large_states_move_and_only_as_much_as_there_is() {
    let (program, changing) = changing();
    changing.set("SAVE=much");
    assert_eq!(text(&program, "/add?5"), "5");
    changing.set("RESTORE=much");
    let updated = program.update(&elf()).unwrap();
    let len = (16 << 20) + 1;
    assert_eq!(updated.state, StateMoved::Bytes(len));
    assert_eq!(text(&program, "/add?0"), len.to_string());
}

#[test]
fn an_unloaded_program_is_loaded_at_once_and_keeps_its_state() {
    let (program, changing) = changing();
    assert_eq!(text(&program, "/add?5"), "5");
    assert_eq!(changing.loads.load(Ordering::SeqCst), 1);
    program.unload();
    until("a new instance", || counter(&program, "calls") == 0);
    assert_eq!(text(&program, "/add"), "6");
    // Many at once are one load, or one more for those who came when it had begun.
    for _ in 0..50 {
        program.unload();
    }
    until("another instance", || counter(&program, "calls") == 0);
    assert_eq!(text(&program, "/add"), "7");
    assert!(changing.loads.load(Ordering::SeqCst) <= 52);
}

#[test]
fn a_program_that_cannot_be_loaded_again_goes_on_with_its_state() {
    let (program, changing) = changing();
    assert_eq!(text(&program, "/add?5"), "5");
    changing.is_missing.store(true, Ordering::SeqCst);
    program.unload();
    until("the attempt", || changing.loads.load(Ordering::SeqCst) == 2);
    assert_eq!(text(&program, "/add"), "6");
    changing.is_missing.store(false, Ordering::SeqCst);
    program.unload();
    until("a new instance", || counter(&program, "calls") == 0);
    assert_eq!(text(&program, "/add"), "7");
}

#[test]
fn a_program_with_changed_arguments_has_its_state_after_invalidation() {
    let vcl = Vcl::new();
    let file = guests::compile("storage");
    let text = format!(
        r#"{{"storage": {{"filename": "{}", "storage": true}}}}"#,
        file.display()
    );
    vcl.define(&text, "test").unwrap();
    let old = vcl.program(b"storage").unwrap();
    assert_eq!(self::text(&old, "/add?5"), "5");
    vcl.main_arguments("storage", vec![b"another".to_vec()])
        .unwrap();
    assert_eq!(vcl.invalidate("storage").unwrap(), 1);
    let current = || vcl.program(b"storage").unwrap();
    until("the new program", || !Arc::ptr_eq(&current(), &old));
    assert_eq!(self::text(&current(), "/add"), "6");
    // The old one has ended with its last user.
    let storage = || {
        let old = old.statistics().unwrap();
        old["storage"][0]["calls"].as_u64().unwrap()
    };
    assert_eq!(storage(), 1);
}

#[test]
fn a_request_on_the_old_instance_still_reaches_its_storage_but_its_timers_have_ended() {
    let (program, changing) = changing();
    changing.set("TICKS=1");
    until("ticks", || text(&program, "/ticks") != "0");
    let (first, second) = (program.reserve().unwrap(), program.reserve().unwrap());
    program.update(&elf()).unwrap();
    let ticks = |reservation| {
        let reply = support::finish(reservation, "/ticks", "", b"", Recorded::new("GET", &[]));
        reply.text()
    };
    let before = ticks(first);
    let now = || text(&program, "/ticks").parse::<u64>().unwrap();
    let then = now();
    until("more ticks", || now() > then + 20);
    assert_eq!(ticks(second), before);
}

/// What the log has of a program.
fn listen() -> &'static Mutex<Vec<String>> {
    static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
    journal::listen(|_severity, _program, line| {
        LINES
            .lock()
            .push(String::from_utf8_lossy(line).into_owned());
    });
    &LINES
}

#[test]
fn what_storage_prints_and_what_goes_wrong_there_is_in_the_log() {
    let lines = listen();
    let (program, _) = changing();
    text(&program, "/print?hello");
    text(&program, "/crash");
    let said = |what: &str| lines.lock().iter().any(|line| line.contains(what));
    assert!(said("storage says hello"));
    assert!(said("storage call: page fault"), "{:?}", lines.lock());
    assert!(said("in crash+"), "{:?}", lines.lock());
    assert!(said("its state since then is lost"));
}

#[test]
fn storage_cannot_flood_the_log() {
    let lines = listen();
    let (program, _) = changing();
    text(&program, "/flood");
    let floods = || lines.lock().iter().filter(|line| *line == "flood").count();
    assert_eq!(floods(), 256);
    let begun = Instant::now();
    for _ in 0..12 {
        text(&program, "/flood");
    }
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 2;
    assert!(floods() <= 256 + seconds * 1024, "{}", floods());
    assert!(floods() >= 512, "each call may say something");
}

#[test]
fn storage_gets_the_memory_it_may_have_and_calls_leave_none_behind() {
    let program = program_with("storage", Threads::AsHostLikes, |recipe| {
        recipe.storage = true;
        recipe.max_memory = 48 << 20;
        recipe.address_space = 48 << 20;
        recipe.max_storage_time *= guests::slowness();
    });
    for _ in 0..40 {
        assert_eq!(text(&program, "/reflect?4000000"), "4000000 same");
    }
    // It is told when there is no more, whenever that is looked at.
    let got: u64 = text(&program, "/eat").parse().unwrap();
    assert!((10..=48).contains(&got), "{got} MiB");
    assert_eq!(text(&program, "/add"), "1");
    // Where there is no room for a call's data it fails, and nothing else.
    let reply = get(&program, "/reflect?4000000");
    assert_eq!(reply.text(), "-1 different");
    assert_eq!(text(&program, "/add"), "2");
    assert_eq!(counter(&program, "restarts"), 0);
    assert!(counter(&program, "vm_bank_highest") > 0);
}

#[test]
fn the_state_file_has_no_more_than_max_memory() {
    let name = format!("state-{}", std::process::id());
    let path = guests::output_directory().join(name);
    let file = File::create(&path).unwrap();
    file.set_len((48 << 20) - 3).unwrap();
    let program = program_with("storage", Threads::AsHostLikes, |recipe| {
        recipe.storage = true;
        recipe.max_memory = 48 << 20;
        recipe.address_space = 64 << 20;
        recipe.max_storage_time *= guests::slowness();
        recipe.paths = vec![AllowedPath {
            guest: b"state".to_vec(),
            host: path.clone(),
            writable: true,
            ..AllowedPath::default()
        }];
    });
    assert_eq!(text(&program, "/state?four"), "3");
    assert_eq!(text(&program, "/state?four"), "-1");
    assert_eq!(file.metadata().unwrap().len(), 48 << 20);
    std::fs::remove_file(&path).unwrap();
}
