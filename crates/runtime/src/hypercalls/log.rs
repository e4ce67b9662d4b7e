//! `sys_log` and what a program prints: lines in the request's log, up to a budget per guest call.

use sandbox::{Fault, VmCall};
use tinykvm_sys::abi;

use super::{Reply, Scene, Text, low16};

const MAX_LINES: u32 = 256;
const MAX_BYTES: usize = 64 << 10;
/// What one line may have; longer ones are cut.
const MAX_LINE: usize = 4096;

/// How much a guest may still write to the log.
#[derive(Debug)]
pub(crate) struct Budget {
    lines: u32,
    bytes: usize,
    ended: bool,
    granted: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            lines: MAX_LINES,
            bytes: MAX_BYTES,
            ended: false,
            granted: 0,
        }
    }
}

impl Budget {
    /// The part of a line that may be written. The first line beyond the budget is replaced by
    /// a remark, later ones vanish.
    pub(super) fn grant<'a>(&mut self, line: &'a [u8]) -> Option<&'a [u8]> {
        let line = line.get(..MAX_LINE).unwrap_or(line);
        if self.ended {
            return None;
        }
        match (
            self.lines.checked_sub(1),
            self.bytes.checked_sub(line.len()),
        ) {
            (Some(lines), Some(bytes)) => {
                self.lines = lines;
                self.bytes = bytes;
                self.granted += 1;
                Some(line)
            }
            _ => {
                self.ended = true;
                self.granted += 1;
                Some(b"(the program wrote more to the log than one call may; the rest is dropped)")
            }
        }
    }

    /// Starts anew with up to `lines` lines; with none nothing is said about it either.
    pub(super) fn begin(&mut self, lines: u32) {
        self.reset();
        self.lines = self.lines.min(lines);
        self.ended = lines == 0;
    }

    /// How many lines have been written.
    pub(crate) fn lines_used(&self) -> u32 {
        self.granted
    }

    pub(super) fn reset(&mut self) {
        let Self {
            lines,
            bytes,
            ended,
            granted,
        } = self;
        *lines = MAX_LINES;
        *bytes = MAX_BYTES;
        *ended = false;
        *granted = 0;
    }
}

pub(super) fn log(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let len = u64::from(low16(vm.regs.rsi));
    let text = Text {
        at: vm.regs.rdi,
        len,
        max: abi::TINYKVM_MAX_LOG_TEXT,
    };
    scene.with_text(vm, text, |scene, _, text| {
        scene.say_lines(text);
        Ok(Reply::Nothing)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_flood_the_log() {
        let mut budget = Budget::default();
        let granted = (0..1000)
            .filter(|_| budget.grant(b"line").is_some())
            .count();
        assert_eq!(granted, 257);
        budget.reset();
        assert_eq!(budget.grant(b"line"), Some(&b"line"[..]));
        let long = vec![b'x'; 100_000];
        let mut bytes = 0;
        while let Some(line) = budget.grant(&long) {
            assert!(line.len() <= MAX_LINE);
            bytes += line.len();
        }
        assert!(bytes <= MAX_BYTES + 100);
    }
}
