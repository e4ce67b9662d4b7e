/* Counts requests in memory, in a mapping and in a pipe, and says so: the counts go
 * on where VMs are not reset. Arguments of main(): "paused" waits in a loop instead of with callbacks, "posts" has one for bodies besides,
 * "keep" and "reset" ask for it by sys_make_ephemeral. The URL /fail ends in an exception behind the
 * counting, /lost (paused) never waits again, /hold maps 5 MiB more. Bodies are only measured. */
#include "kvm_api.h"
#include <sys/mman.h>
#include <unistd.h>

static unsigned count, tail;
static unsigned *mapped;
static int pipes[2];
static long decided = 1;
static char text[512];

static size_t tell(const struct kvm_request *request)
{
	struct meminfo memory;
	char bytes[256] = {0};

	if (mapped == NULL)
		mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pipes[1] == 0 && pipe(pipes) != 0)
		abort();
	count++;
	++*mapped;
	if (write(pipes[1], bytes, 1) != 1)
		abort();
	const long piped = read(pipes[0], bytes, sizeof(bytes));
	if (write(pipes[1], bytes, (size_t)piped) != piped)
		abort();
	const int regex = sys_regex_compile("^/[a-z]+$", 9);
	get_meminfo(&memory);
	if (strcmp(request->url, "/hold") == 0
		&& mmap(NULL, 5 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
		abort();
	if (strcmp(request->url, "/fail") == 0)
		__builtin_trap();
	return (size_t)sprintf(text, "count=%u mapped=%u piped=%ld tail=%u match=%d body=%zu used=%d decided=%ld",
		count, *mapped, piped, tail, sys_regex_match(regex, request->url, request->url_len) > 0,
		(size_t)request->content_len, memory.reqmem_current > 0, decided);
}

/* Has the same answer once more for whom it should not reach. */
static void on_post(const char *url, const char *arg, const char *content_type, const uint8_t *data, size_t len)
{
	const struct kvm_request request = { .url = url, .url_len = (uint16_t)strlen(url), .content_len = len };
	(void)arg;
	(void)content_type;
	(void)data;
	const size_t told = tell(&request);
	sys_backend_response(200, "text/plain", 10, text, told, NULL);
	sys_backend_response(200, "text/plain", 10, "another's", 9, NULL);
}

static void on_request(const struct kvm_request *request)
{
	backend_response(200, "text/plain", 10, text, tell(request));
}

int main(int argc, char **argv)
{
	struct kvm_request places[2];
	int paused = 0;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "paused") == 0)
			paused = 1;
		if (strcmp(argv[i], "posts") == 0)
			set_backend_post(on_post);
		if (strcmp(argv[i], "keep") == 0)
			decided = sys_make_ephemeral(false);
		if (strcmp(argv[i], "reset") == 0)
			decided = sys_make_ephemeral(true);
	}
	if (!paused) {
		set_backend_request(on_request);
		wait_for_requests();
	}
	for (;;) {
		struct kvm_request *request = &places[tail % 2];
		wait_for_requests_paused(request);
		if (strcmp(request->url, "/skip") == 0)
			continue;
		size_t len = tell(request);
		int lost = strcmp(request->url, "/lost") == 0;
		backend_response(200, "text/plain", 10, text, len);
		tail++;
		while (lost)
			__asm__ volatile("pause");
	}
}
