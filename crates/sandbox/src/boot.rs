//! A main VM: a program from its file to the point where it waits for requests.

use std::sync::Arc;
use std::time::Instant;

use crate::address::{GuestPhys, GuestVirt, PAGE_SIZE};
use crate::elf::{self, Elf, ElfError, ParseOptions, Symbols};
use crate::gdb::Debugging;
use crate::image::{Image, RequestLimits};
use crate::kvm::{Host, HostError, install};
use crate::linux::{AllowedPath, Process, ProcessConfig};
use crate::machine::{Counters, Exit, Machine};
use crate::memory::{GUARD, MapError, Place, Protection, Region, Use, below};
use crate::start::{self, Auxv, StartError};
use crate::{Fault, Hypercalls, Memory, Regs, layout};

const MAIN_STACK: u64 = 4 << 20;
const HUGE: u64 = 2 << 20;
/// Virtual room for brk(2); memory is only taken for what is used.
const HEAP_ROOM: u64 = 128 << 20;
/// Where mappings without an address must end; far more than any VM has memory for.
const ARENA_END: u64 = 1 << 46;

/// What a main VM is made from, besides the program.
#[derive(Debug, Clone)]
pub struct BootConfig {
    /// The program's name.
    pub name: String,
    /// `argv`.
    pub args: Vec<Vec<u8>>,
    /// The environment, `NAME=value` each.
    pub env: Vec<Vec<u8>>,
    /// What `/proc/self/exe` points to.
    pub executable: Vec<u8>,
    /// Bytes that the main VM may touch.
    pub max_memory: u64,
    /// Bytes that it may map; at least `max_memory`.
    pub address_space: u64,
    /// Bytes that all VMs of the program share.
    pub shared_memory: u64,
    /// Ask the host for large pages where it has some.
    pub large_pages: bool,
    /// Areas of address space that are not the program's to arrange.
    pub regions: Vec<Region>,
    /// What requests may use.
    pub request: RequestLimits,
    /// Mappings may be writable and executable at once.
    pub executable_heap: bool,
    /// The files that the program may use.
    pub paths: Vec<AllowedPath>,
    /// The working directory it starts in.
    pub cwd: Vec<u8>,
    /// When it, and its forks, wait for a debugger.
    pub debugging: Debugging,
}

