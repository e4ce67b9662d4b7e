/* The guest's vDSO: clocks without leaving user mode. glibc, musl, Go and others find it through
 * AT_SYSINFO_EHDR and look its functions up by name and version.
 *
 * Guards: no relocations, no data of its own, no calls out, general registers only. It reads the
 * frame page, which the host rewrites while no guest code runs: no lock is needed.
 *
 * What the clocks of the frame page cannot tell, and everything on hosts without a usable TSC
 * (mult 0), is asked of the host by the system call of the same name. */
#include "tinykvm_layout.h"

#define NS_PER_SECOND 1000000000u
#define EXPORT __attribute__((visibility("default")))

enum { REALTIME, MONOTONIC, PROCESS_CPUTIME, THREAD_CPUTIME, MONOTONIC_RAW, REALTIME_COARSE,
       MONOTONIC_COARSE, BOOTTIME, REALTIME_ALARM, BOOTTIME_ALARM };
enum { SYS_GETTIMEOFDAY = 96, SYS_TIME = 201, SYS_CLOCK_GETTIME = 228, SYS_CLOCK_GETRES = 229 };

struct timespec { int64_t sec, nsec; };
struct timeval { int64_t sec, usec; };
struct timezone { int minutes_west, dst; };

static const volatile struct tinykvm_frame *frame(void)
{
	return (const volatile struct tinykvm_frame *)TINYKVM_FRAME;
}

static long call(long number, long first, long second)
{
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(first), "S"(second)
		: "rcx", "r11", "memory");
	return result;
}

/* Not before the loads and time stamps that precede it in the program. */
static uint64_t timestamp(void)
{
	uint32_t low, high;
	__asm__ volatile("lfence\n\trdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

/* Nanoseconds since the host wrote the frame; a TSC that is behind the host's counts as equal. */
static uint64_t elapsed(uint64_t mult)
{
	const uint64_t base = frame()->clock.tsc_base;
	const uint64_t now = timestamp();

	if ((int64_t)(now - base) < 0)
		return 0;
	return (uint64_t)((unsigned __int128)(now - base) * mult >> 32);
}

/* The reading of a clock in *ns, or 0 for those that only the host can read. BOOTTIME is MONOTONIC:
 * a guest does not notice when the host is suspended. The coarse clocks are as fine as the others. */
static int read_clock(int clock, uint64_t *ns)
{
	const uint64_t mult = frame()->clock.mult;

	if (mult == 0)
		return 0;
	switch (clock) {
	case REALTIME:
	case REALTIME_COARSE:
		*ns = frame()->clock.realtime_ns + elapsed(mult);
		return 1;
	case MONOTONIC:
	case MONOTONIC_RAW:
	case MONOTONIC_COARSE:
	case BOOTTIME:
		*ns = frame()->clock.monotonic_ns + elapsed(mult);
		return 1;
	default:
		return 0;
	}
}

EXPORT int __vdso_clock_gettime(int clock, struct timespec *out)
{
	uint64_t ns;

	if (!read_clock(clock, &ns))
		return (int)call(SYS_CLOCK_GETTIME, clock, (long)out);
	out->sec = (int64_t)(ns / NS_PER_SECOND);
	out->nsec = (int64_t)(ns % NS_PER_SECOND);
	return 0;
}

EXPORT int __vdso_clock_getres(int clock, struct timespec *out)
{
	uint64_t ns;

	if (!read_clock(clock, &ns))
		return (int)call(SYS_CLOCK_GETRES, clock, (long)out);
	if (out) {
		out->sec = 0;
		out->nsec = 1;
	}
	return 0;
}

EXPORT int __vdso_gettimeofday(struct timeval *out, struct timezone *zone)
{
	uint64_t ns;

	if (!read_clock(REALTIME, &ns))
		return (int)call(SYS_GETTIMEOFDAY, (long)out, (long)zone);
	if (out) {
		out->sec = (int64_t)(ns / NS_PER_SECOND);
		out->usec = (int64_t)(ns % NS_PER_SECOND / 1000);
	}
	if (zone)
		*zone = (struct timezone){0, 0};
	return 0;
}

EXPORT int64_t __vdso_time(int64_t *out)
{
	uint64_t ns;

	if (!read_clock(REALTIME, &ns))
		return call(SYS_TIME, (long)out, 0);
	if (out)
		*out = (int64_t)(ns / NS_PER_SECOND);
	return (int64_t)(ns / NS_PER_SECOND);
}

EXPORT long __vdso_getcpu(unsigned *cpu, unsigned *node, void *unused)
{
	(void)unused;
	if (cpu)
		*cpu = frame()->vcpu;
	if (node)
		*node = 0;
	return 0;
}

/* The plain names, which some loaders look for. */
#define ALIAS(name) __attribute__((weak, alias("__vdso_" #name), visibility("default")))
int clock_gettime(int clock, struct timespec *out) ALIAS(clock_gettime);
int clock_getres(int clock, struct timespec *out) ALIAS(clock_getres);
int gettimeofday(struct timeval *out, struct timezone *zone) ALIAS(gettimeofday);
int64_t time(int64_t *out) ALIAS(time);
long getcpu(unsigned *cpu, unsigned *node, void *unused) ALIAS(getcpu);
