//! Hypercalls against real guest memory, without a CPU: arguments as a hostile guest passes them.

use std::time::{Duration, Instant};

use sandbox::{Action, Fault, GuestVirt, Hypercalls, Memory, Place, Protection, Regs, VmCall};
use tinykvm_sys::{abi, bytes_of, from_bytes};

use super::{Desk, EntryPoints, MemoryLimits, Scene, Stage, TABLE, Waiting};
use crate::Recorded;

const DATA: u64 = 0x40_0000;
const DATA_LEN: u64 = 0x4000;
const CODE: u64 = 0x50_0000;
const READ_ONLY: u64 = 0x60_0000;

struct Guest {
    memory: Memory,
    desk: Desk,
    exchange: Recorded,
    entry: EntryPoints,
    regs: Regs,
    limits: MemoryLimits,
}

impl Guest {
    fn new() -> Self {
        let mut memory = Memory::new_main(4 << 20, false).unwrap();
        let mut map = |at: u64, len, prot| {
            memory
                .map(Place::Fixed(GuestVirt::new(at)), len, prot)
                .unwrap();
        };
        map(DATA, DATA_LEN, Protection::READ_WRITE);
        map(CODE, 0x1000, Protection::READ_EXECUTE);
        map(READ_ONLY, 0x1000, Protection::READ);
        Self {
            memory,
            desk: Desk::default(),
            exchange: Recorded::new("GET", &["Host: example.com", "X-A: 1", "X-B: 2"]),
            entry: EntryPoints::default(),
            regs: Regs::default(),
            limits: MemoryLimits {
                address_space: 32 << 20,
                max_memory: 1,
                max_request_memory: 2,
            },
        }
    }

    fn run(&mut self, booting: bool, number: u32, arguments: &[u64]) -> Action {
        let argument = |at| arguments.get(at).copied().unwrap_or(0);
        self.regs = Regs {
            rax: u64::from(number),
            rdi: argument(0),
            rsi: argument(1),
            rdx: argument(2),
            rcx: argument(3),
            r8: argument(4),
            r9: argument(5),
            ..Regs::default()
        };
        let stage = if booting {
            Stage::Boot {
                program: "test",
                entry: &mut self.entry,
                founding: None,
            }
        } else {
            Stage::Request(&mut self.exchange)
        };
        let mut scene = Scene {
            stage,
            desk: &mut self.desk,
            limits: &self.limits,
            storage: None,
        };
        let mut vm = VmCall {
            regs: &mut self.regs,
            memory: &mut self.memory,
            deadline: Instant::now() + Duration::from_secs(300),
            debuggable: false,
        };
        scene.hypercall(&mut vm, number)
    }

    /// A call during a request that goes on: its result.
    fn call(&mut self, number: u32, arguments: &[u64]) -> u64 {
        assert_eq!(self.run(false, number, arguments), Action::Continue);
        self.regs.rax
    }

    fn is_fault(&mut self, number: u32, arguments: &[u64]) -> bool {
        matches!(self.run(false, number, arguments), Action::Fault(_))
    }

    /// Puts bytes into the guest: address and length.
    fn put(&mut self, offset: u64, bytes: &[u8]) -> (u64, u64) {
        self.memory
            .write(GuestVirt::new(DATA + offset), bytes)
            .unwrap();
        (DATA + offset, u64::try_from(bytes.len()).unwrap())
    }

    fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(GuestVirt::new(at), &mut bytes).unwrap();
        bytes
    }

    fn respond(&mut self, status: u64, content_type: &[u8], body: &[u8], extra: u64) -> Action {
        let (type_at, type_len) = self.put(0x100, content_type);
        let (at, len) = self.put(0x1ffe, body);
        let arguments = [status, type_at, type_len, at, len, extra];
        self.run(false, abi::TINYKVM_CALL_BACKEND_RESPONSE, &arguments)
    }

    fn extra(&mut self, fields: &[&[u8]], extra: abi::tinykvm_response_extra) -> u64 {
        let (mut text_at, mut header_at) = (0x800, 0x400);
        for field in fields {
            let (field, field_len) = self.put(text_at, field);
            let header = abi::tinykvm_response_header { field, field_len };
            self.put(header_at, bytes_of(&header));
            text_at += field_len;
            header_at += 16;
        }
        let num_headers = u16::try_from(fields.len()).unwrap();
        let extra = abi::tinykvm_response_extra {
            headers: DATA + 0x400,
            num_headers,
            ..extra
        };
        self.put(0x300, bytes_of(&extra)).0
    }
}

