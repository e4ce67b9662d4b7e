//! Guests that try to leave something behind by ways that ordinary programs never take.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod common;

use common::{Guest, Program, soon};
use sandbox::Fault;

/// A program whose GET callback runs `body` before it answers with `text`.
fn program(name: &str, declarations: &str, body: &str) -> Program {
    let source = format!(
        r#"
        #include "kvm_api.h"
        #include <sys/mman.h>
        #include <unistd.h>
        static char text[4096];
        static char own[16 * 4096] __attribute__((aligned(4096))) = {{1}};
        {declarations}
        static void on_get(const char *url, const char *arg)
        {{
            (void)arg; (void)own;
            {body}
            backend_response(200, "text/plain", 10, text, strlen(text));
        }}
        int main(void) {{ memset(own, 'o', sizeof(own)); set_backend_get(on_get); wait_for_requests(); }}
        "#
    );
    let file = guests::compile_text(name, &source, guests::Compiler::Gcc, &["-Wno-unused"]);
    let file = std::fs::read(file).unwrap();
    Program::boot_file(&file, &common::config(name)).unwrap()
}

fn asked(guest: &mut Guest, url: &str) -> String {
    guest.ask(url, "").unwrap()
}

#[test]
fn a_page_that_was_written_and_made_inaccessible_is_wiped() {
    let program = program(
        "written_then_hidden",
        "",
        r#"
        if (strcmp(url, "/") != 0) {
            memset(own + 4096, 'x', 4 * 4096);
            if (strcmp(url, "/protect") == 0) mprotect(own + 4096, 4 * 4096, PROT_NONE);
            else munmap(own + 4096, 4 * 4096);
        }
        snprintf(text, sizeof(text), "ok %c", strcmp(url, "/") ? '-' : own[4096 + 7]);
        "#,
    );
    let mut guest = program.fork();
    for url in ["/protect", "/unmap", "/protect"] {
        asked(&mut guest, url);
        assert_eq!(asked(&mut guest, "/"), "ok o");
    }
}

#[test]
fn a_page_that_is_discarded_while_it_is_inaccessible_comes_back() {
    let program = program(
        "hidden_then_discarded",
        "",
        r#"
        if (strcmp(url, "/") != 0) {
            mprotect(own + 4096, 4 * 4096, PROT_NONE);
            madvise(own + 4096, 4 * 4096, MADV_DONTNEED);
        }
        snprintf(text, sizeof(text), "ok %c", strcmp(url, "/") ? '-' : own[4096 + 7]);
        "#,
    );
    let mut guest = program.fork();
    asked(&mut guest, "/discard");
    assert_eq!(asked(&mut guest, "/"), "ok o");
}

