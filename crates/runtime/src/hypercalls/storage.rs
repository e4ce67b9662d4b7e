//! Calls into the storage VM, and what functions there answer.
//!
//! Guards: what one VM passes to the other is copied through the host, of the sizes that are
//! allowed, as far as the VM that passes it could read it itself.

use std::time::Duration;

use sandbox::{Fault, GuestVirt, VmCall};
use tinykvm_sys::{abi, from_bytes};

use super::{Reply, Scene, Stage};
use crate::exchange::Severity;
use crate::storage::{Answer, Call, CallError, Inputs};

const MAX_BUFFERS: u64 = abi::TINYKVM_MAX_STORAGE_BUFFERS as u64;
const MAX_TASK: u64 = abi::TINYKVM_MAX_STORAGE_TASK as u64;
/// What all buffers of one call may have together.
const MAX_INPUT: u64 = 16 << 20;

/// What a function in the storage VM returned: data in that VM.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said {
    pub(crate) at: GuestVirt,
    pub(crate) len: u64,
    /// It wants to go on behind it.
    pub(crate) goes_on: bool,
}

pub(super) fn is_storage(scene: &mut Scene<'_>, _vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let storage = matches!(
        scene.stage,
        Stage::Storage { .. }
            | Stage::Boot {
                founding: Some(_),
                ..
            }
    );
    Ok(Reply::Value(u64::from(storage)))
}

pub(super) fn allow(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let Stage::Boot {
        founding: Some(founding),
        ..
    } = &mut scene.stage
    else {
        return Ok(Reply::MINUS_ONE);
    };
    let function = GuestVirt::new(vm.regs.rdi);
    if !vm.memory.is_executable(function) {
        return Err(Fault::Misuse(format!(
            "sys_storage_allow: there is no code at {function}"
        )));
    }
    if founding.allow(function) {
        Ok(Reply::Value(0))
    } else {
        Ok(Reply::MINUS_ONE)
    }
}

pub(super) fn callv(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let (count, array) = (vm.regs.rsi, GuestVirt::new(vm.regs.rdx));
    let (out, size) = (GuestVirt::new(vm.regs.rcx), vm.regs.r8);
    let wanted = out.raw() != 0;
    if in_storage(scene) {
        return refuse(scene, "storage_call: storage cannot call itself");
    }
    if count > MAX_BUFFERS {
        return refuse(
            scene,
            &format!("storage_call: more than {MAX_BUFFERS} buffers"),
        );
    }
    if wanted && out.checked_add(size).is_none() {
        return refuse(scene, "storage_call: the result does not end in memory");
    }
    let Some(storage) = scene.storage else {
        return Err(no_storage("storage_call"));
    };
    let function = GuestVirt::new(vm.regs.rdi);
    let Some(inputs) = inputs(vm, array, count)? else {
        return refuse(scene, &format!("storage_call: more than {MAX_INPUT} bytes"));
    };
    let call = Call {
        function,
        inputs,
        room: size,
        wanted,
        outgoing: scene.outgoing(),
    };
    match storage.shared().call(call, vm.deadline) {
        Ok(Answer::Returned { len, data }) => {
            vm.memory.write(out_or_nowhere(out, &data), &data)?;
            Ok(Reply::Value(if wanted { len.min(size) } else { len }))
        }
        Ok(Answer::Failed(_) | Answer::NoCode) | Err(CallError::Failed) => Ok(Reply::MINUS_ONE),
        Err(error) => Err(fault("storage_call", function, &error)),
    }
}

/// -1, and why.
fn refuse(scene: &mut Scene<'_>, why: &str) -> Result<Reply, Fault> {
    scene.report(Severity::Error, why.as_bytes());
    Ok(Reply::MINUS_ONE)
}

/// Writing nothing to nowhere is fine wherever that is.
fn out_or_nowhere(out: GuestVirt, data: &[u8]) -> GuestVirt {
    if data.is_empty() {
        GuestVirt::default()
    } else {
        out
    }
}

/// Copies the buffers of a call; nothing if they are too big.
fn inputs(vm: &VmCall<'_>, array: GuestVirt, count: u64) -> Result<Option<Inputs>, Fault> {
    const SIZE: u64 = size_of::<abi::tinykvm_buffer>() as u64;
    let mut inputs = Inputs::default();
    let mut total: u64 = 0;
    for index in 0..count {
        let at = array.raw().wrapping_add(index.wrapping_mul(SIZE));
        let mut bytes = [0; size_of::<abi::tinykvm_buffer>()];
        vm.memory.read(GuestVirt::new(at), &mut bytes)?;
        let buffer: abi::tinykvm_buffer = from_bytes(&bytes).unwrap_or_default();
        total = total.saturating_add(buffer.len);
        if total > MAX_INPUT {
            return Ok(None);
        }
        let place = inputs.add(usize::try_from(buffer.len).unwrap_or(0));
        if !place.is_empty() {
            vm.memory.read(GuestVirt::new(buffer.data), place)?;
        }
    }
    Ok(Some(inputs))
}

