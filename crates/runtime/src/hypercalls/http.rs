//! Header fields of the transaction.

use sandbox::{Fault, GuestVirt, VmCall};
use tinykvm_sys::abi;

use super::{Reply, Scene, Text, low16, low32};
use crate::exchange::{Exchange, FieldError, Side};
use crate::fields::{Field, Flaw, check_name};

const MAX_TEXT: u32 = abi::TINYKVM_MAX_HEADER_TEXT;

/// Which table a "where" argument means.
pub(super) fn side(argument: u64) -> Result<Side, Fault> {
    match low32(argument) {
        abi::TINYKVM_WHERE_REQUEST | abi::TINYKVM_WHERE_BEREQ => Ok(Side::Request),
        abi::TINYKVM_WHERE_RESPONSE | abi::TINYKVM_WHERE_BERESP => Ok(Side::Response),
        other => Err(Fault::Misuse(format!("there is no header table {other}"))),
    }
}

/// What a program gets for the index of a field that was (not) stored.
pub(super) fn stored(result: Result<u32, FieldError>) -> Result<Reply, Fault> {
    match result {
        Ok(index) => Ok(Reply::Value(u64::from(index))),
        Err(FieldError::Full) => Ok(Reply::Value(u64::from(abi::TINYKVM_HTTP_FULL))),
        Err(FieldError::NoSpace) => Ok(Reply::Value(0)),
        Err(error @ (FieldError::NotAvailable | FieldError::Refused(_))) => {
            Err(Fault::Misuse(error.to_string()))
        }
    }
}

pub(super) fn append(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let side = side(vm.regs.rdi)?;
    let text = Text {
        at: vm.regs.rsi,
        len: vm.regs.rdx,
        max: MAX_TEXT,
    };
    scene.with_text(vm, text, |scene, _, text| {
        let field = Field::parse(text).map_err(misuse)?;
        stored(
            scene
                .exchange("sys_http_append")?
                .append(side, field.text()),
        )
    })
}

pub(super) fn set(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let side = side(vm.regs.rdi)?;
    let text = Text {
        at: vm.regs.rsi,
        len: vm.regs.rdx,
        max: MAX_TEXT,
    };
    scene.with_text(vm, text, |scene, _, text| {
        let change = Change::parse(text)?;
        change.apply(scene.exchange("sys_http_set")?, side)
    })
}

/// What a text given to "set" does.
pub(super) enum Change<'a> {
    Nothing,
    Set(Field<'a>),
    Unset(&'a [u8]),
}

impl<'a> Change<'a> {
    pub(super) fn parse(text: &'a [u8]) -> Result<Self, Fault> {
        if text.is_empty() {
            Ok(Self::Nothing)
        } else if text.contains(&b':') {
            Field::parse(text).map(Self::Set).map_err(misuse)
        } else {
            check_name(text).map_err(misuse)?;
            Ok(Self::Unset(text))
        }
    }

    pub(super) fn apply(self, exchange: &mut dyn Exchange, side: Side) -> Result<Reply, Fault> {
        match self {
            Self::Nothing => Ok(Reply::Value(0)),
            Self::Set(field) => stored(exchange.set(side, field.text())),
            Self::Unset(name) => Ok(Reply::Value(u64::from(exchange.unset(side, name)))),
        }
    }
}

pub(super) fn find(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let side = side(vm.regs.rdi)?;
    let (out, size) = (vm.regs.rcx, u64::from(low16(vm.regs.r8)));
    let name = Text {
        at: vm.regs.rsi,
        len: u64::from(low16(vm.regs.rdx)),
        max: MAX_TEXT,
    };
    scene.with_text(vm, name, |scene, vm, name| {
        check_name(name).map_err(misuse)?;
        let field = scene.exchange("sys_http_find")?.find(side, name);
        give(vm, field.unwrap_or_default(), out, size)
    })
}

pub(super) fn method(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let (out, size) = (vm.regs.rdi, vm.regs.rsi);
    give(vm, scene.exchange("sys_http_method")?.method(), out, size)
}

/// Copies a text to the guest: answers its length, or 0 when there is too little room. Without
/// an address it only tells the length.
fn give(vm: &mut VmCall<'_>, text: &[u8], out: u64, size: u64) -> Result<Reply, Fault> {
    let len = u64::try_from(text.len()).unwrap_or(u64::MAX);
    if out != 0 {
        if len > size {
            return Ok(Reply::Value(0));
        }
        vm.memory.write(GuestVirt::new(out), text)?;
    }
    Ok(Reply::Value(len))
}

fn misuse(flaw: Flaw) -> Fault {
    Fault::Misuse(flaw.to_string())
}
