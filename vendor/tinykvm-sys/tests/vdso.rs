//! The vDSO as C libraries see it, and its functions run natively: this process maps it, and a
//! frame page, where a guest has them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader, Sym};
use object::{LittleEndian as LE, Object, ObjectSection, ObjectSymbol};
use tinykvm_sys::abi::{self, tinykvm_frame};
use tinykvm_sys::{VDSO, bytes_of};

const CALLS: [&str; 5] = [
    "clock_getres",
    "clock_gettime",
    "getcpu",
    "gettimeofday",
    "time",
];
const PAGE: usize = 4096;
const GIGA: u64 = 1_000_000_000;

fn header() -> &'static FileHeader64<LE> {
    FileHeader64::parse(VDSO).unwrap()
}

#[test]
fn its_file_is_its_memory_and_cannot_be_written() {
    let loads: Vec<_> = header()
        .program_headers(LE, VDSO)
        .unwrap()
        .iter()
        .filter(|it| it.p_type(LE) == elf::PT_LOAD)
        .collect();
    let [load] = loads[..] else {
        panic!("not one segment")
    };
    assert_eq!((load.p_offset(LE), load.p_vaddr(LE)), (0, 0));
    assert_eq!(load.p_filesz(LE), load.p_memsz(LE));
    assert_eq!(
        load.p_flags(LE),
        elf::ProgramFlags(elf::PF_R.0 | elf::PF_X.0)
    );
}

#[test]
fn nothing_in_it_needs_a_loader() {
    let file = object::File::parse(VDSO).unwrap();
    for section in file.sections() {
        let name = section.name().unwrap();
        assert!(
            !["rel", "got", "data", "bss", "plt"]
                .iter()
                .any(|bad| name.contains(bad))
                || name == ".rodata",
            "{name}"
        );
    }
    let dynamic = dynamic_tags();
    for (tag, name) in [
        (elf::DT_NEEDED, "DT_NEEDED"),
        (elf::DT_RELA, "DT_RELA"),
        (elf::DT_REL, "DT_REL"),
        (elf::DT_RELR, "DT_RELR"),
        (elf::DT_JMPREL, "DT_JMPREL"),
        (elf::DT_TEXTREL, "DT_TEXTREL"),
        (elf::DT_INIT, "DT_INIT"),
    ] {
        assert!(!dynamic.contains(&tag.0), "{name}");
    }
    // glibc looks into DT_GNU_HASH, musl into DT_HASH.
    for tag in [
        elf::DT_HASH,
        elf::DT_GNU_HASH,
        elf::DT_SONAME,
        elf::DT_VERDEF,
        elf::DT_VERSYM,
    ] {
        assert!(dynamic.contains(&tag.0), "{tag:?} is missing");
    }
    assert!(file.dynamic_symbols().all(|it| !it.is_undefined()));
}

fn dynamic_tags() -> BTreeSet<i64> {
    let headers = header().program_headers(LE, VDSO).unwrap();
    let dynamic = headers.iter().find_map(|it| it.dynamic(LE, VDSO).unwrap());
    dynamic.unwrap().iter().map(|it| it.tag(LE).0).collect()
}

#[test]
fn it_has_the_functions_and_the_version_that_c_libraries_ask_for() {
    let sections = header().sections(LE, VDSO).unwrap();
    let symbols = sections.symbols(LE, VDSO, elf::SHT_DYNSYM).unwrap();
    let versions = sections.versions(LE, VDSO).unwrap().unwrap();
    let mut found = BTreeSet::new();
    for (index, symbol) in symbols.enumerate() {
        if symbol.st_type() != elf::STT_FUNC {
            continue;
        }
        let name = std::str::from_utf8(symbol.name(LE, symbols.strings()).unwrap()).unwrap();
        let version = versions
            .version(versions.version_index(LE, index).into())
            .unwrap()
            .unwrap();
        assert_eq!(version.name(), b"LINUX_2.6", "{name}");
        found.insert(name.to_owned());
    }
    let expected: BTreeSet<String> = CALLS
        .iter()
        .flat_map(|call| [format!("__vdso_{call}"), (*call).to_owned()])
        .collect();
    assert_eq!(found, expected);

    let (_, strings) = sections
        .iter()
        .find_map(|section| section.dynamic(LE, VDSO).unwrap())
        .unwrap();
    let strings = sections.strings(LE, VDSO, strings).unwrap();
    let soname = header()
        .program_headers(LE, VDSO)
        .unwrap()
        .iter()
        .find_map(|it| it.dynamic(LE, VDSO).unwrap())
        .unwrap()
        .iter()
        .find(|it| it.tag(LE) == elf::DT_SONAME)
        .unwrap();
    assert_eq!(soname.string(LE, strings).unwrap(), b"linux-vdso.so.1");
}

