//! What a program prints where its settings ask for more than the log. Alone in its process, whose
//! standard output it takes.

mod support;

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex};

use runtime::{Threads, Voice};
use support::{get, program_with};

#[test]
fn output_goes_to_standard_output_and_system_calls_and_mappings_to_the_log_where_settings_say_so() {
    let path = std::env::temp_dir().join(format!("tinykvm-output-{}", std::process::id()));
    let mut options = File::options();
    let mut file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    let said = Arc::new(Mutex::new(String::new()));
    let heard = Arc::clone(&said);
    runtime::journal::listen(move |_, _, line| {
        let mut said = heard.lock().unwrap();
        said.push_str(&String::from_utf8_lossy(line));
        said.push('\n');
    });
    // SAFETY: both descriptors are open; nobody else of this process uses standard output meanwhile.
    let before = unsafe { libc::dup(1) };
    // SAFETY: as above.
    assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), 1) }, 1);
    let loud = program_with("files", Threads::AsHostLikes, |recipe| {
        recipe.voice = Voice {
            stdout: true,
            start: true,
            system_calls: true,
            mappings: true,
        };
    });
    let reply = get(&loud, "/nowhere");
    // SAFETY: as above.
    assert_eq!(unsafe { libc::dup2(before, 1) }, 1);

    let mut printed = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut printed).unwrap();
    assert!(
        printed.contains("files says: started with 0 arguments\n"),
        "{printed}"
    );
    assert!(reply.log().contains("files: openat("), "{}", reply.log());
    assert!(reply.log().contains("= errno 13"), "{}", reply.log());
    let said = said.lock().unwrap();
    for line in [
        "request VMs, reset after each request",
        "waits at 0x",
        "on_get is at 0x",
        " r-x ",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
}