const NO_EXTRA: abi::tinykvm_response_extra = abi::tinykvm_response_extra {
    headers: 0,
    num_headers: 0,
    cached: 0,
    unused: 0,
    ttl: 0.0,
    grace: 0.0,
    keep: 0.0,
    reserved: [0; 4],
};

#[test]
fn a_response_is_the_guests_memory_itself() {
    let mut guest = Guest::new();
    let action = guest.respond(200, b"text/plain", b"hello over a page boundary", 0);
    assert_eq!(action, Action::Stop);
    let answer = &guest.desk.answer;
    assert_eq!(answer.status(), Some(200));
    assert_eq!(answer.content_type(), b"text/plain");
    assert_eq!(answer.content_length(), 26);
    assert_eq!(
        answer.pieces().iter().map(|piece| piece.len).sum::<usize>(),
        26
    );
}

#[test]
fn a_response_may_have_no_body_and_no_type() {
    let mut guest = Guest::new();
    let number = abi::TINYKVM_CALL_BACKEND_RESPONSE;
    assert_eq!(
        guest.run(false, number, &[304, 0, 0, 0, 0, 0]),
        Action::Stop
    );
    assert_eq!(guest.desk.answer.status(), Some(304));
    assert!(guest.desk.answer.pieces().is_empty());
}

#[test]
fn statuses_that_http_or_the_abi_do_not_have_are_refused() {
    let mut guest = Guest::new();
    for status in [0, 100, 199, 600, 0xffff, u64::MAX] {
        assert!(
            matches!(guest.respond(status, b"", b"", 0), Action::Fault(_)),
            "{status}"
        );
        assert_eq!(guest.desk.answer.status(), None);
    }
    // The status is a 16-bit argument: what else is in the register does not matter.
    assert_eq!(guest.respond(0xdead_0000 + 200, b"", b"", 0), Action::Stop);
    assert_eq!(guest.respond(599, b"", b"", 0), Action::Stop);
}

#[test]
fn content_types_cannot_split_the_response() {
    let mut guest = Guest::new();
    for text in [&b"text/plain\r\nX: y"[..], b"a\nb", b"a\0b"] {
        assert!(matches!(guest.respond(200, text, b"", 0), Action::Fault(_)));
    }
    let long = vec![b'a'; 4096];
    assert!(matches!(
        guest.respond(200, &long, b"", 0),
        Action::Fault(_)
    ));
    assert_eq!(guest.respond(200, &long[..4095], b"", 0), Action::Stop);
}

#[test]
fn bodies_that_the_guest_cannot_read_are_refused() {
    let mut guest = Guest::new();
    let number = abi::TINYKVM_CALL_BACKEND_RESPONSE;
    let bad = [
        (0, 1),
        (0x12000, 16),
        (DATA, DATA_LEN + 1),
        (DATA, u64::MAX),
        (u64::MAX, 1),
        (0x8000_0000_0000, 16),
        (0xffff_8000_0000_0000, 16),
    ];
    for (at, len) in bad {
        assert!(
            guest.is_fault(number, &[200, 0, 0, at, len, 0]),
            "{at:#x} {len:#x}"
        );
        assert_eq!(guest.desk.answer.status(), None);
    }
}

#[test]
fn extra_headers_are_set_replaced_and_removed() {
    let mut guest = Guest::new();
    guest.exchange.response = vec![b"X-Old: 1".to_vec(), b"X-Gone: 1".to_vec()];
    let extra = guest.extra(&[b"X-New: a", b"X-Old: 2", b"X-Gone", b""], NO_EXTRA);
    assert_eq!(guest.respond(200, b"", b"", extra), Action::Stop);
    assert_eq!(
        guest.exchange.response,
        [b"X-Old: 2".to_vec(), b"X-New: a".to_vec()]
    );
}

#[test]
fn one_bad_extra_header_means_that_none_is_set() {
    let mut guest = Guest::new();
    let extra = guest.extra(&[b"X-Good: a", b"X-Bad: a\r\nb"], NO_EXTRA);
    assert!(matches!(
        guest.respond(200, b"", b"", extra),
        Action::Fault(_)
    ));
    assert!(guest.exchange.response.is_empty());
    assert_eq!(guest.desk.answer.status(), None);
}