/// The frame page and the vDSO in this process, for one test at a time.
struct Mapped(#[allow(dead_code, reason = "held, not read")] MutexGuard<'static, ()>);

impl Mapped {
    fn new() -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        map(abi::TINYKVM_FRAME as usize, &[0; PAGE]);
        map(abi::TINYKVM_VDSO as usize, VDSO);
        Self(guard)
    }

    fn set(&self, frame: &tinykvm_frame) {
        let bytes = bytes_of(frame);
        let page = std::ptr::with_exposed_provenance_mut::<u8>(abi::TINYKVM_FRAME as usize);
        // SAFETY: `map` made a writable page there, and the frame is smaller.
        unsafe { page.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    fn function(&self, name: &str) -> usize {
        let file = object::File::parse(VDSO).unwrap();
        let symbol = file
            .dynamic_symbols()
            .find(|it| it.name() == Ok(name))
            .unwrap();
        abi::TINYKVM_VDSO as usize + usize::try_from(symbol.address()).unwrap()
    }

    fn clock_gettime(&self, clock: i32) -> (i32, libc::timespec) {
        type Function = extern "C" fn(i32, *mut libc::timespec) -> i32;
        // SAFETY: the address of a function with that signature in the mapped vDSO.
        let call: Function = unsafe { std::mem::transmute(self.function("__vdso_clock_gettime")) };
        let mut time = libc::timespec {
            tv_sec: -1,
            tv_nsec: -1,
        };
        (call(clock, &raw mut time), time)
    }

    fn nanoseconds(&self, clock: i32) -> u64 {
        let (result, time) = self.clock_gettime(clock);
        assert_eq!(result, 0);
        assert!((0..1_000_000_000).contains(&time.tv_nsec));
        time.tv_sec.cast_unsigned() * GIGA + time.tv_nsec.cast_unsigned()
    }
}

/// Puts content at a fixed address, as a guest has it.
fn map(at: usize, content: &[u8]) {
    let place = std::ptr::without_provenance_mut::<c_void>(at);
    let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let len = content.len().next_multiple_of(PAGE);
    // SAFETY: nothing else of a position-independent process is below 1 MiB.
    let mapped = unsafe { libc::mmap(place, len, rights, flags, -1, 0) };
    assert_eq!(
        mapped.expose_provenance(),
        at,
        "{}",
        std::io::Error::last_os_error()
    );
    // SAFETY: at least as many bytes were just mapped.
    unsafe {
        mapped
            .cast::<u8>()
            .copy_from_nonoverlapping(content.as_ptr(), content.len())
    };
}

fn frame(tsc_base: u64, mult: u64) -> tinykvm_frame {
    let mut frame = tinykvm_frame::default();
    frame.clock.tsc_base = tsc_base;
    frame.clock.mult = mult;
    frame.clock.realtime_ns = 1_700_000_000 * GIGA + 123_456_789;
    frame.clock.monotonic_ns = 5_000 * GIGA + 999_999_999;
    frame
}

fn tsc() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[test]
fn clocks_start_at_the_hosts_readings() {
    let mapped = Mapped::new();
    // A TSC base in the future: no time has passed.
    mapped.set(&frame(tsc() + (1 << 40), 1 << 32));
    for clock in [libc::CLOCK_REALTIME, libc::CLOCK_REALTIME_COARSE] {
        assert_eq!(
            mapped.nanoseconds(clock),
            1_700_000_000 * GIGA + 123_456_789
        );
    }
    for clock in [
        libc::CLOCK_MONOTONIC,
        libc::CLOCK_MONOTONIC_RAW,
        libc::CLOCK_MONOTONIC_COARSE,
        libc::CLOCK_BOOTTIME,
    ] {
        assert_eq!(mapped.nanoseconds(clock), 5_000 * GIGA + 999_999_999);
    }
}

#[test]
fn clocks_run_at_the_hosts_rate() {
    let mapped = Mapped::new();
    // From four ticks in a nanosecond to 16 nanoseconds per tick; the last one is more than 64 bits
    // of ticks times multiplier.
    let hour = 1 << 43;
    for (ago, mult) in [
        (0, 1 << 30),
        (1 << 30, 1 << 32),
        (hour, (1 << 32) / 5 * 2),
        (hour, 1 << 36),
    ] {
        let base = tsc().wrapping_sub(ago);
        mapped.set(&frame(base, mult));
        let expected = |tsc: u64| {
            let ticks = u128::from(tsc.wrapping_sub(base));
            5_000 * GIGA + 999_999_999 + u64::try_from((ticks * u128::from(mult)) >> 32).unwrap()
        };
        let before = expected(tsc());
        let read = mapped.nanoseconds(libc::CLOCK_MONOTONIC);
        let after = expected(tsc());
        assert!((before..=after).contains(&read), "{before} {read} {after}");
    }
}

#[test]
fn a_clock_never_goes_backwards_between_two_readings() {
    let mapped = Mapped::new();
    mapped.set(&frame(tsc(), (1 << 32) / 5 * 2));
    let mut last = 0;
    for _ in 0..100_000 {
        let now = mapped.nanoseconds(libc::CLOCK_MONOTONIC);
        assert!(now >= last);
        last = now;
    }
}

#[test]
fn what_only_the_host_knows_is_asked_by_system_call() {
    let mapped = Mapped::new();
    // CPU-time clocks, whatever the TSC says; every clock, where there is no usable TSC.
    mapped.set(&frame(0, 1 << 32));
    assert!(mapped.nanoseconds(libc::CLOCK_THREAD_CPUTIME_ID) < 1000 * GIGA);
    assert_eq!(mapped.clock_gettime(1000).0, -libc::EINVAL);
    mapped.set(&frame(0, 0));
    assert!(mapped.nanoseconds(libc::CLOCK_REALTIME) > 1_700_000_000 * GIGA + 123_456_789);
    assert_eq!(mapped.clock_gettime(-1).0, -libc::EINVAL);
}

#[test]
fn the_other_functions_agree_with_the_clocks() {
    let mapped = Mapped::new();
    let mut at = frame(tsc() + (1 << 40), 1 << 32);
    at.vcpu = 3;
    mapped.set(&at);

    type GetTimeOfDay = extern "C" fn(*mut libc::timeval, *mut [i32; 2]) -> i32;
    // SAFETY: the address of a function with that signature in the mapped vDSO.
    let call: GetTimeOfDay = unsafe { std::mem::transmute(mapped.function("gettimeofday")) };
    let mut time = libc::timeval {
        tv_sec: -1,
        tv_usec: -1,
    };
    let mut zone = [-1, -1];
    assert_eq!(call(&raw mut time, &raw mut zone), 0);
    assert_eq!(
        (time.tv_sec, time.tv_usec, zone),
        (1_700_000_000, 123_456, [0, 0])
    );
    assert_eq!(call(std::ptr::null_mut(), std::ptr::null_mut()), 0);

    type Time = extern "C" fn(*mut i64) -> i64;
    // SAFETY: the address of a function with that signature in the mapped vDSO.
    let call: Time = unsafe { std::mem::transmute(mapped.function("time")) };
    let mut seconds = -1;
    assert_eq!(
        (call(&raw mut seconds), seconds),
        (1_700_000_000, 1_700_000_000)
    );
    assert_eq!(call(std::ptr::null_mut()), 1_700_000_000);

    type GetRes = extern "C" fn(i32, *mut libc::timespec) -> i32;
    // SAFETY: the address of a function with that signature in the mapped vDSO.
    let call: GetRes = unsafe { std::mem::transmute(mapped.function("clock_getres")) };
    let mut resolution = libc::timespec {
        tv_sec: -1,
        tv_nsec: -1,
    };
    assert_eq!(call(libc::CLOCK_MONOTONIC, &raw mut resolution), 0);
    assert_eq!((resolution.tv_sec, resolution.tv_nsec), (0, 1));
    assert_eq!(call(libc::CLOCK_REALTIME, std::ptr::null_mut()), 0);
    assert_eq!(call(1000, &raw mut resolution), -libc::EINVAL);

    type GetCpu = extern "C" fn(*mut u32, *mut u32, *mut c_void) -> i64;
    // SAFETY: the address of a function with that signature in the mapped vDSO.
    let call: GetCpu = unsafe { std::mem::transmute(mapped.function("getcpu")) };
    let (mut cpu, mut node) = (99, 99);
    assert_eq!(call(&raw mut cpu, &raw mut node, std::ptr::null_mut()), 0);
    assert_eq!((cpu, node), (3, 0));
    assert_eq!(
        call(
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut()
        ),
        0
    );
}
