use guests::Dice;

use super::super::table::CALLS;
use super::*;

fn argument(dice: &mut Dice) -> u64 {
    match dice.below(16) {
        0 => 0,
        1 | 2 => dice.below(12),
        3 => 8,
        4 => dice.below(4096),
        5 => u64::MAX - dice.below(4096),
        6 | 7 => DATA + 0x1000 + dice.below(5) * 0x1000,
        8 | 9 => DATA + 0x10000 + dice.below(64) * 0x1000,
        10 => DATA + DATA_LEN - dice.below(64),
        11 => CONST + dice.below(4096),
        12 => 1 << dice.below(64),
        13 | 14 => super::super::args::flags(libc::AT_FDCWD),
        _ => dice.roll(),
    }
}

fn assault(seed: u64, rounds: u32, may_write: bool) {
    let directory = Directory::new();
    directory.file("text", &[b'x'; 100_000]);
    let mut dice = Dice::new(seed);
    let fresh = || {
        let mut guest = Guest::in_directory(&directory.0, may_write);
        for (page, path) in [
            (1, "/data/text"),
            (2, "/data"),
            (3, "/data/new"),
            (4, "../data/./text"),
            (5, "/dev/zero"),
        ] {
            let mut bytes = path.as_bytes().to_vec();
            bytes.push(0);
            guest.put(DATA + page * 0x1000, &bytes);
        }
        // Descriptors 3 to 8 are of every kind.
        let _ = guest.outcome(libc::SYS_open, &[DATA + 0x1000, 0]);
        let _ = guest.outcome(libc::SYS_open, &[DATA + 0x2000, 0]);
        guest.ok(libc::SYS_pipe2, &[DATA + 0x8000, 0]);
        guest.ok(libc::SYS_eventfd2, &[1, 0]);
        guest.ok(libc::SYS_epoll_create1, &[0]);
        // Any call may find that no time is left, and none may take more.
        guest.time = Duration::from_millis(2);
        guest
    };
    let mut guest = fresh();
    let frozen = guest.process.fork();
    for round in 0..rounds {
        if round % 500 == 499 {
            guest = fresh();
        }
        let number = match dice.below(20) {
            0 => i64::from_le_bytes(argument(&mut dice).to_le_bytes()),
            _ => CALLS[usize::try_from(dice.below(CALLS.len() as u64)).unwrap()].number,
        };
        let args: Vec<u64> = (0..6).map(|_| argument(&mut dice)).collect();
        let start = Instant::now();
        let outcome = guest.outcome(number, &args);
        let took = start.elapsed();
        assert!(
            took < Duration::from_secs(2),
            "{number} {args:x?}: {outcome:?} took {took:?}"
        );
        if let Outcome::Return(value) = outcome {
            assert!(value >= -133, "{number} {args:x?}: {value}");
        }
        if !may_write && round % 64 == 63 {
            guest.process.reset_to(&frozen);
        }
    }
    if !may_write {
        let names: Vec<_> = std::fs::read_dir(&directory.0).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        assert_eq!(
            std::fs::read(directory.0.join("text")).unwrap(),
            vec![b'x'; 100_000]
        );
    }
}

#[test]
fn random_calls_of_a_request_neither_panic_nor_hang_nor_write() {
    assault(0x9e37_79b9_7f4a_7c15, 20_000, false);
}

#[test]
fn random_calls_of_a_storage_vm_neither_panic_nor_hang() {
    assault(0xdead_beef_cafe_f00d, 10_000, true);
}
