/* Runs work() once: natively, printing its result and how long it took; as a guest, for each request
 * with the same two lines as the answer. The two runs of one file can so be compared. */
#include "kvm_api.h"
#include <time.h>

static uint64_t work(void);

static int measured(char *text, size_t size)
{
	struct timespec start, end;
	clock_gettime(CLOCK_MONOTONIC, &start);
	const uint64_t result = work();
	clock_gettime(CLOCK_MONOTONIC, &end);
	return snprintf(text, size, "result=%016llx\nns=%lld\n", (unsigned long long)result,
		(end.tv_sec - start.tv_sec) * 1000000000LL + (end.tv_nsec - start.tv_nsec));
}

static void on_get(const char *url, const char *arg)
{
	static char text[128];
	(void)url;
	(void)arg;
	backend_response(200, "text/plain", 10, text, (size_t)measured(text, sizeof(text)));
}

int main(void)
{
	if (IS_LINUX_MAIN()) {
		char text[128];
		measured(text, sizeof(text));
		fputs(text, stdout);
		return 0;
	}
	set_backend_get(on_get);
	wait_for_requests();
}
