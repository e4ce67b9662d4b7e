/* What runs inside every VM besides the program: the in-guest kernel (CPL 0, TINYKVM_KERNEL) and
 * the entry and exit stubs (CPL 3, TINYKVM_STUBS). Data in this process; the host copies it.
 *
 * Two kinds of host. A: SYSCALL enters syscall_entry at CPL 0. B: SYSCALL jumps there but stays at
 * CPL 3, which faults on the supervisor page; page_fault recognises that. Instructions at CPL 0
 * are emulated on B: keep them few, and return with iretq only. */
#include "tinykvm_layout.h"

	.section .rodata
	.balign 16
	.globl tinykvm_kernel_begin
tinykvm_kernel_begin:

/* A: from user mode, still on its stack. Leaves the frame that iretq takes. */
syscall_entry:
	cmpl	$TINYKVM_SYSCALL_FLUSH, %eax
	je	flush
	movq	%rsp, TINYKVM_KERNEL_STACK
	movl	$TINYKVM_KERNEL_STACK_TOP, %esp
	pushq	$TINYKVM_USER_DS
	pushq	TINYKVM_KERNEL_STACK
	pushq	%r11
	pushq	$TINYKVM_USER_CS
	pushq	%rcx
	outl	%eax, $TINYKVM_PORT_SYSCALL
enter:
	iretq

/* A only: the host has cleared dirty bits. Uses no stack, so that it dirties nothing. */
flush:
	movq	%cr3, %rax
	movq	%rax, %cr3
	xorl	%eax, %eax
	sysretq

/* Error codes 0x14 and 0x15: an instruction fetch from user mode. The saved flags are the CPU's
 * own and stay: a program that jumps here by hand gets a system call, nothing else. */
page_fault:
	cmpq	$0x15, (%rsp)
	je	1f
	cmpq	$0x14, (%rsp)
	jne	2f
1:	pushq	%rax
	movq	%cr2, %rax
	cmpq	$TINYKVM_KERNEL, %rax
	popq	%rax
	jne	2f
	addq	$8, %rsp
	movq	%rcx, (%rsp)
	outl	%eax, $TINYKVM_PORT_SYSCALL
	iretq
2:	outl	%eax, $(TINYKVM_PORT_EXCEPTION + 14)
	hlt

/* Four bytes a vector. The host reads the frame that the CPU pushed and never comes back here. */
	.balign 4
exceptions:
	.set vector, 0
	.rept 32
	outl	%eax, $(TINYKVM_PORT_EXCEPTION + vector)
	hlt
	.balign 4
	.set vector, vector + 1
	.endr

	.globl tinykvm_kernel_end
tinykvm_kernel_end:

	.balign 16
	.globl tinykvm_stubs_begin
tinykvm_stubs_begin:

/* Every call into the program starts here, in user mode, with its registers in place but for
 * those that the frame page holds. Restores what user mode could have changed and the host
 * cannot set for free: selectors, FS and GS base, the whole extended state. Even the code segment:
 * who answered from 32-bit code left the CPU in it, where 48 90 is a DEC of EAX and a NOP. */
entry_stub:
	xorl	%eax, %eax
	.byte	0x48, 0x90
	testl	%eax, %eax
	jz	2f
	.byte	0xea
	.long	TINYKVM_STUBS + (2f - tinykvm_stubs_begin)
	.word	TINYKVM_USER_CS
2:
	cmpl	$0, TINYKVM_FRAME + TINYKVM_FRAME_FLUSH
	je	1f
	movl	$TINYKVM_SYSCALL_FLUSH, %eax
	syscall
1:	xorl	%eax, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %fs
	movl	%eax, %gs
	movq	TINYKVM_FRAME + TINYKVM_FRAME_FS_BASE, %rax
	wrfsbase %rax
	movq	TINYKVM_FRAME + TINYKVM_FRAME_GS_BASE, %rax
	wrgsbase %rax
	movl	$-1, %eax
	movl	$-1, %edx
	xrstor64 TINYKVM_XSAVE
	movq	TINYKVM_FRAME + TINYKVM_FRAME_RCX, %rcx
	movq	TINYKVM_FRAME + TINYKVM_FRAME_RDX, %rdx
	movq	TINYKVM_FRAME + TINYKVM_FRAME_R11, %r11
	movq	TINYKVM_FRAME + TINYKVM_FRAME_RAX, %rax
	jmpq	*TINYKVM_FRAME + TINYKVM_FRAME_TARGET

/* Where callbacks return to: results in RDI and RDX. */
exit_stub:
	movq	%rax, %rdi
	movl	$TINYKVM_CALL_FINISHED, %eax
	outl	%eax, $TINYKVM_PORT_HYPERCALL
	ud2

	.globl tinykvm_stubs_end
tinykvm_stubs_end:

/* Offsets of the entry points from the start of their page. */
	.balign 8
	.globl tinykvm_entry_points
tinykvm_entry_points:
	.quad	syscall_entry - tinykvm_kernel_begin
	.quad	enter - tinykvm_kernel_begin
	.quad	page_fault - tinykvm_kernel_begin
	.quad	exceptions - tinykvm_kernel_begin
	.quad	entry_stub - tinykvm_stubs_begin
	.quad	exit_stub - tinykvm_stubs_begin

	.section .note.GNU-stack, "", @progbits
