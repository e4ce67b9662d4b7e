//! How a starting program says what it serves: callbacks, then the call that waits.

use sandbox::{Fault, GuestVirt, VmCall};
use tinykvm_sys::abi;

use super::{Reply, Scene, Stage, low32};

const CALLBACKS: usize = abi::TINYKVM_CALLBACKS as usize;

/// A callback slot of the ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Entry {
    Recv = abi::TINYKVM_ON_RECV,
    Get = abi::TINYKVM_ON_GET,
    Post = abi::TINYKVM_ON_POST,
    Request = abi::TINYKVM_ON_REQUEST,
    StreamPost = abi::TINYKVM_ON_STREAM_POST,
    Error = abi::TINYKVM_ON_ERROR,
    LiveUpdate = abi::TINYKVM_ON_LIVE_UPDATE,
    LiveRestore = abi::TINYKVM_ON_LIVE_RESTORE,
    SocketPause = abi::TINYKVM_ON_SOCKET_PAUSE,
}

/// Those that a request may come to.
const FOR_REQUESTS: [Entry; 5] = [
    Entry::Get,
    Entry::Post,
    Entry::Request,
    Entry::StreamPost,
    Entry::Error,
];

/// How the program waits for requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// For its callbacks to be called.
    ForCallbacks,
    /// In the middle of its code: a request is written to this address and the call returns.
    Paused { request: GuestVirt },
}

/// What a program registered while it started.
#[derive(Debug, Clone, Default)]
pub(crate) struct EntryPoints {
    functions: [Option<GuestVirt>; CALLBACKS],
    waiting: Option<Waiting>,
    /// Whether the program may decide about resets, and what it decided.
    may_decide: bool,
    ephemeral: Option<bool>,
}

impl EntryPoints {
    /// For a program that may decide whether its VMs are reset.
    pub(crate) fn deciding(may_decide: bool) -> Self {
        Self {
            may_decide,
            ..Self::default()
        }
    }

    /// What the program decided.
    pub(crate) fn ephemeral(&self) -> Option<bool> {
        self.ephemeral
    }

    pub(crate) fn get(&self, entry: Entry) -> Option<GuestVirt> {
        self.functions.get(entry as usize).copied().flatten()
    }

    /// Forgets that the program waits, before it is made to go on.
    pub(crate) fn goes_on(&mut self) {
        self.waiting = None;
    }

    pub(crate) fn waiting(&self) -> Option<Waiting> {
        self.waiting
    }

    /// Whether there is anything for a request to come to.
    pub(crate) fn answers(&self) -> bool {
        let paused = matches!(self.waiting, Some(Waiting::Paused { .. }));
        paused || FOR_REQUESTS.iter().any(|entry| self.get(*entry).is_some())
    }

    /// Takes callbacks for requests over where none has been registered here.
    pub(crate) fn take_over(&mut self, other: &Self, is_code: impl Fn(GuestVirt) -> bool) {
        if self.answers() {
            return;
        }
        for entry in FOR_REQUESTS {
            if let Some(place) = self.functions.get_mut(entry as usize) {
                *place = other.get(entry).filter(|at| is_code(*at));
            }
        }
    }

    /// The address of a callback for statistics, 0 where there is none.
    pub(crate) fn address(&self, entry: Entry) -> u64 {
        self.get(entry).map_or(0, GuestVirt::raw)
    }
}

pub(super) fn register_func(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let entry = booting(scene, "register_func")?;
    let (slot, function) = (low32(vm.regs.rdi), GuestVirt::new(vm.regs.rsi));
    let place = usize::try_from(slot)
        .ok()
        .and_then(|slot| entry.functions.get_mut(slot));
    let Some(place) = place else {
        return Err(Fault::Misuse(format!(
            "register_func: there is no callback {slot}"
        )));
    };
    if !vm.memory.is_executable(function) {
        return Err(Fault::Misuse(format!(
            "register_func: there is no code at {function}"
        )));
    }
    *place = Some(function);
    Ok(Reply::Nothing)
}

pub(super) fn wait(scene: &mut Scene<'_>, _vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    booting(scene, "wait_for_requests")?.waiting = Some(Waiting::ForCallbacks);
    Ok(Reply::Stop)
}

pub(super) fn wait_paused(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let request = GuestVirt::new(vm.regs.rdi);
    let entry = match &mut scene.stage {
        Stage::Warming { entry, .. } | Stage::Between { entry, .. } => entry,
        Stage::Request(_) => {
            return Err(Fault::Misuse(
                "the program waits for the next request and has not answered this one".to_owned(),
            ));
        }
        _ => booting(scene, "wait_for_requests_paused")?,
    };
    // Said now, in the start-up log, rather than as a fault in every request.
    let zero = abi::tinykvm_request::default();
    vm.memory.write(request, tinykvm_sys::bytes_of(&zero))?;
    entry.waiting = Some(Waiting::Paused { request });
    Ok(Reply::Stop)
}

pub(super) fn make_ephemeral(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let entry = booting(scene, "sys_make_ephemeral")?;
    if !entry.may_decide {
        return Ok(Reply::MINUS_ONE);
    }
    // A C bool: its lowest byte.
    entry.ephemeral = Some(vm.regs.rdi & 0xff != 0);
    Ok(Reply::Value(0))
}

fn booting<'s>(scene: &'s mut Scene<'_>, call: &str) -> Result<&'s mut EntryPoints, Fault> {
    match &mut scene.stage {
        Stage::Boot { entry, .. } => Ok(entry),
        Stage::Request(_) | Stage::Warming { .. } | Stage::Streaming(_) | Stage::Between { .. } => {
            Err(Fault::Misuse(format!("{call} was called during a request")))
        }
        Stage::Storage { .. } => Err(Fault::Misuse(format!(
            "{call} was called by a storage function"
        ))),
    }
}