#[test]
fn more_than_64_extra_headers_or_wild_ones_are_refused() {
    let mut guest = Guest::new();
    let many = abi::tinykvm_response_extra {
        headers: DATA,
        num_headers: 65,
        ..NO_EXTRA
    };
    let wild = abi::tinykvm_response_extra {
        headers: u64::MAX - 8,
        num_headers: 2,
        ..NO_EXTRA
    };
    for extra in [many, wild] {
        let at = guest.put(0x300, bytes_of(&extra)).0;
        assert!(matches!(guest.respond(200, b"", b"", at), Action::Fault(_)));
    }
    for at in [1, 0xfff, u64::MAX, DATA + DATA_LEN - 8] {
        assert!(matches!(guest.respond(200, b"", b"", at), Action::Fault(_)));
    }
}

#[test]
fn lifetimes_come_with_a_cached_response_only() {
    let mut guest = Guest::new();
    let times = abi::tinykvm_response_extra {
        ttl: 1.5,
        grace: f32::NAN,
        keep: -3.0,
        ..NO_EXTRA
    };
    let extra = guest.extra(&[], times);
    assert_eq!(guest.respond(200, b"", b"", extra), Action::Stop);
    assert_eq!(guest.exchange.cacheability, None);
    let extra = guest.extra(&[], abi::tinykvm_response_extra { cached: 1, ..times });
    assert_eq!(guest.respond(200, b"", b"", extra), Action::Stop);
    let how = guest.exchange.cacheability.unwrap();
    assert!(how.cacheable);
    assert_eq!(how.ttl, Duration::from_millis(1500));
    assert_eq!((how.grace, how.keep), (Duration::ZERO, Duration::ZERO));
}

#[test]
fn header_calls_do_what_their_names_say() {
    let mut guest = Guest::new();
    let (at, len) = guest.put(0, b"X-Append: yes");
    guest.call(abi::TINYKVM_CALL_HTTP_APPEND, &[1, at, len]);
    guest.call(abi::TINYKVM_CALL_HTTP_APPEND, &[5, at, len]);
    assert_eq!(guest.exchange.response.len(), 2);
    let (at, len) = guest.put(0, b"x-append: no");
    guest.call(abi::TINYKVM_CALL_HTTP_SET, &[1, at, len]);
    assert_eq!(
        guest.exchange.response,
        [b"x-append: no".to_vec(), b"X-Append: yes".to_vec()]
    );
    assert_eq!(guest.call(abi::TINYKVM_CALL_HTTP_SET, &[1, at, 0]), 0);

    let (at, _) = guest.put(0, b"host");
    let out = DATA + 0x1000;
    assert_eq!(
        guest.call(abi::TINYKVM_CALL_HTTP_FIND, &[0, at, 4, 0, 0]),
        17
    );
    assert_eq!(
        guest.call(abi::TINYKVM_CALL_HTTP_FIND, &[0, at, 4, out, 16]),
        0
    );
    assert_eq!(
        guest.call(abi::TINYKVM_CALL_HTTP_FIND, &[4, at, 4, out, 17]),
        17
    );
    assert_eq!(guest.get(out, 17), b"Host: example.com");
    assert_eq!(
        guest.call(abi::TINYKVM_CALL_HTTP_FIND, &[1, at, 4, out, 17]),
        0
    );

    assert_eq!(guest.call(abi::TINYKVM_CALL_HTTP_METHOD, &[0, 0]), 3);
    assert_eq!(guest.call(abi::TINYKVM_CALL_HTTP_METHOD, &[out, 2]), 0);
    assert_eq!(guest.call(abi::TINYKVM_CALL_HTTP_METHOD, &[out, 3]), 3);
    assert_eq!(guest.get(out, 3), b"GET");
}

#[test]
fn a_full_header_table_is_an_answer_and_not_a_fault() {
    let mut guest = Guest::new();
    guest.exchange.max_fields = 0;
    let (at, len) = guest.put(0, b"X-Append: yes");
    assert_eq!(
        guest.call(abi::TINYKVM_CALL_HTTP_APPEND, &[1, at, len]),
        0xffff_ffff
    );
    let extra = guest.extra(&[b"X-New: a"], NO_EXTRA);
    assert_eq!(guest.respond(200, b"", b"", extra), Action::Stop);
    assert!(
        guest
            .exchange
            .log_text()
            .contains("1 response headers lost")
    );
}

