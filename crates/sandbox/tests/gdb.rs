//! A real gdb attaches to guests: it sees the program, changes it, steps through it, and what it has
//! done is gone with the request.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::{Program, config, soon};
use guests::Compiler;
use sandbox::Fault;
use sandbox::gdb::Debugging;

fn program() -> PathBuf {
    guests::compile_with("debuggee", Compiler::Gcc, &["-g", "-O1"])
}

/// A port that nobody uses just now.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A process has one session at a time; `cargo test` runs all tests in one.
fn alone() -> MutexGuard<'static, ()> {
    static SESSION: Mutex<()> = Mutex::new(());
    SESSION.lock().unwrap_or_else(PoisonError::into_inner)
}

fn debugging() -> Debugging {
    Debugging {
        port: free_port(),
        wait: Duration::from_secs(300),
        ..Debugging::default()
    }
}

fn boot(file: &Path, debugging: Debugging) -> Program {
    let mut config = config("debuggee");
    config.debugging = debugging;
    Program::boot_file(&std::fs::read(file).unwrap(), &config).unwrap()
}

/// Starts a gdb that connects as soon as somebody listens, and does what it is told.
fn gdb(file: &Path, port: u16, commands: &[&str]) -> Child {
    let connect = format!("target remote 127.0.0.1:{port}");
    let mut gdb = Command::new("gdb");
    gdb.args(["--batch", "-nx"])
        .args(["-ex", "set tcp connect-timeout 300"])
        .args(["-ex", "set remotetimeout 100"])
        .args(["-ex", &connect]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    gdb.arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run gdb ({error}): `make setup` installs it"))
}

fn text(gdb: Child) -> String {
    let output = gdb.wait_with_output().unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// All of these are in the text, in this order.
fn assert_in_order(text: &str, expected: &[&str]) {
    let mut rest = text;
    for part in expected {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => panic!("no {part:?} where it should be in:\n{text}"),
        }
    }
}

#[test]
fn gdb_at_a_breakpoint_call_sees_steps_and_changes_the_program_and_the_request_answers() {
    let _alone = alone();
    let file = program();
    let debugging = Debugging {
        at_breakpoints: true,
        ..debugging()
    };
    let program = boot(&file, debugging);
    let mut guest = program.fork();
    let commands = [
        "backtrace",
        "break add",
        "continue",
        "print more",
        "print *order",
        "print sum",
        "x/1xb &add",
        "stepi",
        "stepi",
        "next",
        "set var sum = 100",
        "info registers rip xmm0 mxcsr",
        "finish",
        "continue",
    ];
    let gdb = gdb(&file, debugging.port, &commands);
    let answer = guest.ask("/break", "").unwrap();
    let said = text(gdb);
    assert_in_order(
        &said,
        &[
            "sys_breakpoint",
            "on_get (url=",
            "\"/break\"",
            "Breakpoint 1, add (order=",
            "$1 = 3",
            "number = 2, article = 0x",
            "\"bread\"",
            "$3 = 40",
            "add>:",
            "mxcsr",
            "Value returned is",
            "= 5",
            "exited normally",
        ],
    );
    assert!(
        !said.contains("add>:\t0xcc"),
        "gdb sees its breakpoint:\n{said}"
    );
    // `sum` was changed before or after the addition, where `next` came to.
    assert!(
        answer == "5 105 7" || answer == "5 100 7",
        "{answer}\n{said}"
    );
    // `ask` has compared the whole memory with the image. Without a debugger nothing has changed.
    assert_eq!(guest.ask("/", "").unwrap(), "5 45 7");
    assert_eq!(program.fork().ask("/", "").unwrap(), "5 45 7");
}

#[test]
fn gdb_at_a_fault_sees_where_it_happened_and_the_request_ends_with_it() {
    let _alone = alone();
    let file = program();
    let debugging = Debugging {
        at_faults: true,
        ..debugging()
    };
    let program = boot(&file, debugging);
    let mut guest = program.fork();
    let gdb = gdb(
        &file,
        debugging.port,
        &["backtrace", "print where", "continue", "continue"],
    );
    let fault = guest.ask("/crash", "").unwrap_err();
    let said = text(gdb);
    assert_in_order(
        &said,
        &[
            "#0 ",
            "crash (where=",
            "on_get (url=",
            "= (volatile int *) 0x10",
            "SIGSEGV",
            "terminated with signal SIGSEGV",
        ],
    );
    assert!(
        matches!(
            fault,
            Fault::Exception {
                vector: 14,
                address: 0x10,
                ..
            }
        ),
        "{fault:?}"
    );
    assert_eq!(guest.ask("/", "").unwrap(), "5 45 7");
}

#[test]
fn gdb_can_repair_a_fault() {
    let _alone = alone();
    let file = program();
    let debugging = Debugging {
        at_faults: true,
        ..debugging()
    };
    let program = boot(&file, debugging);
    let gdb = gdb(
        &file,
        debugging.port,
        &[
            "set var where = &sum",
            "set $rdi = &sum",
            "set $rax = &sum",
            "continue",
        ],
    );
    let answer = program.fork().ask("/crash", "").unwrap();
    let said = text(gdb);
    assert_eq!(answer, "5 6 7", "{said}");
}

#[test]
fn gdb_before_main_stops_in_it_and_what_it_changes_is_in_the_image() {
    let _alone = alone();
    let static_pie = guests::compile_with("debuggee", Compiler::GccStaticPie, &["-g", "-O1"]);
    for file in [program(), static_pie] {
        let debugging = Debugging {
            at_start: true,
            ..debugging()
        };
        let commands = [
            "backtrace",
            "break main",
            "continue",
            "print before_main",
            "set var before_main = 9",
            "detach",
        ];
        let gdb = gdb(&file, debugging.port, &commands);
        let program = boot(&file, debugging);
        let said = text(gdb);
        assert_in_order(
            &said,
            &["_start", "Breakpoint 1, main (", "$1 = 7", "detached"],
        );
        // Its forks do not wait for a debugger, and there is no breakpoint in them.
        assert_eq!(program.fork().ask("/", "").unwrap(), "5 45 9", "{said}");
    }
}

/// Connects when somebody listens.
fn connect(port: u16) -> TcpStream {
    loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(stream) => return stream,
            Err(_nobody_yet) => std::thread::yield_now(),
        }
    }
}