#[test]
fn memory_mapped_over_the_image_is_zero() {
    let program = program(
        "mapped_over",
        "",
        r#"
        memset(own + 4096, 'x', 4 * 4096);
        char *at = mmap(own + 4096, 4 * 4096, PROT_READ | PROT_WRITE,
            MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        snprintf(text, sizeof(text), "%d %d %d", at == own + 4096, at[0], at[3 * 4096]);
        "#,
    );
    let mut guest = program.fork();
    for _ in 0..3 {
        assert_eq!(asked(&mut guest, "/"), "1 0 0");
    }
}

#[test]
fn frames_of_page_tables_are_not_mapped_for_the_program() {
    // What is mapped far away needs page tables, whose frames come from the arena. The program
    // looks for them where nothing is mapped.
    let program = program(
        "table_frames",
        r#"
        static char *first;
        "#,
        r#"
        const unsigned long mib = 1 << 20;
        char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        char *far = mmap((void *)0x600000000000, 4096, PROT_READ | PROT_WRITE,
            MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        far[0] = 1;
        const unsigned long pages = 128 * mib / 4096;
        unsigned long found = 0;
        const unsigned long last = strtoul(arg, NULL, 10);
        volatile unsigned long *at = (unsigned long *)(low + (pages - 1 - last) * 4096);
        for (int i = 0; i < 512; i++) found |= at[i];
        snprintf(text, sizeof(text), "%lx", found);
        "#,
    );
    let mut guest = program.fork();
    for page in ["0", "1", "2", "3"] {
        match guest.ask("/", page) {
            Err(Fault::Exception { vector: 14, .. }) => {}
            Ok(text) => assert_eq!(text, "0", "page {page} from the top"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_a_program_writes_where_nothing_is_mapped_never_becomes_a_page_table() {
    // Entries that would map the sandbox's own pages, wherever tables may be made later; once with an
    // unmapping before that, which needs frames itself.
    let program = program(
        "forged_tables",
        "",
        r#"
        const unsigned long page = 4096, end_after = 128 << 20;
        char *low = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        char *end = low + end_after;
        char *far = (char *)0x600000000000;
        const int how = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS;
        if (strcmp(url, "/unmap") == 0) {
            mmap((void *)0x610000000000, page, PROT_READ | PROT_WRITE, how, -1, 0);
            munmap(end - 64 * page, 64 * page);
            mmap(end - 4 * page, 4 * page, PROT_READ | PROT_WRITE, how, -1, 0);
        }
        for (unsigned long back = 32; back >= 1; back--) {
            unsigned long *entries = (unsigned long *)(end - back * page);
            if (strcmp(url, "/unmap") == 0 && back > 4) continue;
            for (unsigned long i = 0; i < 512; i++) entries[i] = i * page | 7;
        }
        mmap(far, page, PROT_READ | PROT_WRITE, how, -1, 0);
        if (strcmp(url, "/unmap") == 0)
            for (unsigned long back = 4; back >= 1; back--) {
                unsigned long *entries = (unsigned long *)(end - back * page);
                for (unsigned long i = 0; i < 512; i++) entries[i] = i * page | 7;
            }
        const unsigned long nth = strtoul(arg, NULL, 10);
        snprintf(text, sizeof(text), "%d", far[nth * page]);
        "#,
    );
    let mut guest = program.fork();
    for url in ["/", "/unmap"] {
        assert_eq!(guest.ask(url, "0").unwrap(), "0");
        for beside in ["1", "16", "18", "511"] {
            match guest.ask(url, beside) {
                Err(Fault::Exception { vector: 14, .. }) => {}
                other => panic!("{url} page {beside}: {other:?}"),
            }
        }
    }
}

#[test]
fn answering_from_32_bit_code_does_not_hurt_the_next_request() {
    let program = program(
        "compat",
        "",
        r#"
        snprintf(text, sizeof(text), "fine");
        if (strcmp(url, "/") != 0) {
            static const char type[] = "text/plain";
            __asm__ volatile(
                "pushq $0x23\n\t"
                "leaq 1f(%%rip), %%rax\n\t"
                "pushq %%rax\n\t"
                "movl $0x10010, %%eax\n\t"
                "lretq\n\t"
                "1: outl %%eax, $0\n\t"
                "jmp 1b"
                :: "D"(200L), "S"(type), "d"(10L), "c"(text), "a"(0)
                : "memory");
        }
        "#,
    );
    let mut guest = program.fork();
    // Whether the answer counts is the host's business; that the next one does is ours.
    let _ = guest.ask("/32", "");
    assert_eq!(asked(&mut guest, "/"), "fine");
}

#[test]
fn an_input_instruction_that_was_cut_off_does_not_go_on_in_the_next_request() {
    for (name, instruction) in [
        ("inb", "inb $0, %%al"),
        ("inl", "inl $0, %%eax"),
        ("insb", "insb"),
        ("insl", "insl"),
        ("rep_insb", "rep insb"),
        ("rep_outsl", "rep outsl"),
        ("outsl", "outsl"),
        ("outsb", "outsb"),
        ("outb", "outb %%al, $0"),
        ("outb3", "outb %%al, $3"),
    ] {
        let program = program(
            name,
            "static volatile unsigned long where;",
            &format!(
                r#"
            snprintf(text, sizeof(text), "fine");
            if (strcmp(url, "/") != 0) {{
                __asm__ volatile(
                    "{instruction}\n\t"
                    "1: movq $0x77, %0\n\t"
                    "ud2"
                    : "=m"(where) : "D"(own), "S"(own), "d"(0), "c"(3), "a"(0) : "memory");
            }}
            "#
            ),
        );
        let mut guest = program.fork();
        for _ in 0..3 {
            let end = guest.ask(&format!("/{name}"), "");
            assert!(end.is_err(), "{name}: {end:?}");
            assert_eq!(guest.ask("/", ""), Ok("fine".to_owned()), "{name}");
        }
    }
}

#[test]
fn a_wild_return_from_a_jump_into_the_system_call_entry_is_the_programs_own_fault() {
    let program = program(
        "wild_return",
        "",
        r#"
        snprintf(text, sizeof(text), "fine");
        if (strcmp(url, "/") != 0) {
            __asm__ volatile("jmp *%0" :: "r"(0x12000L), "a"(39L), "c"(0x8000000000000000L), "D"(0L));
        }
        "#,
    );
    let mut guest = program.fork();
    for _ in 0..3 {
        let end = guest.ask_until("/jump", "", soon());
        assert!(matches!(end, Err(Fault::Exception { .. })), "{end:?}");
        guest.vm.reset().unwrap();
        assert_eq!(asked(&mut guest, "/"), "fine");
    }
}

#[test]
fn scattered_changes_of_rights_are_undone() {
    // Every second page writable where the image has none that is: no two changes are neighbours, and
    // each takes rights away when it is undone.
    let program = program(
        "scattered",
        r#"
        static char *at;
        __attribute__((constructor)) static void map(void)
        {
            at = mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            for (long page = 0; page < 64 << 20; page += 4096) at[page] = 1;
            mprotect(at, 64 << 20, PROT_READ);
        }
        "#,
        r#"
        const long wanted = strtol(arg, NULL, 10), pages = (64 << 20) / 4096;
        for (long i = 0; i < wanted; i++) {
            char *page = at + (pages - 1 - 2 * i) * 4096;
            if (mprotect(page, 4096, PROT_READ | PROT_WRITE) != 0) return;
            *page = 2;
        }
        snprintf(text, sizeof(text), "%ld", wanted);
        "#,
    );
    let mut guest = program.fork();
    for wanted in ["10", "8000", "10"] {
        assert_eq!(
            guest.ask_until("/", wanted, soon()).unwrap().1,
            wanted.as_bytes()
        );
        guest.vm.reset().unwrap();
        assert_eq!(guest.vm.differences(), []);
    }
}

#[test]
fn wild_state_when_a_request_ends_is_not_the_next_ones() {
    // Each instruction runs right before the answer, a fault or the deadline.
    for (name, code) in [
        ("std_flag", "std"),
        ("trap_flag", "pushfq; orq $0x100, (%%rsp); popfq"),
        ("ac_nt_flags", "pushfq; orq $0x44000, (%%rsp); popfq"),
        ("id_rf", "pushfq; orq $0x210000, (%%rsp); popfq"),
        ("x87", "fninit; fldz; fldcw zero_word(%%rip)"),
        ("mxcsr", "ldmxcsr zero_mxcsr(%%rip)"),
        (
            "bases",
            "movq $0x7777, %%rax; wrfsbase %%rax; wrgsbase %%rax",
        ),
        (
            "selectors",
            "movl $0x2b, %%eax; movl %%eax, %%ds; movl %%eax, %%es; movl %%eax, %%fs; movl %%eax, %%gs",
        ),
        (
            "mov_ss",
            "movl $0x10010, %%eax; movl $0x2b, %%r9d; movl %%r9d, %%ss; outl %%eax, $0",
        ),
        ("stub", "movq $0x18000, %%rax; jmp *%%rax"),
        ("kernel_flush", "movl $0x1f777, %%eax; syscall"),
        ("call_flush", "movl $0x1f777, %%eax; outl %%eax, $0"),
        (
            "odd_stack",
            "movq $0x8000000000000000, %%rsp; movl $39, %%eax; syscall",
        ),
        (
            "odd_stack_fault",
            "movq $0x13ff8, %%rsp; movl $39, %%eax; syscall; ud2",
        ),
        ("low_stack", "movq $0x13ff8, %%rsp; pushq %%rax"),
        ("int80", "int $0x80"),
        ("icebp", ".byte 0xf1"),
        (
            "entry_error15",
            "movl $39, %%eax; movl $1f, %%ecx; movl $0x12000, %%edx; pushq $0x15; jmp *%%rdx; 1:",
        ),
        ("mid_kernel", "movl $0x12010, %%edx; jmp *%%rdx"),
        ("vdso_junk", "movl $0x1a800, %%edx; jmp *%%rdx"),
    ] {
        let program = program(
            name,
            r#"__asm__(".data\nzero_word: .word 0\nzero_mxcsr: .long 0\n.text");"#,
            &format!(
                r#"
            unsigned short cw; unsigned mx; unsigned long flags, fs, gs; unsigned ds, sel;
            __asm__ volatile("fnstcw %0; stmxcsr %1; pushfq; popq %2; rdfsbase %3; rdgsbase %4; mov %%ds, %5; mov %%fs, %6"
                : "=m"(cw), "=m"(mx), "=r"(flags), "=r"(fs), "=r"(gs), "=r"(ds), "=r"(sel));
            snprintf(text, sizeof(text), "%x %x %lx %lx %lx %x %x", cw, mx, flags & 0xfffff700, fs, gs, ds, sel);
            if (strcmp(url, "/") != 0)
                __asm__ volatile("{code}\n\tmovl $0x10010, %%eax\n\toutl %%eax, $0\n\tud2"
                    :: "D"(200L), "S"("t"), "d"(1L), "c"(text) : "memory");
            "#
            ),
        );
        let expected = program.fork().ask("/", "").unwrap();
        let mut guest = program.fork();
        for _ in 0..2 {
            // Some answer, some fault; what counts is the request behind them.
            let _ = guest.ask_until("/bad", "", soon());
            guest.vm.reset().unwrap();
            assert_eq!(guest.vm.differences(), [], "{name}");
            assert_eq!(guest.ask("/", "").unwrap(), expected, "{name}");
        }
    }
}

#[test]
fn a_hypercall_in_single_steps_ends_its_vm_which_the_cpu_might_not_enter_again() {
    // The second one, directly behind a load of SS, leaves a pending debug exception to VT-x.
    for (name, load) in [("step", ""), ("step_ss", "movl %%r9d, %%ss;")] {
        let program = program(
            name,
            "",
            &format!(
                r#"
            if (strcmp(url, "/") != 0)
                __asm__ volatile("movl $0x10010, %%eax; movl $0x2b, %%r9d;"
                    "pushfq; orq $0x100, (%%rsp); popfq; {load} outl %%eax, $0"
                    :: "D"(200L), "S"("t"), "d"(1L), "c"(text) : "memory", "rax", "r9");
            "#
            ),
        );
        let mut guest = program.fork();
        let end = guest.ask_until("/bad", "", soon());
        assert!(matches!(end, Err(Fault::Machine(_))), "{name}: {end:?}");
        guest.vm.reset().unwrap_err();
        program.fork().ask("/", "").unwrap();
    }
}
