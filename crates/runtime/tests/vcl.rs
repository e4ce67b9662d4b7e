//! Programs of VCLs, with real guests: shared, started, unloaded, gone.
//!
//! What is counted is counted for the whole process: one test after the other.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code outside of test functions"
)]

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use runtime::{Denied, Phase, Stored, Vcl};
use serde_json::{Value, json};
use support::get;

static ONE_AFTER_THE_OTHER: Mutex<()> = Mutex::new(());

/// One test at a time, from when the machines of the one before are gone: those that no test waits
/// for end on threads of their own.
fn alone() -> MutexGuard<'static, ()> {
    let alone = ONE_AFTER_THE_OTHER
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    until("earlier machines are gone", || machines() == 0);
    alone
}

/// A guest in a file that goes with the test.
struct File(PathBuf);

impl File {
    fn new(guest: &str, name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tinykvm-{name}-{}", std::process::id()));
        fs::write(&path, guests::elf(guest)).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // A test may have removed it.
        let _gone = fs::remove_file(&self.0);
    }
}

fn vcl(file: &File, more: Value) -> Vcl {
    let mut entry = json!({ "filename": file.0 });
    for (key, value) in more.as_object().unwrap() {
        entry[key] = value.clone();
    }
    let vcl = Vcl::new();
    vcl.define(&json!({ "p": entry }).to_string(), "test")
        .unwrap();
    vcl
}

/// Open virtual machines of this process.
fn machines() -> usize {
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.as_os_str() == "anon_inode:kvm-vm")
        .count()
}

/// Waits for what another thread is about to do.
fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !happened() {
        assert!(Instant::now() < deadline, "{what}");
        thread::yield_now();
    }
}

#[test]
fn an_instance_is_shared_and_ends_with_the_last_vcl_and_the_last_request() {
    let _alone = alone();
    let file = File::new("hello", "shared");
    let before = machines();
    let (one, two) = (vcl(&file, json!({})), vcl(&file, json!({})));
    assert_eq!(get(&one.program(b"p").unwrap(), "/").status(), 200);
    let loaded = machines();
    assert!(loaded > before);
    let program = two.program(b"p").unwrap();
    assert_eq!(program.phase(), Phase::Serving);
    assert_eq!(get(&program, "/").status(), 200);
    let stats: Value = serde_json::from_str(&two.stats("", 2).unwrap()).unwrap();
    assert_eq!(stats["p"]["request"]["totals"]["status_2xx"], 2);

    let request = program.reserve().unwrap();
    drop(program);
    drop(one);
    assert_eq!(machines(), loaded);
    two.cool();
    assert!(machines() > before, "the request still holds its machine");
    drop(request);
    until("all machines are gone", || machines() == before);
    drop(two);
}

#[test]
fn loading_the_same_vcl_again_and_again_leaves_nothing_behind() {
    let _alone = alone();
    let file = File::new("hello", "again");
    let before = machines();
    let mut current = vcl(&file, json!({ "start": true }));
    current.warm();
    let instance = current.program(b"p").unwrap();
    until("it starts", || instance.phase() == Phase::Serving);
    for _ in 0..200 {
        let next = vcl(&file, json!({ "start": true }));
        next.warm();
        assert!(Arc::ptr_eq(&instance, &next.program(b"p").unwrap()));
        current.cool();
        current = next;
    }
    assert_eq!(get(&instance, "/").status(), 200);
    drop((instance, current));
    until("all machines are gone", || machines() == before);
}

#[test]
fn invalidated_programs_load_anew_what_is_in_the_file_now() {
    let _alone = alone();
    let file = File::new("hello", "invalid");
    let vcl = vcl(&file, json!({}));
    let program = vcl.program(b"p").unwrap();
    let first = get(&program, "/x").text();
    fs::write(&file.0, guests::elf("echo")).unwrap();
    assert_eq!(get(&program, "/x").text(), first);
    let running = program.reserve().unwrap();
    assert_eq!(vcl.invalidate("^p$").unwrap(), 1);
    assert_eq!(vcl.stats("", -1).unwrap(), "null");
    assert_eq!(get(&vcl.program(b"p").unwrap(), "/x").text(), "/x ");
    drop(running);
}

#[test]
fn main_arguments_of_a_loaded_program_count_after_invalidation() {
    let _alone = alone();
    let file = File::new("hello", "arguments");
    let vcl = vcl(&file, json!({}));
    let program = vcl.program(b"p").unwrap();
    assert_eq!(get(&program, "/").status(), 200);
    vcl.main_arguments("p", vec![b"x".to_vec()]).unwrap();
    assert!(Arc::ptr_eq(&program, &vcl.program(b"p").unwrap()));
    assert_eq!(vcl.invalidate("").unwrap(), 1);
    assert!(!Arc::ptr_eq(&program, &vcl.program(b"p").unwrap()));
}

