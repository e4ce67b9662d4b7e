/* What the program was started with: argv, envp, auxv, and whether TLS, stack, heap and libc's
 * start-up are as on Linux. One line each; prints the same natively. */
#define _GNU_SOURCE
#include "kvm_api.h"
#include <elf.h>
#include <link.h>
#include <sys/auxv.h>
#include <unistd.h>

extern char **environ;
extern const char __ehdr_start[] __attribute__((weak, visibility("hidden")));

static char text[65536];
static size_t used;
static __thread int with_value = 4711;
static __thread int zero[100];
static int constructed;

__attribute__((constructor)) static void construct(void)
{
	constructed++;
}

__attribute__((format(printf, 1, 2)))
static void say(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	used += (size_t)vsnprintf(text + used, sizeof(text) - used, format, args);
	va_end(args);
}

static void collect(int argc, char **argv)
{
	const uintptr_t stack = (uintptr_t)__builtin_frame_address(0);
	for (int i = 0; i < argc; i++)
		say("argv[%d]=%s\n", i, argv[i]);
	say("argv ends=%d\n", argv[argc] == NULL);
	for (char **at = environ; *at != NULL; at++)
		say("env %s\n", *at);
	say("page=%lu phdr=%d phent=%lu phnum=%d entry=%d base=%lu\n", getauxval(AT_PAGESZ),
		getauxval(AT_PHDR) != 0, getauxval(AT_PHENT), getauxval(AT_PHNUM) != 0, getauxval(AT_ENTRY) != 0,
		getauxval(AT_BASE));
	say("ids=%lu %lu %lu %lu secure=%lu clktck=%lu\n", getauxval(AT_UID), getauxval(AT_EUID),
		getauxval(AT_GID), getauxval(AT_EGID), getauxval(AT_SECURE), getauxval(AT_CLKTCK));
	say("hwcap=%d hwcap2=%d platform=%s execfn=%s\n", getauxval(AT_HWCAP) != 0, getauxval(AT_HWCAP2) != 0,
		getauxval(AT_PLATFORM) != 0 ? (const char *)getauxval(AT_PLATFORM) : "",
		getauxval(AT_EXECFN) != 0 ? (const char *)getauxval(AT_EXECFN) : "");
	say("random=%d\n", getauxval(AT_RANDOM) != 0);
	const char *vdso = (const char *)getauxval(AT_SYSINFO_EHDR);
	say("vdso=%d\n", vdso != NULL && memcmp(vdso, ELFMAG, SELFMAG) == 0);
	if (&__ehdr_start != NULL && getauxval(AT_PHDR) != 0)
		say("phdr is where the ELF header says=%d\n",
			getauxval(AT_PHDR) == (uintptr_t)__ehdr_start + ((const ElfW(Ehdr) *)__ehdr_start)->e_phoff);
	say("stack aligned=%d\n", stack % 16 == 0);
	say("tls=%d %d\n", with_value, zero[99]);
	say("constructed=%d\n", constructed);
	char *heap = malloc(1 << 20);
	memset(heap, 1, 1 << 20);
	char *small = malloc(10);
	say("heap=%d\n", heap != NULL && small != NULL);
	/* Programs without prototypes cut pointers to 32 bits with sign: below 2 GiB that is harmless. */
	say("low=%d %d %d %d\n", (uintptr_t)heap >> 31 == 0, (uintptr_t)small >> 31 == 0, stack >> 31 == 0,
		(uintptr_t)environ >> 31 == 0);
	say("float=%.3f\n", 1.0 / 3.0);
}

static void on_get(const char *url, const char *arg)
{
	(void)url;
	(void)arg;
	backend_response(200, "text/plain", 10, text, used);
}

int main(int argc, char **argv)
{
	collect(argc, argv);
	if (IS_LINUX_MAIN()) {
		fputs(text, stdout);
		return 0;
	}
	set_backend_get(on_get);
	wait_for_requests();
}
