/* Reports the state that a request begins with, one "name=value" a line, and then changes all of it
 * before it answers: registers, FPU and vector state, segment bases, signal state, descriptors, cwd,
 * break, mappings, libc's and its own data. Two requests must see the same report. */
#define _GNU_SOURCE
#include "kvm_api.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What entry() saves; it must come first in the file for the assembly's offsets. */
struct saved {
	uint64_t general[16]; /* rax rbx rcx rdx rsi rdi rbp rsp r8..r15 */
	uint64_t flags, fs_base, gs_base, unused[5];
	uint8_t fpu[512];     /* as FXSAVE leaves it */
	uint8_t zmm[32][64];
	uint64_t masks[8];
};

struct saved saved __attribute__((aligned(64)));
uint32_t has_avx, has_avx512;
static uint8_t junk[64] __attribute__((aligned(64), used));

static char text[65536];
static size_t used;
static int counter = 100;
static __thread int thread_counter = 200;
static char *heap;
static int handled;

void entry(const char *url, const char *arg);
void entry_c(const char *url, const char *arg);
void leave(size_t len) __attribute__((noreturn));

/* The callback. Saves everything before compiled code changes it, as far as the CPU has it. */
__asm__(
	".text\n.global entry\n.type entry, @function\nentry:\n"
	"	movq %rax, saved+0(%rip)\n	movq %rbx, saved+8(%rip)\n"
	"	movq %rcx, saved+16(%rip)\n	movq %rdx, saved+24(%rip)\n"
	"	movq %rsi, saved+32(%rip)\n	movq %rdi, saved+40(%rip)\n"
	"	movq %rbp, saved+48(%rip)\n	movq %rsp, saved+56(%rip)\n"
	"	movq %r8, saved+64(%rip)\n	movq %r9, saved+72(%rip)\n"
	"	movq %r10, saved+80(%rip)\n	movq %r11, saved+88(%rip)\n"
	"	movq %r12, saved+96(%rip)\n	movq %r13, saved+104(%rip)\n"
	"	movq %r14, saved+112(%rip)\n	movq %r15, saved+120(%rip)\n"
	"	pushfq\n	popq saved+128(%rip)\n"
	"	cld\n"
	"	rdfsbase %rax\n	movq %rax, saved+136(%rip)\n"
	"	rdgsbase %rax\n	movq %rax, saved+144(%rip)\n"
	"	fxsave64 saved+192(%rip)\n"
	"	cmpl $0, has_avx512(%rip)\n	jne 1f\n"
	"	cmpl $0, has_avx(%rip)\n	je 2f\n"
	"	leaq saved+704(%rip), %rax\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
	"	vmovups %ymm\\n, \\n*64(%rax)\n"
	".endr\n	jmp 2f\n"
	"1:	leaq saved+704(%rip), %rax\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
	"	vmovups %zmm\\n, \\n*64(%rax)\n"
	".endr\n"
	".irp n,0,1,2,3,4,5,6,7\n"
	"	kmovw %k\\n, saved+2752+\\n*8(%rip)\n"
	".endr\n"
	"2:	jmp entry_c\n"
	".size entry, . - entry\n");

/* Fills every register with junk and answers with text[0..len]. */
__asm__(
	".text\n.global leave\n.type leave, @function\nleave:\n"
	"	movq %rdi, %r8\n"
	"	fninit\n	fldpi\n	fldln2\n	fldl2e\n	fldcw 3f(%rip)\n	ldmxcsr 4f(%rip)\n"
	"	cmpl $0, has_avx512(%rip)\n	jne 1f\n"
	"	cmpl $0, has_avx(%rip)\n	jne 2f\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n	movups junk(%rip), %xmm\\n\n.endr\n"
	"	jmp 5f\n"
	"2:\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n	vmovups junk(%rip), %ymm\\n\n.endr\n"
	"	jmp 5f\n"
	"1:\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
	"	vmovups junk(%rip), %zmm\\n\n.endr\n"
	".irp n,0,1,2,3,4,5,6,7\n	kmovw junk(%rip), %k\\n\n.endr\n"
	"5:	movabsq $0x5a5a12345678, %rax\n"
	"	wrfsbase %rax\n	wrgsbase %rax\n"
	"	movq %rax, %rbx\n	movq %rax, %rbp\n	movq %rax, %r10\n	movq %rax, %r11\n"
	"	movq %rax, %r12\n	movq %rax, %r13\n	movq %rax, %r14\n	movq %rax, %r15\n"
	"	movl $200, %edi\n	leaq 6f(%rip), %rsi\n	movl $10, %edx\n	leaq text(%rip), %rcx\n"
	"	xorl %r9d, %r9d\n"
	"	movq %rax, %rsp\n"
	"	std\n	stc\n"
	"	movl $0x10010, %eax\n	outl %eax, $0\n	ud2\n"
	"3:	.short 0x0f7f\n	.balign 4\n4:	.int 0x7f80\n"
	"6:	.ascii \"text/plain\"\n"
	".size leave, . - leave\n");

