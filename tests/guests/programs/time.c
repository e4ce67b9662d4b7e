/* The clocks, in nanoseconds, one per line. /cost: how long a million readings take. /sleep/N: sleeps
 * N milliseconds and says how long that was. */
#define _GNU_SOURCE
#include "kvm_api.h"
#include <sys/time.h>
#include <time.h>

static char text[1024];

static long long reading(clockid_t clock)
{
	struct timespec now;
	if (clock_gettime(clock, &now) != 0)
		return -1;
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void on_get(const char *url, const char *arg)
{
	(void)arg;
	if (strcmp(url, "/cost") == 0) {
		const long long start = reading(CLOCK_MONOTONIC);
		long long last = start;
		for (int i = 0; i < 1000000; i++) {
			const long long now = reading(CLOCK_MONOTONIC);
			if (now < last)
				backend_response_str(500, "text/plain", "the clock went backwards");
			last = now;
		}
		snprintf(text, sizeof(text), "cost=%lld\n", last - start);
	} else if (strncmp(url, "/sleep/", 7) == 0) {
		const long ms = atol(url + 7);
		const struct timespec time = {ms / 1000, ms % 1000 * 1000000};
		const long long start = reading(CLOCK_MONOTONIC);
		const int result = nanosleep(&time, NULL);
		snprintf(text, sizeof(text), "result=%d\nslept=%lld\n", result, reading(CLOCK_MONOTONIC) - start);
	} else {
		struct timeval day;
		struct timespec resolution = {0, 0};
		gettimeofday(&day, NULL);
		clock_getres(CLOCK_MONOTONIC, &resolution);
		snprintf(text, sizeof(text),
			"realtime=%lld\nrealtime_coarse=%lld\nmonotonic=%lld\nmonotonic_coarse=%lld\n"
			"monotonic_raw=%lld\nboottime=%lld\nprocess=%lld\ngettimeofday=%lld\ntime=%lld\n"
			"resolution=%ld\nunknown=%lld\n",
			reading(CLOCK_REALTIME), reading(CLOCK_REALTIME_COARSE), reading(CLOCK_MONOTONIC),
			reading(CLOCK_MONOTONIC_COARSE), reading(CLOCK_MONOTONIC_RAW), reading(CLOCK_BOOTTIME),
			reading(CLOCK_PROCESS_CPUTIME_ID),
			day.tv_sec * 1000000000LL + day.tv_usec * 1000LL, (long long)time(NULL),
			resolution.tv_nsec, reading(1000));
	}
	backend_response_str(200, "text/plain", text);
}

int main(void)
{
	set_backend_get(on_get);
	wait_for_requests();
}
