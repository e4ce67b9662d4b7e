/* Streamed responses. The URL says what body and what goes wrong with it:
 *
 *   /SIZE[/PART[/WHAT[/WHEN]]]
 *
 * A body of SIZE bytes in parts of at most PART bytes (0: as much as there is room for). Byte n is
 * 'a' + n % 26. Once WHEN bytes are there (0 if missing), WHAT happens instead of a part:
 *
 *   empty null wild kernel loop crash exit answer again wait http memory missing
 *
 * or besides: "log" logs a line for each part, "more" returns more than was asked for.
 * Instead: /call/LENGTH/FUNCTION (hexadecimal) as it is; /plain/SIZE answers with a body in one piece.
 * With the argument "paused" the program waits for its requests in a loop.
 */
#include "kvm_api.h"
#include <unistd.h>

#define PERIOD 26
#define PATTERN (PERIOD * 50000)

static char pattern[PATTERN + PERIOD];

struct job {
	size_t part, when, calls;
	const char *what;
};

static bool is(const struct job *job, const char *what)
{
	return strcmp(job->what, what) == 0;
}

static struct streaming_content next(void *arg, size_t max, size_t written, size_t total)
{
	struct job *job = arg;
	struct streaming_content part = { pattern + written % PERIOD, max };
	job->calls++;
	if (job->part != 0 && job->part < part.len)
		part.len = job->part;
	if (part.len > PATTERN)
		part.len = PATTERN;

	if (is(job, "log")) {
		char line[100];
		const int len = snprintf(line, sizeof(line), "part %zu: %zu of %zu", job->calls, written, total);
		sys_log(line, (uint16_t)len);
		printf("printed\n");
		fflush(stdout);
	} else if (is(job, "more")) {
		part.len = ~(size_t)0;
	} else if (job->what[0] != 0 && written >= job->when) {
		if (is(job, "empty"))
			part.len = 0;
		else if (is(job, "null"))
			part.data = NULL;
		else if (is(job, "wild"))
			part.data = (void *)0x7fffffff0000;
		else if (is(job, "kernel"))
			part.data = (void *)0x10000;
		else if (is(job, "loop"))
			for (;;)
				__asm__ volatile("");
		else if (is(job, "crash"))
			*(volatile int *)job->calls = 1; /* an address of the first page */
		else if (is(job, "exit"))
			_exit(3);
		else if (is(job, "answer"))
			backend_response_str(200, "text/plain", "again");
		else if (is(job, "again"))
			begin_streaming_response(200, "a/b", 3, 10, next, arg);
		else if (is(job, "wait"))
			wait_for_requests();
		else if (is(job, "http"))
			http_append_str(BERESP, "X-Late: yes");
		else if (is(job, "memory"))
			for (size_t n = 0; n < 1u << 30; n += 4096)
				((volatile char *)malloc(4096))[0] = 1;
		else if (is(job, "missing")) {
			/* A call that this host does not offer: a program has another way. */
			if (multiprocess_wait() >= 0)
				part.len = 0;
		}
	}
	return part;
}

static void serve(const char *url)
{
	char copy[200];
	char *at = copy;
	struct job job = { 0, 0, 0, "" };
	snprintf(copy, sizeof(copy), "%s", url);
	if (strncmp(at, "/call/", 6) == 0) {
		const size_t len = strtoull(at + 6, &at, 16);
		const uintptr_t function = *at == '/' ? (uintptr_t)strtoull(at + 1, NULL, 16) : 0;
		begin_streaming_response(200, "text/plain", 10, len,
			(struct streaming_content(*)(void *, size_t, size_t, size_t))function, NULL);
	}
	if (strncmp(at, "/plain/", 7) == 0) {
		const size_t len = strtoul(at + 7, NULL, 10);
		backend_response(200, "text/plain", 10, pattern, len < PATTERN ? len : PATTERN);
	}
	const size_t size = *at == '/' ? strtoul(at + 1, &at, 10) : 0;
	if (*at == '/')
		job.part = strtoul(at + 1, &at, 10);
	if (*at == '/') {
		job.what = ++at;
		at += strcspn(at, "/");
		if (*at == '/') {
			*at++ = 0;
			job.when = strtoul(at, NULL, 10);
		}
	}
	/* The job is on the stack of this call, which goes on to be used. */
	begin_streaming_response(200, "text/stream", 11, size, next, &job);
}

static void on_get(const char *url, const char *arg)
{
	(void)arg;
	serve(url);
}

int main(int argc, char **argv)
{
	for (size_t n = 0; n < sizeof(pattern); n++)
		pattern[n] = (char)('a' + n % PERIOD);
	if (argc > 1 && strcmp(argv[1], "paused") == 0) {
		struct kvm_request request;
		for (;;) {
			wait_for_requests_paused(&request);
			serve(request.url);
		}
	}
	set_backend_get(on_get);
	wait_for_requests();
}