/// Why a program cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file is not a program that can be run here.
    #[error("cannot load the program: {0}")]
    Elf(#[from] ElfError),
    /// It does not fit into its memory.
    #[error(
        "the program does not fit into {limit} bytes of memory ({error}): raise max_memory or \
         address_space"
    )]
    TooLarge { limit: u64, error: MapError },
    /// An area of address space cannot be arranged as configured.
    #[error("the area at {address} that is configured: {error}")]
    Region { address: GuestVirt, error: MapError },
    /// Its arguments and environment do not fit on the stack.
    #[error("cannot set up arguments and environment: {0}")]
    Start(#[from] StartError),
    /// The host failed.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// A program on its way to its image.
#[derive(Debug)]
pub struct MainVm {
    machine: Machine,
    host: Arc<Host>,
    request: RequestLimits,
    symbols: Symbols,
    wants_executable_stack: bool,
}

impl MainVm {
    /// Loads a program; nothing of it has run yet.
    pub fn boot(host: &Arc<Host>, file: &[u8], config: &BootConfig) -> Result<Self, BootError> {
        let program = elf::parse(
            file,
            &ParseOptions {
                executable_heap: config.executable_heap,
            },
        )?;
        let limit = config.address_space.max(config.max_memory);
        let too_large = |error| BootError::TooLarge { limit, error };
        let prepared = |region: &Region| {
            if region.usage == Use::Nothing {
                0
            } else {
                region.len
            }
        };
        let prepared = config.regions.iter().map(prepared);
        let bytes = prepared.fold(limit, u64::saturating_add);
        let mut memory =
            Memory::new_main_sharing(bytes, config.shared_memory, config.executable_heap)
                .map_err(HostError::Memory)?;
        if config.large_pages {
            memory.prefer_large_pages();
        }
        install(&mut memory).map_err(HostError::Memory)?;
        load(&mut memory, &program).map_err(too_large)?;

        let stack_top = lay_out(&mut memory, program.image_end.raw()).map_err(too_large)?;
        for region in &config.regions {
            let add = memory.add_region(region);
            add.map_err(|error| BootError::Region {
                address: region.address,
                error,
            })?;
        }
        let auxv = Auxv::new(&program, host.hwcap());
        let args: Vec<&[u8]> = config.args.iter().map(Vec::as_slice).collect();
        let env: Vec<&[u8]> = config.env.iter().map(Vec::as_slice).collect();
        let rsp = start::write_stack(&mut memory, stack_top, MAIN_STACK, &args, &env, &auxv)?;

        let process = Process::new(&ProcessConfig {
            name: config.name.clone().into_bytes(),
            executable: config.executable.clone(),
            paths: config.paths.clone(),
            cwd: config.cwd.clone(),
            may_write: true,
            memory: config.max_memory,
            stack: MAIN_STACK,
        });
        let mut frame = crate::entry::Frame::new(host);
        frame.prepare(program.entry.raw(), 0, 0, false);
        let page = frame.page(&Regs::default());
        memory.write_system(GuestPhys::new(layout::FRAME), tinykvm_sys::bytes_of(&page));
        memory.set_limit(config.max_memory);
        let mut machine = Machine::new(host, memory, process)?;
        machine.debugging = config.debugging;
        machine.bias = program.bias;
        machine.start_at(program.entry.raw(), rsp.raw());
        Ok(Self {
            machine,
            host: Arc::clone(host),
            request: config.request,
            symbols: Symbols::from_elf(file),
            wants_executable_stack: program.executable_stack,
        })
    }

    /// Runs the program until a hypercall's handler stops it; call again to go on.
    pub fn run(&mut self, deadline: Instant, calls: &mut dyn Hypercalls) -> Result<Exit, Fault> {
        self.machine.run(deadline, calls)
    }

    /// Calls a function of a program that waits, on the stack below where it waits, with up to six
    /// arguments. Afterwards it waits as before, wherever the function stopped; after a fault it
    /// must not be used any more.
    pub fn call(
        &mut self,
        function: GuestVirt,
        arguments: &[u64],
        deadline: Instant,
        calls: &mut dyn Hypercalls,
    ) -> Result<Exit, Fault> {
        let waiting = self.machine.regs_behind_call()?;
        self.machine.regs = Regs {
            rip: function.raw(),
            rflags: 0x202,
            ..self.machine.called(below(waiting.rsp), arguments)?
        };
        let result = self.machine.run(deadline, calls);
        self.machine.regs = waiting;
        result
    }

    /// The fault as text, with the function that it happened in where the program has symbols.
    pub fn describe(&self, fault: &Fault) -> String {
        fault.described_with(&self.symbols)
    }

    /// Whether the program's file asks for an executable stack. It does not get one.
    pub fn wants_executable_stack(&self) -> bool {
        self.wants_executable_stack
    }

    /// The program's registers.
    pub fn regs(&self) -> &Regs {
        &self.machine.regs
    }

    /// The program's memory.
    pub fn memory(&self) -> &Memory {
        &self.machine.memory
    }

    /// The program's memory, to be written.
    pub fn memory_mut(&mut self) -> &mut Memory {
        &mut self.machine.memory
    }

    /// What booting has cost so far.
    pub fn counters(&self) -> Counters {
        self.machine.counters()
    }

    /// Freezes the program behind the hypercall that stopped it last.
    pub fn freeze(mut self) -> Result<Arc<Image>, HostError> {
        let broken = |fault: Fault| HostError::Broken(fault.to_string());
        let bases = self.machine.segment_bases().map_err(broken)?;
        let state = self.machine.vcpu.extended_state()?;
        self.machine
            .memory
            .write_system(GuestPhys::new(layout::XSAVE), &state);
        let regs = self.machine.regs_behind_call().map_err(broken)?;
        let (debugging, bias) = (self.machine.debugging, self.machine.bias);
        let (memory, process) = self.machine.dismantle();
        let frozen = memory.freeze(self.request.memory)?;
        Ok(Arc::new(Image {
            host: self.host,
            frozen: Arc::new(frozen),
            process,
            regs,
            bases,
            limits: self.request,
            symbols: self.symbols,
            debugging,
            bias,
        }))
    }
}

/// Maps the program's segments.
fn load(memory: &mut Memory, program: &Elf<'_>) -> Result<(), MapError> {
    for segment in &program.segments {
        let (start, len) = (segment.address, segment.mem_len);
        memory.map(Place::FixedNoReplace(start), len, Protection::READ_WRITE)?;
        let written = memory.write(start, segment.data);
        written.map_err(|_| MapError::Invalid)?;
        memory.protect(start, len, segment.prot)?;
    }
    Ok(())
}

/// Places stack, heap and arena behind the program; returns the top of the stack.
fn lay_out(memory: &mut Memory, image_end: u64) -> Result<GuestVirt, MapError> {
    let after = |address: u64, gap: u64| {
        address
            .checked_add(gap)
            .and_then(|next| next.checked_next_multiple_of(HUGE))
    };
    let stack = after(image_end, GUARD).ok_or(MapError::NoMemory)?;
    let top = stack + MAIN_STACK;
    memory.map(
        Place::FixedNoReplace(GuestVirt::new(stack)),
        MAIN_STACK,
        Protection::READ_WRITE,
    )?;
    memory.set_main_stack(GuestVirt::new(stack)..GuestVirt::new(top));
    let heap = after(top, PAGE_SIZE).ok_or(MapError::NoMemory)?;
    let arena = after(heap + HEAP_ROOM, PAGE_SIZE).ok_or(MapError::NoMemory)?;
    if arena >= ARENA_END {
        return Err(MapError::NoMemory);
    }
    memory.set_layout(
        GuestVirt::new(heap)..GuestVirt::new(heap + HEAP_ROOM),
        GuestVirt::new(arena)..GuestVirt::new(ARENA_END),
    );
    Ok(GuestVirt::new(top))
}
