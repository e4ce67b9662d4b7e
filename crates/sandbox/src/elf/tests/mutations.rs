//! Damage to real programs, the same on every run: the answer is always a program that keeps the
//! loader's promises, or an error.

use super::craft::{Craft, pie, program};
use super::*;
use guests::Compiler;

/// xorshift64: enough to spread damage, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % bound as u64).unwrap()
    }

    /// Values at which arithmetic goes wrong.
    fn word(&mut self) -> u64 {
        const EDGES: [u64; 10] = [
            0,
            1,
            0xfff,
            0x1000,
            0x7fff_ffff,
            0xffff_ffff,
            i64::MAX as u64,
            1 << 63,
            u64::MAX - 0xfff,
            u64::MAX,
        ];
        match self.below(4) {
            0 => self.roll(),
            1 => self.roll() >> self.below(64),
            _ => EDGES[self.below(EDGES.len())]
                .wrapping_add(self.roll() % 3)
                .wrapping_sub(1),
        }
    }
}

/// Where a loader looks: the header, the program headers, and the ends of the file, where section
/// headers and symbols are.
fn place(dice: &mut Dice, len: usize) -> usize {
    let near = match dice.below(8) {
        0..=4 => dice.below(64 + 56 * 12),
        5 => len.saturating_sub(1 + dice.below(64 * 40)),
        _ => dice.below(len),
    };
    near.min(len - 1)
}

fn damage(dice: &mut Dice, bytes: &mut [u8], undo: &mut Vec<(usize, u8)>) {
    for _ in 0..=dice.below(3) {
        let at = place(dice, bytes.len());
        let value = dice.word().to_le_bytes();
        let (at, len) = match dice.below(3) {
            0 => (at, 1),
            1 => (at & !3, 4),
            _ => (at & !7, 8),
        };
        let end = (at + len).min(bytes.len());
        for (at, value) in (at..end).zip(value) {
            undo.push((at, bytes[at]));
            bytes[at] = value;
        }
    }
}

/// Parses `count` damaged versions; says how many of them were accepted.
fn survive(bytes: &[u8], count: usize, seed: u64) -> usize {
    let mut dice = Dice(seed);
    let mut bytes = bytes.to_vec();
    let mut undo = Vec::new();
    let mut accepted = 0;
    for round in 0..count {
        damage(&mut dice, &mut bytes, &mut undo);
        let len = match round % 8 {
            0 => dice.below(bytes.len()),
            _ => bytes.len(),
        };
        let file = &bytes[..len];
        for executable_heap in [false, true] {
            match parse(file, &ParseOptions { executable_heap }) {
                Ok(elf) => {
                    check(&elf);
                    accepted += 1;
                }
                Err(error) => assert!(error.to_string().len() < 500),
            }
        }
        if round % 16 == 0 {
            let symbols = Symbols::from_elf(file);
            for address in [0, 0x40_1000, 0x20_1000, u64::MAX, dice.roll()] {
                assert!(
                    symbols
                        .name_of(address)
                        .is_none_or(|name| name.0.len() < 256)
                );
            }
        }
        for (at, value) in undo.drain(..).rev() {
            bytes[at] = value;
        }
    }
    accepted
}

#[test]
fn damaged_programs_never_break_the_loader() {
    for compiler in [Compiler::MuslGcc, Compiler::Gcc, Compiler::GccStaticPie] {
        let bytes = std::fs::read(guests::compile_with("hello", compiler, &[])).unwrap();
        let accepted = survive(&bytes, 20_000, 0x5eed_0001);
        // Both sides are met, or the damage is not where it matters.
        assert!((1_000..39_000).contains(&accepted), "{accepted}");
    }
}

#[test]
fn damage_to_every_field_of_small_programs_never_breaks_the_loader() {
    for craft in [program(), pie()] {
        let bytes: Vec<u8> = Craft::bytes(&craft);
        survive(&bytes, 20_000, 0x5eed_0002);
        let mut dice = Dice(0x5eed_0003);
        let mut file = bytes.clone();
        for at in 4..64 + 2 * 56 {
            for _ in 0..64 {
                let end = (at + 8).min(file.len());
                file[at..end].copy_from_slice(&dice.word().to_le_bytes());
                if let Ok(elf) = parse(&file, &STRICT) {
                    check(&elf);
                }
            }
            file.copy_from_slice(&bytes);
        }
    }
}
