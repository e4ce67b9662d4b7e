//! Boots the guest programs of tests/guests and calls them as the runtime does, in its barest form:
//! enough to see what the sandbox itself promises.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbox::gdb::Debugging;
use sandbox::{
    Action, BootConfig, BootError, Exit, Fault, GuestVirt, Host, Hypercalls, Image, MainVm,
    RequestLimits, Vm, VmCall,
};
use tinykvm_sys::abi;

pub(crate) const MIB: u64 = 1 << 20;

/// Remembers what a program registers and prints.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) entries: [u64; 13],
    pub(crate) printed: Vec<u8>,
    pub(crate) notices: Vec<String>,
}

impl Hypercalls for Recorder {
    fn hypercall(&mut self, vm: &mut VmCall<'_>, number: u32) -> Action {
        match number {
            abi::TINYKVM_CALL_REGISTER_FUNC => {
                self.entries[usize::try_from(vm.regs.rdi & 0xf).unwrap()] = vm.regs.rsi;
                Action::Continue
            }
            abi::TINYKVM_CALL_WAIT_FOR_REQUESTS
            | abi::TINYKVM_CALL_WAIT_PAUSED
            | abi::TINYKVM_CALL_BACKEND_RESPONSE => Action::Stop,
            abi::TINYKVM_CALL_BREAKPOINT => Action::Break,
            _ => {
                vm.regs.rax = (-38_i64).cast_unsigned();
                Action::Continue
            }
        }
    }

    fn output(&mut self, _stream: u8, text: &[u8]) {
        self.printed.extend_from_slice(text);
    }

    fn notice(&mut self, text: &str) {
        self.notices.push(text.to_owned());
    }
}

pub(crate) fn config(name: &str) -> BootConfig {
    BootConfig {
        name: name.into(),
        args: vec![name.into()],
        env: vec![b"KVM_NAME=test".to_vec(), b"KVM_TYPE=request".to_vec()],
        executable: format!("/{name}").into_bytes(),
        max_memory: 256 * MIB,
        address_space: 256 * MIB,
        shared_memory: 0,
        large_pages: false,
        regions: Vec::new(),
        request: RequestLimits {
            memory: 128 * MIB,
            keep: 1 << 40,
        },
        executable_heap: false,
        paths: Vec::new(),
        cwd: b"/".to_vec(),
        debugging: Debugging::default(),
    }
}

/// A long time, on any host that tests run on.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(300)
}

/// A program's image, with the functions it registered.
pub(crate) struct Program {
    pub(crate) image: Arc<Image>,
    pub(crate) entries: [u64; 13],
    pub(crate) printed: Vec<u8>,
}

impl Program {
    pub(crate) fn boot(name: &str) -> Self {
        Self::boot_file(&guests::elf(name), &config(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub(crate) fn boot_file(elf: &[u8], config: &BootConfig) -> Result<Self, BootError> {
        let host = Host::open()?;
        let mut main = MainVm::boot(&host, elf, config)?;
        let mut recorder = Recorder::default();
        match main.run(soon(), &mut recorder) {
            Ok(Exit::Stopped(_)) => {}
            other => panic!(
                "{}: {other:?} before waiting; {:?}; {}",
                config.name,
                main.counters(),
                String::from_utf8_lossy(&recorder.printed)
            ),
        }
        let Recorder {
            entries, printed, ..
        } = recorder;
        Ok(Self {
            image: main.freeze()?,
            entries,
            printed,
        })
    }

    pub(crate) fn fork(&self) -> Guest {
        Guest {
            vm: self.image.fork().unwrap(),
            get: GuestVirt::new(self.entries[1]),
            recorder: Recorder::default(),
        }
    }
}

/// A request VM and the function it answers GET requests with.
pub(crate) struct Guest {
    pub(crate) vm: Vm,
    pub(crate) get: GuestVirt,
    pub(crate) recorder: Recorder,
}

impl Guest {
    /// Asks without resetting afterwards.
    pub(crate) fn ask_until(
        &mut self,
        url: &str,
        arg: &str,
        by: Instant,
    ) -> Result<(u64, Vec<u8>), Fault> {
        let url = self.vm.push_request_bytes(url.as_bytes(), true)?;
        let arg = self.vm.push_request_bytes(arg.as_bytes(), true)?;
        let arguments = [url.raw(), arg.raw()];
        match self.vm.call(self.get, &arguments, by, &mut self.recorder)? {
            Exit::Stopped(abi::TINYKVM_CALL_BACKEND_RESPONSE) => {}
            other => panic!("{other:?}"),
        }
        let regs = *self.vm.regs();
        let body = self
            .vm
            .memory()
            .read_bytes(GuestVirt::new(regs.rcx), regs.r8, 1 << 28)?;
        Ok((regs.rdi & 0xffff, body))
    }

    /// Asks, resets, and makes sure that nothing is left.
    pub(crate) fn ask(&mut self, url: &str, arg: &str) -> Result<String, Fault> {
        let answer = self.ask_until(url, arg, soon());
        self.vm.reset().unwrap();
        assert_eq!(self.vm.differences(), [], "after {url} {arg}");
        answer.map(|(status, body)| {
            assert_eq!(status, 200, "{url}: {}", String::from_utf8_lossy(&body));
            String::from_utf8_lossy(&body).into_owned()
        })
    }
}