#[test]
fn wrong_tables_and_texts_are_faults() {
    let mut guest = Guest::new();
    let (at, len) = guest.put(0, b"X-Append: yes");
    for side in [2, 3, 6, u64::from(u32::MAX)] {
        assert!(guest.is_fault(abi::TINYKVM_CALL_HTTP_APPEND, &[side, at, len]));
    }
    assert!(guest.is_fault(abi::TINYKVM_CALL_HTTP_APPEND, &[1, at, 0x1_0000]));
    assert!(guest.is_fault(abi::TINYKVM_CALL_HTTP_APPEND, &[1, 0, 10]));
    for text in [&b"a: b\r\n"[..], b"a:b", b"no colon", b" a: b"] {
        let (at, len) = guest.put(0, text);
        assert!(guest.is_fault(abi::TINYKVM_CALL_HTTP_APPEND, &[1, at, len]));
    }
    for name in [&b""[..], b"a:", b"a b", b"a\0"] {
        let (at, len) = guest.put(0, name);
        assert!(guest.is_fault(abi::TINYKVM_CALL_HTTP_FIND, &[0, at, len, 0, 0]));
    }
    let (at, _) = guest.put(0, b"host");
    assert!(guest.is_fault(abi::TINYKVM_CALL_HTTP_FIND, &[0, at, 4, READ_ONLY, 100]));
}

#[test]
fn regular_expressions_match_substitute_and_copy() {
    let mut guest = Guest::new();
    let (at, len) = guest.put(0, b"^X-([AB]): ");
    let regex = guest.call(abi::TINYKVM_CALL_REGEX_COMPILE, &[at, len]);
    assert_eq!(
        guest.call(abi::TINYKVM_CALL_REGEX_COMPILE, &[at, len]),
        regex
    );
    let (at, len) = guest.put(0x100, b"X-A: 1\0");
    assert_eq!(
        guest.call(abi::TINYKVM_CALL_REGEX_MATCH, &[regex, at, len - 1]),
        1
    );
    assert_eq!(
        guest.call(abi::TINYKVM_CALL_REGEX_MATCH, &[regex, at, 3]),
        u64::MAX
    );
    let (to, _) = guest.put(0x200, b"\\1=\0");
    let out = DATA + 0x1000;
    assert_eq!(
        guest.call(abi::TINYKVM_CALL_REGEX_SUBST, &[regex, at, to, out, 100, 0]),
        4
    );
    assert_eq!(guest.get(out, 4), b"A=1\0");
    assert_eq!(
        guest.call(abi::TINYKVM_CALL_REGEX_SUBST, &[regex, at, to, out, 2, 0]),
        2
    );
    assert_eq!(
        guest.call(abi::TINYKVM_CALL_REGEX_COPYTO, &[regex, 0, 1]),
        2
    );
    assert_eq!(
        guest.exchange.response,
        [b"X-A: 1".to_vec(), b"X-B: 2".to_vec()]
    );
    guest.call(abi::TINYKVM_CALL_REGEX_FREE, &[regex]);
    assert!(guest.is_fault(abi::TINYKVM_CALL_REGEX_MATCH, &[regex, at, 3]));
}

#[test]
fn a_starting_program_registers_code_and_waits() {
    let mut guest = Guest::new();
    let register = abi::TINYKVM_CALL_REGISTER_FUNC;
    assert_eq!(guest.run(true, register, &[1, CODE]), Action::Continue);
    assert_eq!(
        guest.entry.get(super::Entry::Get),
        Some(GuestVirt::new(CODE))
    );
    for (slot, function) in [(13, CODE), (u64::from(u32::MAX), CODE), (1, 0), (1, DATA)] {
        let action = guest.run(true, register, &[slot, function]);
        assert!(
            matches!(action, Action::Fault(Fault::Misuse(_))),
            "{slot} {function:#x}"
        );
    }
    let paused = abi::TINYKVM_CALL_WAIT_PAUSED;
    assert!(matches!(
        guest.run(true, paused, &[READ_ONLY]),
        Action::Fault(_)
    ));
    assert_eq!(guest.run(true, paused, &[DATA]), Action::Stop);
    assert_eq!(
        guest.entry.waiting(),
        Some(Waiting::Paused {
            request: GuestVirt::new(DATA)
        })
    );
    for number in [register, paused, abi::TINYKVM_CALL_WAIT_FOR_REQUESTS] {
        assert!(guest.is_fault(number, &[1, CODE]));
    }
}

