//! `sys_set_cacheable`: whether and how long Varnish may keep the response.

use std::time::Duration;

use sandbox::{Fault, VmCall};

use super::{Reply, Scene, low32};
use crate::exchange::Cacheability;

/// Longer than any cache lives. Varnish computes with doubles of seconds since 1970.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub(super) fn set_cacheable(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let how = Cacheability {
        cacheable: low32(vm.regs.rdi) & 0xff != 0,
        ttl: milliseconds(vm.regs.rsi),
        grace: milliseconds(vm.regs.rdx),
        keep: milliseconds(vm.regs.rcx),
    };
    let done = scene.exchange("sys_set_cacheable")?.set_cacheable(how);
    Ok(if done {
        Reply::Value(0)
    } else {
        Reply::MINUS_ONE
    })
}

/// A guest's signed milliseconds; negative ones are none.
fn milliseconds(argument: u64) -> Duration {
    let millis = u64::try_from(argument.cast_signed()).unwrap_or(0);
    Duration::from_millis(millis).min(LONGEST)
}

/// A guest's seconds; what is negative or not a number is none.
pub(super) fn seconds(value: f32) -> Duration {
    if value > 0.0 {
        Duration::try_from_secs_f32(value)
            .unwrap_or(LONGEST)
            .min(LONGEST)
    } else {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_a_guest_become_sane_durations() {
        assert_eq!(milliseconds(1500), Duration::from_millis(1500));
        assert_eq!(milliseconds(u64::MAX), Duration::ZERO);
        assert_eq!(milliseconds(u64::MAX >> 1), LONGEST);
        assert_eq!(seconds(1.5), Duration::from_millis(1500));
        for nonsense in [f32::NAN, f32::NEG_INFINITY, -1.0, -0.0] {
            assert_eq!(seconds(nonsense), Duration::ZERO);
        }
        assert_eq!(seconds(f32::INFINITY), LONGEST);
        assert_eq!(seconds(f32::MAX), LONGEST);
    }
}