__attribute__((format(printf, 1, 2)))
static void say(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	used += (size_t)vsnprintf(text + used, sizeof(text) - used, format, args);
	va_end(args);
}

static void say_bytes(const char *name, int n, const void *bytes, size_t len)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < len; i++)
		sum = sum * 31 + ((const uint8_t *)bytes)[i];
	say("%s%d=%016llx\n", name, n, (unsigned long long)sum);
}

static void on_signal(int number)
{
	handled += number;
}

static void report(void)
{
	static const char *const names[16] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9",
		"r10", "r11", "r12", "r13", "r14", "r15"};
	struct sigaction action;
	sigset_t mask;
	stack_t alternative;
	char name[32] = {0}, directory[512] = {0};

	for (int i = 0; i < 16; i++)
		say("%s=%llx\n", names[i], (unsigned long long)saved.general[i]);
	say("flags=%llx\n", (unsigned long long)saved.flags);
	say("fs_base=%llx\ngs_base=%llx\n", (unsigned long long)saved.fs_base, (unsigned long long)saved.gs_base);
	say("x87_control=%x\nx87_status=%x\nx87_tags=%x\nmxcsr=%x\n", saved.fpu[0] | saved.fpu[1] << 8,
		saved.fpu[2] | saved.fpu[3] << 8, saved.fpu[4],
		(unsigned)(saved.fpu[24] | saved.fpu[25] << 8 | saved.fpu[26] << 16));
	for (int i = 0; i < 8; i++)
		say_bytes("st", i, saved.fpu + 32 + i * 16, 10);
	for (int i = 0; i < 16; i++)
		say_bytes("xmm", i, saved.fpu + 160 + i * 16, 16);
	for (int i = 0; i < 32; i++)
		say_bytes("zmm", i, saved.zmm[i], 64);
	for (int i = 0; i < 8; i++)
		say("k%d=%llx\n", i, (unsigned long long)saved.masks[i]);

	say("static=%d\nthread_local=%d\nerrno=%d\nhandled=%d\nrand=%d\n", counter, thread_counter, errno, handled,
		rand());
	say("heap=%p %s\n", (void *)heap, heap);
	char *next = malloc(100);
	say("next_malloc=%p %d\n", (void *)next, next[0]);
	say("break=%p\n", sbrk(0));
	void *at = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	say("next_mmap=%p\n", at);
	sigaction(SIGUSR1, NULL, &action);
	say("handler=%d\n", action.sa_handler == on_signal ? 1 : action.sa_handler == SIG_DFL ? 0 : 2);
	sigprocmask(SIG_SETMASK, NULL, &mask);
	say("mask=%d%d\n", sigismember(&mask, SIGUSR1), sigismember(&mask, SIGUSR2));
	alternative.ss_sp = NULL;
	alternative.ss_flags = -1;
	sigaltstack(NULL, &alternative);
	say("altstack=%p %x\n", alternative.ss_sp, alternative.ss_flags);
	prctl(PR_GET_NAME, name);
	say("name=%s\n", name);
	say("cwd=%s\n", getcwd(directory, sizeof(directory)) != NULL ? directory : "(none)");
	say("umask=%o\n", umask(0));
	say("next_fd=%d\n", dup(1));
	say("pid=%d tid=%ld\n", getpid(), (long)syscall(SYS_gettid));
}

static void change(void)
{
	static char other_stack[65536];
	struct sigaction action;
	sigset_t mask;
	stack_t alternative;

	counter = -1;
	thread_counter = -1;
	heap[0] = '!';
	memset(malloc(1 << 20), 0x55, 1 << 20);
	memset(&action, 0, sizeof(action));
	action.sa_handler = on_signal;
	sigaction(SIGUSR1, &action, NULL);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigaddset(&mask, SIGUSR2);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	memset(&alternative, 0, sizeof(alternative));
	alternative.ss_sp = other_stack;
	alternative.ss_size = sizeof(other_stack);
	sigaltstack(&alternative, NULL);
	prctl(PR_SET_NAME, "changed");
	if (chdir("/") != 0)
		errno = 0;
	umask(077);
	dup(1);
	dup(2);
	sbrk(65536);
	void *at = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at != MAP_FAILED)
		memset(at, 0x66, 1 << 20);
	at = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at != MAP_FAILED)
		munmap(at, 4096);
	setenv("CHANGED", "yes", 1);
	srand(4711);
	errno = 99;
	memset(junk, 0xa5, sizeof(junk));
}

__attribute__((used)) void entry_c(const char *url, const char *arg)
{
	(void)url;
	(void)arg;
	report();
	change();
	leave(used);
}

int main(void)
{
	has_avx = __builtin_cpu_supports("avx") != 0;
	has_avx512 = __builtin_cpu_supports("avx512f") != 0;
	heap = strdup("as main left it");
	set_backend_get(entry);
	wait_for_requests();
}
