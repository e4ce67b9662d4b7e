/* Where the sandbox's own pages lie in every guest, and what the in-guest kernel and the host
 * agree on. Internal: guest programs never include this file (they include tinykvm_abi.h).
 * Read by the assembler (kernel/kernel.S), by C (vdso/vdso.c) and, through bindgen, by Rust. */
#ifndef TINYKVM_LAYOUT_H
#define TINYKVM_LAYOUT_H

/* guest-virtual                     who may       what
 * 0x00000..0x0ffff                  nobody        null pointers fault
 * 0x10000                           supervisor    GDT and TSS (with the I/O permission bitmap)
 * 0x11000                           supervisor    IDT
 * 0x12000                           supervisor    in-guest kernel
 * 0x13000..0x13fff                  supervisor    kernel stack
 * 0x18000                           user r-x      entry and exit stubs
 * 0x19000                           user r--      the frame: rewritten by the host before every entry
 * 0x1a000..0x1bfff                  user r-x      vDSO
 * 0x1d000                           user r--      XSAVE image that every entry starts from
 * 0x100000..                        user          the program
 */
#define TINYKVM_GDT            0x10000
#define TINYKVM_TSS            0x10100
#define TINYKVM_IDT            0x11000
#define TINYKVM_KERNEL         0x12000
#define TINYKVM_KERNEL_STACK   0x13000
#define TINYKVM_KERNEL_STACK_TOP 0x14000
#define TINYKVM_STUBS          0x18000
#define TINYKVM_FRAME          0x19000
#define TINYKVM_VDSO           0x1a000
#define TINYKVM_VDSO_END       0x1c000
#define TINYKVM_XSAVE          0x1d000
#define TINYKVM_USER_BEGIN     0x100000
#define TINYKVM_PIE_BASE       0x200000
#define TINYKVM_USER_END       0x7ffffffff000

/* Linux's selectors: host B knows no others. */
#define TINYKVM_KERNEL_CS      0x10
#define TINYKVM_KERNEL_DS      0x18
#define TINYKVM_USER_CS        0x33
#define TINYKVM_USER_DS        0x2b
#define TINYKVM_TSS_SELECTOR   0x40

/* I/O ports. Port 0 is the only one that user mode may write (TSS bitmap; a 32-bit OUT to it
 * needs the bits of ports 0 to 3). The others are for CPL 0. */
#define TINYKVM_PORT_HYPERCALL 0x00
#define TINYKVM_PORT_SYSCALL   0x10
#define TINYKVM_PORT_EXCEPTION 0x80

/* A system call number that the in-guest kernel keeps to itself: reload CR3. */
#define TINYKVM_SYSCALL_FLUSH  0x1f777

/* The hypercall that a callback's return address makes. */
#define TINYKVM_CALL_FINISHED  0xffff

/* Offsets in the frame page; struct tinykvm_frame restates them for C and Rust. */
#define TINYKVM_FRAME_RAX      0x00
#define TINYKVM_FRAME_RCX      0x08
#define TINYKVM_FRAME_RDX      0x10
#define TINYKVM_FRAME_R11      0x18
#define TINYKVM_FRAME_TARGET   0x20
#define TINYKVM_FRAME_FS_BASE  0x28
#define TINYKVM_FRAME_GS_BASE  0x30
#define TINYKVM_FRAME_FLUSH    0x38
#define TINYKVM_FRAME_CLOCK    0x40
#define TINYKVM_FRAME_RANDOM   0x80
#define TINYKVM_FRAME_VCPU     0x90

#ifndef __ASSEMBLER__
#include <stdint.h>

/* What the vDSO turns a TSC reading into: ns = base_ns + ((tsc - tsc_base) * mult >> 32). */
struct tinykvm_clock {
	uint64_t tsc_base;
	uint64_t mult;           /* nanoseconds per TSC tick, 32.32 fixed point; 0: no usable TSC */
	uint64_t realtime_ns;    /* CLOCK_REALTIME at tsc_base */
	uint64_t monotonic_ns;   /* CLOCK_MONOTONIC at tsc_base */
	uint64_t reserved[4];
};

struct tinykvm_frame {
	uint64_t rax, rcx, rdx, r11;   /* what the entry stub clobbers and then loads */
	uint64_t target;               /* where user code starts */
	uint64_t fs_base, gs_base;
	uint64_t flush;                /* not 0: reload CR3 first */
	struct tinykvm_clock clock;
	uint8_t random[16];            /* AT_RANDOM; fresh for every request */
	uint32_t vcpu, request_vm;     /* what vcpuid() and vcpureqid() read at GS:0 and GS:4 */
};
#endif
#endif
