/* Fails as the URL says; on_error turns that into a 503 that carries the reason, unless it is to
 * fail too: /null /loop /memory /silent /status, and the same with "?twice" behind it. With "lifetime" in the
 * URL the response is for the cache before it fails, with "private" it is not; on_error says nothing
 * about that but with "own", and answers 200 with "ok". */
#include "kvm_api.h"

static char much[96 << 20];

static void fail(const char *url)
{
	if (strncmp(url, "/memory", 7) == 0)
		memset(much, 1, sizeof(much));
	if (strncmp(url, "/null", 5) == 0)
		*(volatile int *)(uintptr_t)8 = 1;
	if (strncmp(url, "/loop", 5) == 0)
		for (;;)
			__asm__ volatile("" ::: "memory");
	if (strncmp(url, "/status", 7) == 0)
		backend_response_str(99, "text/plain", "no such status");
}

static void on_get(const char *url, const char *arg)
{
	(void)arg;
	if (strstr(url, "lifetime") != NULL)
		set_cacheable(true, 3600, 1, 1);
	if (strstr(url, "private") != NULL)
		set_cacheable(false, 3600, 1, 1);
	fail(url);
	if (strncmp(url, "/silent", 7) != 0)
		backend_response_str(200, "text/plain", "fine");
}

static void on_error(const char *url, const char *arg, const char *reason)
{
	static char text[4096];
	if (strstr(url, "own") != NULL)
		set_cacheable(true, 10, 1, 1);
	if (strstr(url, "?twice") != NULL) {
		fail(url);
		return;
	}
	const int len = snprintf(text, sizeof(text), "url=%s\narg=%s\nreason=%s\n", url, arg, reason);
	backend_response(strstr(url, "ok") != NULL ? 200 : 503, "text/plain", 10, text, (size_t)len);
}

int main(void)
{
	set_backend_get(on_get);
	set_on_error(on_error);
	wait_for_requests();
}