#[test]
fn configuring_a_started_program_starts_it_with_the_new_settings() {
    let _alone = alone();
    let file = File::new("hello", "configured");
    let vcl = vcl(&file, json!({}));
    vcl.start("p").unwrap();
    vcl.configure("p", r#"{"concurrency": 1}"#).unwrap();
    let program = vcl.program(b"p").unwrap();
    until("it starts", || program.phase() == Phase::Serving);
    let stats: Value = serde_json::from_str(&vcl.stats("p", -1).unwrap()).unwrap();
    assert_eq!(
        stats["p"]["request"]["machines"].as_array().unwrap().len(),
        1
    );
}

#[test]
fn a_failed_start_says_why_at_once_and_is_tried_again_when_invalidated() {
    let _alone = alone();
    let file = File::new("hello", "failing");
    fs::remove_file(&file.0).unwrap();
    let vcl = vcl(&file, json!({}));
    let program = vcl.program(b"p").unwrap();
    for _ in 0..3 {
        let error = program.reserve().unwrap_err().to_string();
        assert!(error.contains("No such file"), "{error}");
        assert!(error.contains(file.0.to_str().unwrap()), "{error}");
    }
    fs::write(&file.0, guests::elf("hello")).unwrap();
    vcl.invalidate("p").unwrap();
    assert_eq!(get(&program, "/").status(), 200);
}

#[test]
fn the_queue_is_as_long_as_it_is_configured() {
    let _alone = alone();
    let file = File::new("hello", "queue");
    let settings = json!({ "concurrency": 1, "max_queue_length": 0, "max_queue_time": 0.05 });
    let full = vcl(&file, settings);
    let program = full.program(b"p").unwrap();
    // The first one may need longer than that to start.
    let mut held = None;
    until("it starts", || {
        held = program.reserve().ok();
        held.is_some()
    });
    assert!(
        program
            .reserve()
            .unwrap_err()
            .to_string()
            .contains("too many")
    );
    drop(held);
    let patient = vcl(&file, json!({ "concurrency": 1, "max_queue_time": 0.05 }));
    let program = patient.program(b"p").unwrap();
    let mut held = None;
    until("it starts", || {
        held = program.reserve().ok();
        held.is_some()
    });
    let error = program.reserve().unwrap_err().to_string();
    assert!(error.contains("became free within"), "{error}");
    drop(held);
}

#[test]
fn no_more_requests_wait_for_a_start_than_the_program_takes_in_when_it_serves() {
    let _alone = alone();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}/p", server.local_addr().unwrap());
    let vcl = Vcl::new();
    let settings = json!({ "uri": uri, "concurrency": 1, "max_queue_length": 2 });
    vcl.configure("starts", &settings.to_string()).unwrap();
    let program = vcl.program(b"starts").unwrap();
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..5 {
            let (program, tell) = (&program, tell.clone());
            scope.spawn(move || {
                let reserved = program.reserve().map(drop);
                tell.send(reserved.map_err(|error| error.to_string()))
                    .unwrap();
            });
        }
        for _ in 0..2 {
            let error = told.recv().unwrap().unwrap_err();
            assert!(error.contains("is starting"), "{error}");
            assert!(error.contains("max_queue_length"), "{error}");
        }
        // One gets the VM, and two wait for it.
        let (mut stream, _) = server.accept().unwrap();
        let elf = guests::elf("hello");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", elf.len());
        assert!(stream.read(&mut [0; 1000]).unwrap() > 0);
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&elf).unwrap();
        for _ in 0..3 {
            assert_eq!(told.recv().unwrap(), Ok(()));
        }
    });
    let stats = program.statistics().unwrap();
    assert_eq!(stats["program"]["reservation_refused"], 2);
}

#[test]
fn an_update_reaches_every_vcl_with_the_program_and_lasts_over_reloads() {
    let _alone = alone();
    let file = File::new("hello", "updated");
    let (one, two) = (
        vcl(&file, json!({ "key": "secret" })),
        vcl(&file, json!({ "key": "secret" })),
    );
    assert_eq!(get(&two.program(b"p").unwrap(), "/x").text(), "Hello World");
    let updatable = one.updatable_with(b"p", b"secret").unwrap();
    let updated = updatable.update(guests::elf("echo")).unwrap();
    assert!(matches!(&updated.stored, Stored::Yes(path) if *path == file.0));
    assert_eq!(get(&two.program(b"p").unwrap(), "/x").text(), "/x ");
    // The next load is from the file, which has it now.
    assert_eq!(fs::read(&file.0).unwrap(), guests::elf("echo"));
    one.invalidate("p").unwrap();
    assert_eq!(get(&two.program(b"p").unwrap(), "/y").text(), "/y ");
}

