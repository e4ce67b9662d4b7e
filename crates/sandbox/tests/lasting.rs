//! VMs that keep their state from call to call: what a program's storage is made of.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod common;

use common::{MIB, Program, Recorder, config, soon};
use sandbox::{
    Action, AllowedPath, Exit, GuestVirt, Host, Hypercalls, MainVm, Place, Protection,
    RequestLimits, Vm, VmCall,
};
use tinykvm_sys::abi;

/// Stops the VM where it says something; counts what it prints.
#[derive(Default)]
struct Listener {
    said: Vec<Vec<u8>>,
    printed: usize,
}

impl Hypercalls for Listener {
    fn hypercall(&mut self, vm: &mut VmCall<'_>, number: u32) -> Action {
        let (at, len) = (GuestVirt::new(vm.regs.rdi), vm.regs.rsi);
        match number {
            abi::TINYKVM_CALL_STORAGE_RETURN | abi::TINYKVM_CALL_STORAGE_NORETURN => {
                self.said.push(vm.memory.read_bytes(at, len, 4096).unwrap());
                Action::Stop
            }
            other => panic!("hypercall {other:#x}"),
        }
    }

    fn output(&mut self, _stream: u8, text: &[u8]) {
        self.printed += text.len();
    }
}

/// A program that may write one file, which does not exist yet.
fn boot(file: &str) -> (Program, std::path::PathBuf) {
    let path = std::env::temp_dir().join(format!("tinykvm-{}-{file}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let mut config = config("keeps");
    config.paths = vec![AllowedPath {
        guest: b"/state".to_vec(),
        host: path.clone(),
        writable: true,
        ..AllowedPath::default()
    }];
    config.request = RequestLimits {
        memory: 16 * MIB,
        keep: 0,
    };
    let program = Program::boot_file(&guests::elf("keeps"), &config).unwrap();
    (program, path)
}

/// Calls `keep` once, to its end: what it said.
fn keep(vm: &mut Vm, function: u64) -> String {
    let mut listener = Listener::default();
    vm.begin_next_call();
    let exit = vm.call(GuestVirt::new(function), &[], soon(), &mut listener);
    assert_eq!(exit, Ok(Exit::Stopped(abi::TINYKVM_CALL_STORAGE_RETURN)));
    let exit = vm.continue_from_stop(soon(), &mut listener);
    assert!(matches!(exit, Ok(Exit::Returned { .. })), "{exit:?}");
    String::from_utf8(listener.said.remove(0)).unwrap()
}

#[test]
fn a_lasting_vm_keeps_memory_mappings_and_the_right_to_write_and_its_functions_return() {
    let (program, path) = boot("lasting");
    let mut vm = program.image.fork_to_last().unwrap();
    for number in 1..=3 {
        let expected = format!("{number} {number} 1 {}", number - 1);
        assert_eq!(keep(&mut vm, program.entries[6]), expected);
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"xxx");
    // A request VM of the same image shares nothing with it and may not write.
    let mut request = program.image.fork().unwrap();
    assert_eq!(keep(&mut request, program.entries[6]), "1 1 -1 0");
    // Another one starts from the image.
    let mut other = program.image.fork_to_last().unwrap();
    assert_eq!(keep(&mut other, program.entries[6]), "1 1 1 0");
    assert_eq!(keep(&mut vm, program.entries[6]), "4 4 1 3");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn each_call_of_a_lasting_vm_has_room_for_data_and_output_of_its_own() {
    let (program, _) = boot("room");
    let mut vm = program.image.fork_to_last().unwrap();
    let mut places = Vec::new();
    for _ in 0..3 {
        vm.begin_next_call();
        places.push(vm.request_alloc(200 << 10).unwrap());
        assert!(vm.request_alloc(200 << 10).is_err());
        let mut listener = Listener::default();
        let function = GuestVirt::new(program.entries[7]);
        vm.call(function, &[], soon(), &mut listener).unwrap();
        assert_eq!(listener.printed, 1 << 20);
    }
    places.dedup();
    assert_eq!(places.len(), 1);
}

#[test]
fn a_lasting_vm_is_refused_memory_beyond_its_limit_and_lives_on() {
    let (program, path) = boot("limit");
    let mut vm = program.image.fork_to_last().unwrap();
    let mut mapped = 0;
    while let Ok(at) = vm
        .memory_mut()
        .map(Place::Anywhere, MIB, Protection::READ_WRITE)
    {
        vm.memory_mut().write(at, &[1; 1 << 20]).unwrap();
        mapped += 1;
    }
    assert!((12..=16).contains(&mapped), "{mapped} MiB of 16");
    // Running long enough for its memory to be looked at: nothing comes of it.
    for _ in 0..20 {
        vm.begin_next_call();
        let mut listener = Listener::default();
        let function = GuestVirt::new(program.entries[7]);
        vm.call(function, &[], soon(), &mut listener).unwrap();
    }
    let _ = std::fs::remove_file(&path);
}

/// Stops with the short form of OUT, prints which time it went on, and stops again.
const GOES_ON: &str = r#"
#include "kvm_api.h"
#include <unistd.h>
static void on_get(const char *url, const char *arg)
{
	(void)url;
	(void)arg;
}
int main(void)
{
	set_backend_get(on_get);
	for (char n = '0';; n++) {
		__asm__ volatile("out %%eax, (%%dx)" :: "a"(0x10002), "d"(0), "D"(0) : "memory");
		write(1, &n, 1);
	}
}
"#;

#[test]
fn a_program_goes_on_behind_the_call_that_stopped_it_whatever_ran_meanwhile() {
    let elf = guests::compile_text("goes_on", GOES_ON, guests::Compiler::Gcc, &[]);
    let elf = std::fs::read(elf).unwrap();
    let stopped = Ok(Exit::Stopped(abi::TINYKVM_CALL_WAIT_PAUSED));
    let mut heard = Recorder::default();
    let mut main = MainVm::boot(&Host::open().unwrap(), &elf, &config("goes_on")).unwrap();
    assert_eq!(main.run(soon(), &mut heard), stopped);
    let function = GuestVirt::new(heard.entries[1]);
    for _ in 0..2 {
        let exit = main.call(function, &[], soon(), &mut heard);
        assert!(matches!(exit, Ok(Exit::Returned { .. })), "{exit:?}");
        assert_eq!(main.run(soon(), &mut heard), stopped);
    }
    let image = main.freeze().unwrap();
    let mut vm = image.fork_to_last().unwrap();
    assert_eq!(vm.resume_paused(soon(), &mut heard), stopped);
    for _ in 0..2 {
        let waits = vm.regs_behind_call().unwrap();
        let exit = vm.call(function, &[], soon(), &mut heard);
        assert!(matches!(exit, Ok(Exit::Returned { .. })), "{exit:?}");
        assert_eq!(vm.resume_waiting(Some(waits), soon(), &mut heard), stopped);
    }
    assert_eq!(vm.continue_from_stop(soon(), &mut heard), stopped);
    assert_eq!(heard.printed, b"012345");
}
