/* A guest program of a few instructions with which the host finds out what kind of KVM it has.
 * Position-independent user code; RDI points to a writable word. */
#include "tinykvm_layout.h"

	.section .rodata
	.balign 16
	.globl tinykvm_probe_begin
tinykvm_probe_begin:
1:	movl	$TINYKVM_SYSCALL_FLUSH, %eax
	syscall
	rdfsbase %rcx
	movq	$1, (%rdi)
	movl	$7, %eax
	xorl	%ecx, %ecx
	cpuid
	movl	%ebx, %r8d
	rdtsc
	outl	%eax, $TINYKVM_PORT_HYPERCALL
	jmp	1b
	.globl tinykvm_probe_end
tinykvm_probe_end:

	.section .note.GNU-stack, "", @progbits