#[test]
fn only_the_key_of_the_program_admits_to_updates_and_an_empty_one_never_does() {
    let file = File::new("hello", "keys");
    let denied = |vcl: &Vcl, name: &str, key: &str| {
        vcl.updatable_with(name.as_bytes(), key.as_bytes())
            .unwrap_err()
    };
    let with_key = vcl(&file, json!({ "key": "secret" }));
    for wrong in ["", "secreT", "secre", "secret "] {
        assert_eq!(denied(&with_key, "p", wrong), Denied::WrongKey);
    }
    assert_eq!(denied(&with_key, "q", "secret"), Denied::Unknown);
    assert_eq!(
        with_key.updatable_with(b"p", b"secret").unwrap().name(),
        "p"
    );
    for without in [json!({}), json!({ "key": "" })] {
        assert_eq!(denied(&vcl(&file, without), "p", ""), Denied::NoKey);
    }
}

#[test]
fn an_update_may_come_from_a_file_and_bring_a_missing_program_to_life() {
    let _alone = alone();
    let file = File::new("hello", "missing");
    fs::remove_file(&file.0).unwrap();
    let vcl = vcl(&file, json!({}));
    let program = vcl.program(b"p").unwrap();
    program.reserve().unwrap_err();
    let updatable = vcl.updatable(b"p").unwrap();
    let error = updatable.update_from(&file.0).unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
    let echo = guests::compile("echo");
    updatable.update_from(&echo).unwrap();
    assert_eq!(get(&program, "/x").text(), "/x ");
    assert_eq!(fs::read(&file.0).unwrap(), fs::read(echo).unwrap());
}

#[test]
fn who_waits_too_long_for_an_update_hears_504_and_the_update_goes_on() {
    let _alone = alone();
    let file = File::new("hello", "late");
    let vcl = vcl(&file, json!({}));
    let program = vcl.program(b"p").unwrap();
    assert_eq!(get(&program, "/x").text(), "Hello World");
    let updatable = vcl.updatable(b"p").unwrap();
    let (go_on, held_up) = mpsc::channel::<()>();
    let late = updatable.within(Duration::from_millis(20), move |updatable| {
        held_up.recv().unwrap();
        updatable.update(guests::elf("echo"))
    });
    let error = late.unwrap_err();
    assert_eq!(error.status(), 504, "{error}");
    assert!(error.to_string().contains("still under way"), "{error}");
    assert_eq!(get(&program, "/x").text(), "Hello World");
    go_on.send(()).unwrap();
    until("the new build serves", || {
        get(&program, "/x").text() == "/x "
    });
    let in_time = updatable.within(updatable.max_time(), |updatable| {
        updatable.update(guests::elf("hello"))
    });
    assert!(matches!(in_time.unwrap().stored, Stored::Yes(_)));
    assert_eq!(get(&program, "/x").text(), "Hello World");
}

#[test]
fn an_update_takes_settings_that_have_changed_since_the_program_was_loaded() {
    let _alone = alone();
    let file = File::new("hello", "settings");
    let vcl = vcl(&file, json!({}));
    let old = vcl.program(b"p").unwrap();
    assert_eq!(get(&old, "/").text(), "Hello World");
    vcl.main_arguments("p", vec![b"one".to_vec()]).unwrap();
    let updatable = vcl.updatable(b"p").unwrap();
    updatable.update(b"no program".to_vec()).unwrap_err();
    assert!(Arc::ptr_eq(&vcl.program(b"p").unwrap(), &old));
    assert_eq!(get(&old, "/").text(), "Hello World");
    updatable.update(guests::elf("environment")).unwrap();
    let new = vcl.program(b"p").unwrap();
    assert!(!Arc::ptr_eq(&new, &old));
    let text = get(&new, "/").text();
    assert!(text.contains("one"), "{text}");
}

#[test]
fn an_update_of_a_vcl_that_cools_down_ends_and_leaves_nothing_behind() {
    let _alone = alone();
    let file = File::new("hello", "cooled");
    let before = machines();
    let vcl = vcl(&file, json!({}));
    get(&vcl.program(b"p").unwrap(), "/");
    let updatable = vcl.updatable(b"p").unwrap();
    vcl.cool();
    updatable.update(guests::elf("echo")).unwrap();
    drop(updatable);
    until("all machines are gone", || machines() == before);
    // Warm again it finds what the update has left.
    assert_eq!(get(&vcl.program(b"p").unwrap(), "/x").text(), "/x ");
}
