//! What the sandbox costs, against what nobody can beat: a bare KVM round trip, a bare VM, a memcpy,
//! the same program on Linux. Every row is a ratio of two things measured in turns in one run, so
//! that a machine whose speed drifts does not matter. Prints; asserts nothing.
//!
//! `cargo bench -p tinykvm-sandbox --bench limits [-- call|fork|reset|compute ...]`
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a failing test panics"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Guest, MIB, Program, soon};
use kvm_bindings::kvm_userspace_memory_region;
use sandbox::Host;

fn main() {
    let host = Host::open().unwrap();
    println!("host: {:?}\n", host.facts());
    println!(
        "{:<44} {:>10} {:>10} {:>7}  target",
        "", "ours", "limit", "ratio"
    );
    // With the memory that requests have unless configured otherwise.
    let mut usual = common::config("hello");
    usual.request.memory = 64 * MIB;
    let hello = Program::boot_file(&guests::elf("hello"), &usual).unwrap();
    // cargo adds an option of its own.
    let chosen: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let wanted = |part: &str| chosen.is_empty() || chosen.iter().any(|name| name == part);
    if wanted("call") {
        call(&hello);
    }
    if wanted("fork") {
        fork(&hello);
    }
    if wanted("reset") {
        let dirty = Program::boot("dirty");
        for pages in [1, 16, 100, 1000, 4000] {
            reset(&dirty, pages);
        }
    }
    if wanted("compute") {
        for name in ["sha256", "sort", "avx"] {
            compute(name);
        }
    }
}

fn row(what: &str, ours: Duration, limit: Duration, target: &str) {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let ratio = ours.as_secs_f64() / limit.as_secs_f64();
    println!(
        "{what:<44} {:>8.1}us {:>8.1}us {ratio:>7.3}  {target}",
        micros(ours),
        micros(limit)
    );
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Both closures in turns, the median of each.
fn in_turns(
    rounds: usize,
    mut ours: impl FnMut() -> Duration,
    mut limit: impl FnMut() -> Duration,
) -> (Duration, Duration) {
    let pairs: Vec<_> = (0..rounds).map(|_| (ours(), limit())).collect();
    (
        median(pairs.iter().map(|pair| pair.0).collect()),
        median(pairs.iter().map(|pair| pair.1).collect()),
    )
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    black_box(work());
    started.elapsed()
}

/// A request to hello and its reset, against a hypercall that does nothing.
fn call(program: &Program) {
    let spin = guests::compile_text(
        "round_trip",
        "#include \"kvm_api.h\"\n\
         static void on_get(const char *u, const char *a)\n\
         { for (;;) __asm__ volatile(\"out %%eax, $0\" :: \"a\"(0x10010)); }\n\
         int main(void) { set_backend_get(on_get); wait_for_requests(); }",
        guests::Compiler::Gcc,
        &[],
    );
    let bare = Program::boot_file(&std::fs::read(spin).unwrap(), &common::config("round_trip"));
    let bare = bare.unwrap();
    let mut bare = bare.fork();
    bare.ask_until("/", "", soon()).unwrap();
    let mut guest = program.fork();
    const BATCH: u32 = 200;
    let mut request = || {
        guest.ask_until("/", "", soon()).unwrap();
        guest.vm.reset().unwrap();
    };
    (0..1000).for_each(|_| request());
    let (ours, limit) = in_turns(
        50,
        || timed(|| (0..BATCH).for_each(|_| request())) / BATCH,
        || {
            let Guest { vm, recorder, .. } = &mut bare;
            let round = |_| drop(vm.continue_from_stop(soon(), recorder));
            timed(|| (0..BATCH).for_each(round)) / BATCH
        },
    );
    row(
        "request to hello and reset / bare round trip",
        ours,
        limit,
        "",
    );
}

/// A fork, against the VM, virtual CPU and memory slot that it consists of.
fn fork(program: &Program) {
    let kvm = kvm_ioctls::Kvm::new().unwrap();
    // As much as a fork has: the slot's book-keeping grows with it.
    let len = program.image.span();
    // SAFETY: a fresh anonymous mapping that lives until the end of the process.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    // What it costs to destroy VMs, and to wait until it is done, is left out on both sides.
    let mut bare_kept = Vec::new();
    let bare = || {
        let started = Instant::now();
        let vm = kvm.create_vm().unwrap();
        let cpu = vm.create_vcpu(0).unwrap();
        let region = kvm_userspace_memory_region {
            memory_size: len,
            userspace_addr: memory.addr() as u64,
            ..Default::default()
        };
        // SAFETY: the mapping above outlives the VM.
        unsafe { vm.set_user_memory_region(region) }.unwrap();
        let taken = started.elapsed();
        bare_kept.push((vm, cpu));
        taken
    };
    let mut kept = Vec::new();
    let ours = || {
        let started = Instant::now();
        kept.push(program.fork());
        started.elapsed()
    };
    let (ours, limit) = in_turns(100, ours, bare);
    row(
        "fork / bare VM, vCPU and memory slot",
        ours,
        limit,
        "<= 1.3",
    );
    drop(kept);
}

/// A reset of so many dirty pages, against copying as many.
fn reset(program: &Program, pages: usize) {
    let mut guest = program.fork();
    let mut dirty = || {
        guest
            .ask_until(&format!("/{pages}"), "5", soon())
            .map(drop)
            .unwrap()
    };
    dirty();
    guest.vm.reset().unwrap();
    let from = vec![1_u8; pages << 12];
    let mut to = vec![2_u8; pages << 12];
    let mut found = 0;
    let mut reset_once = || {
        guest
            .ask_until(&format!("/{pages}"), "5", soon())
            .map(drop)
            .unwrap();
        timed(|| found = guest.vm.reset().unwrap().pages)
    };
    let (ours, copy) = in_turns(60, &mut reset_once, || {
        timed(|| to.copy_from_slice(black_box(&from)))
    });
    let limit = copy + Duration::from_micros(3);
    row(
        &format!("reset of {found} pages / memcpy of {pages} + 3 us"),
        ours,
        limit,
        "<= 1.5 (100)",
    );
}

/// The same binary as a guest and on Linux; it times itself.
fn compute(name: &str) {
    let nanoseconds = |text: &str| {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix("ns="))
            .unwrap();
        Duration::from_nanos(value.trim().parse().unwrap())
    };
    let path = guests::native(name);
    let program = Program::boot(name);
    let mut guest = program.fork();
    let (ours, limit) = in_turns(
        7,
        || {
            let started = Instant::now();
            let (_, body) = guest.ask_until("/", "", soon()).unwrap();
            let whole = started.elapsed();
            guest.vm.reset().unwrap();
            // What the guest says of itself must not be better than what the host saw.
            whole.max(nanoseconds(&String::from_utf8(body).unwrap()))
        },
        || {
            let output = Command::new(&path).output().unwrap();
            nanoseconds(&String::from_utf8(output.stdout).unwrap())
        },
    );
    row(
        &format!("{name}: guest / native"),
        ours,
        limit,
        "<= 1.031 (0.97 of native)",
    );
}