pub(super) fn task(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let function = GuestVirt::new(vm.regs.rdi);
    let (data, len) = (GuestVirt::new(vm.regs.rsi), vm.regs.rdx);
    let (start, period) = (vm.regs.rcx, vm.regs.r8);
    if len > MAX_TASK {
        return refuse(scene, &format!("storage_task: more than {MAX_TASK} bytes"));
    }
    let mut copy = vec![0; usize::try_from(len).unwrap_or(0)];
    if !copy.is_empty() {
        vm.memory.read(data, &mut copy)?;
    }
    let at_once = start == 0 && period == 0;
    let start = Duration::from_millis(start);
    let period = (period > 0).then(|| Duration::from_millis(period));
    let result = match (&mut scene.stage, scene.storage) {
        (
            Stage::Boot {
                founding: Some(founding),
                ..
            },
            _,
        ) => {
            if at_once {
                Ok(founding.task(function, copy).then_some(0))
            } else {
                Ok(founding.timer(function, copy, start, period))
            }
        }
        (Stage::Storage { shared, .. }, _) => {
            set_task(shared, function, copy, at_once, start, period)
        }
        (_, Some(storage)) => set_task(storage.shared(), function, copy, at_once, start, period),
        (_, None) => return Err(no_storage("storage_task")),
    };
    match result {
        Ok(Some(timer)) => Ok(Reply::Value(timer.cast_unsigned())),
        Ok(None) => refuse(
            scene,
            "storage_task: too many tasks or timers, or too late a time",
        ),
        Err(error) => Err(fault("storage_task", function, &error)),
    }
}

fn set_task(
    storage: &crate::storage::Shared,
    function: GuestVirt,
    data: Vec<u8>,
    at_once: bool,
    start: Duration,
    period: Option<Duration>,
) -> Result<Option<i64>, CallError> {
    if at_once {
        Ok(storage.task(function, data)?.then_some(0))
    } else {
        storage.timer(function, data, start, period)
    }
}

pub(super) fn stop_task(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let id = vm.regs.rdi.cast_signed();
    let stopped = match (&mut scene.stage, scene.storage) {
        (
            Stage::Boot {
                founding: Some(founding),
                ..
            },
            _,
        ) => founding.stop_timer(id),
        (Stage::Storage { shared, .. }, _) => shared.stop_timer(id),
        (_, Some(storage)) => storage.shared().stop_timer(id),
        (_, None) => false,
    };
    Ok(Reply::Value(u64::from(stopped)))
}

pub(super) fn storage_return(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    say(scene, vm, true)
}

pub(super) fn storage_noreturn(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    say(scene, vm, false)
}

fn say(scene: &mut Scene<'_>, vm: &VmCall<'_>, goes_on: bool) -> Result<Reply, Fault> {
    let Stage::Storage { said, .. } = &mut scene.stage else {
        return Err(Fault::Misuse(
            "storage_return was called outside of a storage function".to_owned(),
        ));
    };
    **said = Some(Said {
        at: GuestVirt::new(vm.regs.rdi),
        len: vm.regs.rsi,
        goes_on,
    });
    Ok(Reply::Stop)
}

fn in_storage(scene: &Scene<'_>) -> bool {
    matches!(
        scene.stage,
        Stage::Storage { .. }
            | Stage::Boot {
                founding: Some(_),
                ..
            }
    )
}

fn no_storage(call: &str) -> Fault {
    Fault::Misuse(format!(
        "{call}: the program has no storage; set \"storage\": true"
    ))
}

fn fault(call: &str, function: GuestVirt, error: &CallError) -> Fault {
    match error {
        CallError::TimedOut => Fault::TimedOut,
        CallError::NotAllowed => Fault::Misuse(format!(
            "{call}: the function at {function} is none of those that sys_storage_allow names"
        )),
        CallError::NoCode => Fault::Misuse(format!(
            "{call}: there is no code at {function} in the storage VM"
        )),
        CallError::Failed => Fault::Misuse(format!("{call}: the function failed")),
    }
}
