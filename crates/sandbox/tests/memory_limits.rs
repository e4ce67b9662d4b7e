//! A program gets the memory that it may have and no more, also where the host writes for it, which is
//! faster than anybody looks.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod common;

use common::{MIB, Program, Recorder, config, soon};
use sandbox::{Fault, Host, MainVm, RequestLimits};

const LIMIT: u64 = 16 * MIB;

/// `content` was written by main(), `empty` by nobody.
const GREEDY: &str = r#"
#include "kvm_api.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (1ul << 20)
static char empty[160 * MIB];
static char *content;

static void zeros(void)
{
	const int fd = open("/dev/zero", O_RDONLY);
	for (size_t i = 0; i < sizeof(empty); i += MIB)
		for (size_t j = 0; j < MIB;) {
			const ssize_t n = read(fd, empty + i + j, MIB - j);
			if (n <= 0)
				return;
			j += n;
		}
}

static void on_get(const char *url, const char *arg)
{
	static size_t at;
	switch (url[1]) {
	case 'z': zeros(); break;
	case 'd': madvise(content, 64 * MIB, MADV_DONTNEED); break;
	case 'm':
		mmap(content, 64 * MIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		break;
	case 'l': memset(empty + at, 1, MIB); at += MIB; break;
	}
	backend_response_str(200, "text/plain", "done");
}

int main(int argc, char **argv)
{
	if (argc > 1)
		zeros();
	content = mmap(0, 64 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(content, 1, 64 * MIB);
	set_backend_get(on_get);
	wait_for_requests();
}
"#;

fn greedy() -> Vec<u8> {
    let elf = guests::compile_text("greedy", GREEDY, guests::Compiler::Gcc, &["-Wno-unused"]);
    std::fs::read(elf).unwrap()
}

fn boot() -> Program {
    let mut config = config("greedy");
    config.request = RequestLimits {
        memory: LIMIT,
        keep: 1 << 40,
    };
    Program::boot_file(&greedy(), &config).unwrap()
}

/// Fails where more was used than the program could write itself since the last look.
fn assert_stopped_in_time(what: &str, end: Result<(), Fault>) {
    match end {
        Err(Fault::OutOfMemory { used, limit }) => {
            assert_eq!(limit, LIMIT, "{what}");
            assert!(used <= limit + MIB, "{what}: {used}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn no_call_writes_more_for_a_request_than_it_may_have() {
    let program = boot();
    let mut guest = program.fork();
    for url in ["/zeros", "/discard", "/map"] {
        let end = guest.ask_until(url, "", soon());
        assert_stopped_in_time(url, end.map(drop));
        guest.vm.reset().unwrap();
        assert_eq!(guest.vm.differences(), [], "{url}");
        guest.ask("/", "").unwrap();
    }
}

#[test]
fn no_call_writes_more_for_main_than_it_may_have() {
    let mut config = config("greedy");
    config.args = vec!["greedy".into(), "zeros".into()];
    config.max_memory = LIMIT;
    let host = Host::open().unwrap();
    let mut main = MainVm::boot(&host, &greedy(), &config).unwrap();
    let end = main.run(soon(), &mut Recorder::default());
    assert_stopped_in_time("main", end.map(drop));
}

#[test]
fn many_short_calls_without_a_reset_have_no_more_memory_than_a_long_one() {
    let program = boot();
    let mut guest = program.fork();
    let end = (0..150).find_map(|_| {
        let end = guest.ask_until("/little", "", soon()).err();
        guest.vm.begin_next_call();
        end
    });
    assert!(matches!(end, Some(Fault::OutOfMemory { .. })), "{end:?}");
}
