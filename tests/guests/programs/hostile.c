/* Does what the URL says, all of it bad; numbers in URLs are hexadecimal. What survives answers 200
 * with the results.
 *
 *   /loop /null /return /ud2 /div0 /int3 /hlt /cli /memory /malloc /exit/N /kill/N /abort
 *   /overflow /frame                                the stack: by calls, by one large frame
 *   /below /own-stack                               what looks like that and is not
 *   /read/ADDRESS /write/ADDRESS /jump/ADDRESS      what the program may not touch
 *   /stack-code /data-code /write-text              W^X
 *   /status/N /type/LENGTH /body/ADDRESS/LENGTH /extra/ADDRESS /headers/ADDRESS/COUNT
 *   /call/NUMBER/RDI/RSI/RDX/RCX/R8/R9              one hypercall or Linux call (missing: 0)
 *   /syscall/NUMBER/RDI/RSI/RDX/R10/R8/R9           the same by the SYSCALL instruction
 *   /wild/FIRST/LAST/VALUE                          the hypercalls of a range, VALUE in all arguments
 *   /port/NUMBER                                    a byte to another I/O port
 *   /log/COUNT /stderr/COUNT                        floods
 *   /descriptors                                    opens as many files as it can
 */
#include "kvm_api.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

static char text[4096];

static long hypercall(uint64_t number, const uint64_t *v)
{
	register uint64_t r10 __asm__("r10") = v[3];
	register uint64_t r8 __asm__("r8") = v[4];
	register uint64_t r9 __asm__("r9") = v[5];
	uint64_t result = number, rdx = v[2];
	__asm__ volatile("outl %%eax, $0"
		: "+a"(result), "+d"(rdx)
		: "D"(v[0]), "S"(v[1]), "c"(v[3]), "r"(r10), "r"(r8), "r"(r9)
		: "memory");
	return (long)result;
}

static long linux_call(uint64_t number, const uint64_t *v)
{
	register uint64_t r10 __asm__("r10") = v[3];
	register uint64_t r8 __asm__("r8") = v[4];
	register uint64_t r9 __asm__("r9") = v[5];
	uint64_t result = number;
	__asm__ volatile("syscall"
		: "+a"(result)
		: "D"(v[0]), "S"(v[1]), "d"(v[2]), "r"(r10), "r"(r8), "r"(r9)
		: "rcx", "r11", "memory");
	return (long)result;
}

/* Does the URL begin with /name, and what numbers follow? */
static bool is(const char *url, const char *name, uint64_t *values)
{
	const size_t len = strlen(name);
	if (url[0] != '/' || strncmp(url + 1, name, len) != 0 || (url[1 + len] != 0 && url[1 + len] != '/'))
		return false;
	char *at = (char *)url + 1 + len;
	memset(values, 0, 8 * sizeof(*values));
	for (int i = 0; i < 8 && *at == '/'; i++)
		values[i] = strtoull(at + 1, &at, 16);
	return true;
}

static int overflow(volatile char *above)
{
	volatile char frame[4096];
	frame[0] = above[0];
	return frame[0] == 'x' ? 0 : overflow(frame) + frame[0];
}

__attribute__((noinline)) static int frame(void)
{
	volatile char whole[19 << 20];
	whole[0] = 'x';
	return whole[0];
}

static void run_bytes(void *at)
{
	memcpy(at, "\xb8\x2a\x00\x00\x00\xc3", 6); /* mov $42, %eax; ret */
	snprintf(text, sizeof(text), "ran %d\n", ((int (*)(void))(uintptr_t)at)());
}