/// Sends a packet of gdb's protocol and reads the answer.
fn exchange(stream: &mut TcpStream, packet: &[u8]) -> String {
    stream.write_all(packet).unwrap();
    let mut answer = Vec::new();
    while !(answer.len() > 2 && answer[answer.len() - 3] == b'#') {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn gdb_interrupts_a_program_that_spins_which_then_has_the_rest_of_its_time() {
    let _alone = alone();
    let file = program();
    let debugging = Debugging {
        at_breakpoints: true,
        ..debugging()
    };
    let program = boot(&file, debugging);
    let mut guest = program.fork();
    let fault = std::thread::scope(|scope| {
        let asked = scope.spawn(move || {
            let by = Instant::now() + Duration::from_secs(1) * guests::slowness();
            guest.ask_until("/spin", "", by)
        });
        let mut stream = connect(debugging.port);
        let stop = exchange(&mut stream, b"$?#3f");
        assert!(stop.contains("05"), "{stop}");
        // Continue, and Ctrl-C as gdb sends it.
        let stop = exchange(&mut stream, b"+$vCont;c#a8\x03");
        assert!(stop.contains("$T02") || stop.contains("$S02"), "{stop}");
        let registers = exchange(&mut stream, b"+$g#67");
        assert!(registers.len() > 64, "{registers}");
        drop(stream);
        asked.join().unwrap()
    });
    assert_eq!(fault.unwrap_err(), Fault::TimedOut);
}

#[test]
fn a_program_goes_on_when_the_debugger_goes_away_in_any_way() {
    let _alone = alone();
    let file = program();
    for talk in [
        "",
        "$g#67",
        "$Z0,401000,1#aa",
        "$qSupported#37",
        "garbage",
        "$\0#00",
    ] {
        let debugging = Debugging {
            at_breakpoints: true,
            ..debugging()
        };
        let program = boot(&file, debugging);
        let leaving = std::thread::spawn(move || {
            let mut stream = connect(debugging.port);
            stream.write_all(talk.as_bytes()).unwrap();
        });
        assert_eq!(
            program.fork().ask("/break", "").unwrap(),
            "5 45 7",
            "{talk:?}"
        );
        leaving.join().unwrap();
    }
}

#[test]
fn a_program_goes_on_when_nobody_comes_and_when_the_port_is_taken() {
    let _alone = alone();
    let file = program();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let debugging = Debugging {
        at_breakpoints: true,
        port: taken.local_addr().unwrap().port(),
        ..debugging()
    };
    assert_eq!(
        boot(&file, debugging).fork().ask("/break", "").unwrap(),
        "5 45 7"
    );
    let debugging = Debugging {
        at_breakpoints: true,
        wait: Duration::from_millis(10),
        ..self::debugging()
    };
    assert_eq!(
        boot(&file, debugging).fork().ask("/break", "").unwrap(),
        "5 45 7"
    );
}

#[test]
fn a_run_to_which_nobody_came_once_waits_for_nobody_again() {
    let _alone = alone();
    let text = r#"
#include "kvm_api.h"
static void on_get(const char *url, const char *arg)
{
	for (int i = 0; i < 100; i++)
		sys_breakpoint();
	backend_response_str(200, "text/plain", "done");
}
int main(void) { set_backend_get(on_get); wait_for_requests(); }
"#;
    let file = guests::compile_text("breaks", text, guests::Compiler::Gcc, &["-Wno-unused"]);
    let debugging = Debugging {
        at_breakpoints: true,
        wait: Duration::from_millis(10),
        ..debugging()
    };
    let mut guest = boot(&file, debugging).fork();
    for runs in 1..3 {
        assert_eq!(guest.ask("/", "").unwrap(), "done");
        let waits = |line: &&String| line.contains("waits 10ms for gdb");
        assert_eq!(guest.recorder.notices.iter().filter(waits).count(), runs);
    }
}

#[test]
fn a_packet_without_an_end_ends_the_session() {
    let _alone = alone();
    let debugging = Debugging {
        at_breakpoints: true,
        ..debugging()
    };
    let program = boot(&program(), debugging);
    let mut guest = program.fork();
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(move || guest.ask("/break", ""));
        let mut stream = connect(debugging.port);
        stream.write_all(b"$").unwrap();
        // Nobody reads what comes behind the longest packet.
        while stream.write_all(&[b'a'; 4096]).is_ok() {}
        asked.join().unwrap()
    });
    assert_eq!(asked.unwrap(), "5 45 7");
}

#[test]
fn one_session_at_a_time_others_go_on() {
    let _alone = alone();
    let file = program();
    let debugging = Debugging {
        at_breakpoints: true,
        ..debugging()
    };
    let program = boot(&file, debugging);
    let mut first = program.fork();
    let mut second = program.fork();
    let (asked, stream) = std::thread::scope(|scope| {
        let asked = scope.spawn(move || first.ask("/break", ""));
        let mut stream = connect(debugging.port);
        // The session has begun when it answers.
        stream.write_all(b"$?#3f").unwrap();
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(second.ask("/break", "").unwrap(), "5 45 7");
        stream.write_all(b"+$D#44").unwrap();
        (asked.join().unwrap(), stream)
    });
    drop(stream);
    assert_eq!(asked.unwrap(), "5 45 7");
}

#[test]
fn without_the_setting_a_breakpoint_call_does_nothing() {
    let _alone = alone();
    let program = boot(&program(), Debugging::default());
    let mut guest = program.fork();
    assert_eq!(guest.ask_until("/break", "", soon()).unwrap().0, 200);
}
