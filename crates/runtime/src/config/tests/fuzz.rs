//! Random texts, the same in every run.

use super::*;

/// xorshift64*: the same texts in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).unwrap() % sides
    }
}

fn random_value(dice: &mut Dice, depth: usize) -> Value {
    let words: Vec<&str> = table::spellings(keys::SETTINGS)
        .chain(table::spellings(keys::PROGRAM))
        .chain([
            "real",
            "virtual",
            "port",
            "headers",
            "0x20000",
            "$HOME",
            "\u{0}",
            "\u{1F600}",
        ])
        .collect();
    match dice.roll(if depth == 0 { 6 } else { 8 }) {
        0 => json!(null),
        1 => json!(dice.roll(2) == 0),
        2 => json!([0, 1, 2, 255, 256, 65536, -1, i64::MAX, i64::MIN][dice.roll(9)]),
        3 => json!([0.5, -0.0, 1e300, 1e-300, 4096.0][dice.roll(5)]),
        4 | 5 => json!(words[dice.roll(words.len())]),
        6 => (0..dice.roll(4))
            .map(|_| random_value(dice, depth - 1))
            .collect(),
        _ => Value::Object(
            (0..dice.roll(6))
                .map(|_| {
                    let key = words[dice.roll(words.len())].to_owned();
                    (key, random_value(dice, depth - 1))
                })
                .collect(),
        ),
    }
}

#[test]
fn no_text_makes_the_parser_panic_and_what_it_takes_is_within_limits() {
    let mut dice = Dice(0x7465_7374);
    let mut taken = 0;
    for round in 0..20_000 {
        let mut text = random_value(&mut dice, 4).to_string();
        if round % 2 == 0 {
            text = format!("{{\"p\":{text},\"g\":{}}}", random_value(&mut dice, 2));
        }
        let mut bytes = text.into_bytes();
        for _ in 0..[0, 0, 1, 5][dice.roll(4)] {
            let at = dice.roll(bytes.len());
            bytes[at] = b"{}[]\",:/*\\\n0e-x\xc3\x00"[dice.roll(17)];
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(document) = parse(&text) {
            taken += 1;
            for program in document.programs {
                let settings = program.settings;
                assert!((1..=255).contains(&settings.concurrency));
                assert!(settings.smp <= 16);
                assert!(settings.address_space >= settings.max_memory);
                assert!(program.filename.is_some() || program.uri.is_some());
            }
        }
        let mut config = ProgramConfig::default();
        let _either_way = apply(&mut config, &text, &expansion());
        let _either_way = define("p", &text, &Groups::default(), &expansion());
    }
    assert!(taken > 100, "{taken}");
}