static void on_get(const char *url, const char *arg)
{
	static unsigned char data_code[16];
	unsigned char stack_code[16];
	uint64_t v[8];
	(void)arg;

	if (is(url, "loop", v))
		for (;;)
			__asm__ volatile("" ::: "memory");
	if (is(url, "null", v))
		*(volatile int *)v[0] = 1;
	if (is(url, "return", v))
		return;
	if (is(url, "ud2", v))
		__asm__ volatile("ud2");
	if (is(url, "div0", v))
		__asm__ volatile("xorl %%ecx, %%ecx\n\tmovl $1, %%eax\n\tcltd\n\tidivl %%ecx" ::: "eax", "ecx", "edx");
	if (is(url, "int3", v))
		__asm__ volatile("int3");
	if (is(url, "hlt", v))
		__asm__ volatile("hlt");
	if (is(url, "cli", v))
		__asm__ volatile("cli");
	if (is(url, "overflow", v))
		snprintf(text, sizeof(text), "%d", overflow(text));
	if (is(url, "frame", v))
		snprintf(text, sizeof(text), "%d", frame());
	if (is(url, "below", v))
		*(volatile char *)((uintptr_t)stack_code - (4 << 20)) = 'x';
	if (is(url, "own-stack", v)) {
		char *own = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		mprotect(own, 4096, PROT_NONE);
		__asm__ volatile("mov %0, %%rsp; push %%rax; push %%rax" :: "r"(own + 4104) : "memory");
	}
	if (is(url, "memory", v)) {
		/* Touches mapping after mapping, for ever. */
		for (;;) {
			char *at = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (at == MAP_FAILED)
				break;
			memset(at, 0x5a, 1 << 20);
		}
		snprintf(text, sizeof(text), "mmap failed\n");
	}
	if (is(url, "malloc", v)) {
		for (;;) {
			char *at = malloc(4096);
			if (at == NULL)
				break;
			memset(at, 0x5a, 4096);
		}
		snprintf(text, sizeof(text), "malloc failed\n");
	}
	if (is(url, "exit", v))
		exit((int)v[0]);
	if (is(url, "kill", v))
		kill(getpid(), (int)v[0]);
	if (is(url, "abort", v))
		abort();
	if (is(url, "read", v))
		snprintf(text, sizeof(text), "read %x\n", *(volatile unsigned char *)v[0]);
	if (is(url, "write", v)) {
		*(volatile unsigned char *)v[0] = 1;
		snprintf(text, sizeof(text), "written\n");
	}
	if (is(url, "jump", v))
		((void (*)(void))v[0])();
	if (is(url, "stack-code", v))
		run_bytes(stack_code);
	if (is(url, "data-code", v))
		run_bytes(data_code);
	if (is(url, "write-text", v))
		*(volatile unsigned char *)(uintptr_t)on_get = 0x90;
	if (is(url, "status", v))
		backend_response((int16_t)v[0], "text/plain", 10, "status", 6);
	if (is(url, "type", v)) {
		char *type = calloc(1, v[0] + 1);
		if (type == NULL)
			abort();
		memset(type, 't', v[0]);
		backend_response(200, type, v[0], "type", 4);
	}
	if (is(url, "body", v))
		backend_response(200, "text/plain", 10, (const void *)v[0], v[1]);
	if (is(url, "extra", v))
		backend_response_extra(200, "text/plain", 10, "extra", 5, (const void *)v[0]);
	if (is(url, "headers", v)) {
		struct BackendResponseExtra extra;
		memset(&extra, 0, sizeof(extra));
		extra.headers = (const struct ResponseHeader *)v[0];
		extra.num_headers = (uint16_t)v[1];
		backend_response_extra(200, "text/plain", 10, "headers", 7, &extra);
	}
	if (is(url, "call", v))
		snprintf(text, sizeof(text), "%ld\n", hypercall(v[0], v + 1));
	if (is(url, "syscall", v))
		snprintf(text, sizeof(text), "%ld\n", linux_call(v[0], v + 1));
	if (is(url, "wild", v)) {
		const uint64_t args[6] = {v[2], v[2], v[2], v[2], v[2], v[2]};
		uint64_t number, missing = 0;
		for (number = v[0]; number <= v[1]; number++)
			missing += hypercall(number, args) == -38;
		snprintf(text, sizeof(text), "%lx calls, %lx missing\n", number - v[0], missing);
	}
	if (is(url, "port", v))
		__asm__ volatile("outb %%al, %%dx" :: "a"(0), "d"((uint16_t)v[0]));
	if (is(url, "descriptors", v)) {
		int count = 0;
		while (open("/proc/self/exe", O_RDONLY) >= 0)
			count++;
		snprintf(text, sizeof(text), "%d and %s\n", count, errno == ENFILE ? "ENFILE" : strerror(errno));
	}
	if (is(url, "log", v)) {
		for (uint64_t i = 0; i < v[0]; i++)
			vlogf("line %lu of a flood", i);
		snprintf(text, sizeof(text), "logged\n");
	}
	if (is(url, "stderr", v)) {
		for (uint64_t i = 0; i < v[0]; i++)
			fprintf(stderr, "line %lu of a flood\n", i);
		snprintf(text, sizeof(text), "printed\n");
	}
	if (text[0] == 0)
		snprintf(text, sizeof(text), "survived %s\n", url);
	backend_response_str(200, "text/plain", text);
}

int main(void)
{
	set_backend_get(on_get);
	wait_for_requests();
}
