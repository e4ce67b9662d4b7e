//! Questions about the VM that the program runs in.

use sandbox::{Fault, GuestVirt, VmCall};
use tinykvm_sys::{abi, bytes_of};

use super::{Reply, Scene, Stage};

/// For calls that upstream accepts and that do nothing here.
pub(super) fn nothing(_scene: &mut Scene<'_>, _vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    Ok(Reply::Nothing)
}

pub(super) fn is_debug(_scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    Ok(Reply::Value(u64::from(vm.debuggable)))
}

pub(super) fn breakpoint(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    if vm.debuggable {
        return Ok(Reply::Break);
    }
    scene.say(b"sys_breakpoint() skipped: \"allow_debug\" is not set");
    Ok(Reply::Nothing)
}

/// Begin and end of the shared memory; where there is none an empty area, in which upstream's
/// allocator finds no room.
pub(super) fn shared_memory(_scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let area = vm.memory.shared_area();
    let (begin, end) = area.map_or((u64::MAX, u64::MAX), |area| {
        (area.start.raw(), area.end.raw())
    });
    vm.regs.rdx = end;
    Ok(Reply::Value(begin))
}

pub(super) fn meminfo(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let used = match scene.stage {
        Stage::Request(_) | Stage::Streaming(_) | Stage::Between { .. } | Stage::Storage { .. } => {
            vm.memory.dirty_bytes()
        }
        Stage::Boot { .. } | Stage::Warming { .. } => 0,
    };
    let info = abi::tinykvm_meminfo {
        max_memory: scene.limits.max_memory,
        max_request_memory: scene.limits.max_request_memory,
        request_memory_upper: scene.limits.max_request_memory,
        request_memory_current: used,
    };
    vm.memory
        .write(GuestVirt::new(vm.regs.rdi), bytes_of(&info))?;
    Ok(Reply::Nothing)
}