#[test]
fn a_starting_program_has_no_transaction() {
    let mut guest = Guest::new();
    let (at, len) = guest.put(0, b"X-A: b");
    for number in [
        abi::TINYKVM_CALL_HTTP_SET,
        abi::TINYKVM_CALL_HTTP_METHOD,
        abi::TINYKVM_CALL_SET_CACHEABLE,
        abi::TINYKVM_CALL_BACKEND_RESPONSE,
    ] {
        assert!(matches!(
            guest.run(true, number, &[1, at, len]),
            Action::Fault(_)
        ));
    }
}

#[test]
fn questions_about_the_vm_are_answered() {
    let mut guest = Guest::new();
    assert_eq!(guest.call(abi::TINYKVM_CALL_IS_STORAGE, &[]), 0);
    assert_eq!(guest.call(abi::TINYKVM_CALL_IS_DEBUG, &[]), 0);
    assert_eq!(guest.call(abi::TINYKVM_CALL_SHARED_MEMORY, &[]), u64::MAX);
    assert_eq!(guest.regs.rdx, u64::MAX);
    guest.call(abi::TINYKVM_CALL_MEMINFO, &[DATA]);
    let info: abi::tinykvm_meminfo = from_bytes(&guest.get(DATA, 32)).unwrap();
    assert_eq!((info.max_memory, info.max_request_memory), (1, 2));
    assert_eq!(guest.call(0x10099, &[]), (-38_i64).cast_unsigned());
    assert_eq!(
        guest.call(abi::TINYKVM_CALL_MULTIPROCESS, &[]),
        (-38_i64).cast_unsigned()
    );
    guest.call(abi::TINYKVM_CALL_SET_CACHEABLE, &[1, 2000, 0, u64::MAX]);
    assert_eq!(
        guest.exchange.cacheability.unwrap().ttl,
        Duration::from_secs(2)
    );
}

#[test]
fn log_lines_cannot_carry_line_breaks() {
    let mut guest = Guest::new();
    let (at, len) = guest.put(0, b"one\ntwo\r\n\0three");
    guest.call(abi::TINYKVM_CALL_LOG, &[at, len]);
    let lines: Vec<_> = guest
        .exchange
        .log
        .iter()
        .map(|(_, line)| line.clone())
        .collect();
    let said = ["one", "two", "three"].map(|text| format!(" says: {text}").into_bytes());
    assert_eq!(lines, said);
}

#[test]
fn nonsense_in_any_call_never_panics_and_a_reset_forgets_it() {
    let values = [
        0,
        1,
        8,
        64,
        0xfff,
        0x1_0000,
        0x12000,
        DATA,
        DATA + DATA_LEN - 1,
        CODE,
        READ_ONLY,
        0x7fff_ffff,
        0xffff_ffff,
        0x7fff_ffff_f000,
        0x8000_0000_0000,
        u64::MAX - 7,
        u64::MAX,
    ];
    let mut guest = Guest::new();
    let noise: Vec<u8> = (0..=255).cycle().take(0x4000).collect();
    guest.put(0, &noise);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut pick = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        values[usize::try_from(state % 17).unwrap()]
    };
    for round in 0..400 {
        for row in TABLE {
            // Compiling starts a thread each time: a few are enough.
            if row.number == abi::TINYKVM_CALL_REGEX_COMPILE && round % 50 != 0 {
                continue;
            }
            let arguments = [pick(), pick(), pick(), pick(), pick(), pick()];
            let _any_action = guest.run(round % 2 == 0, row.number, &arguments);
        }
        guest.desk.reset();
        assert_eq!(guest.desk.answer.status(), None);
        assert!(guest.desk.answer.pieces().is_empty());
    }
}

#[test]
fn the_table_is_sorted_so_that_each_number_is_found() {
    assert!(TABLE.windows(2).all(|pair| pair[0].number < pair[1].number));
    for row in TABLE {
        assert_eq!(
            super::find(row.number).map(|found| found.name),
            Some(row.name)
        );
    }
    assert!(super::find(0x10099).is_none());
}
