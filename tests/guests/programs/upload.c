/* Takes request bodies in parts, and answers with what it has got. The URL says what goes wrong once
 * WHEN bytes are there: /WHAT/WHEN, where WHAT is one of
 *
 *   short more none crash loop exit wait memory     instead of taking a part
 *   answer stream                                   answers before all is there
 *   http log scribble                               besides taking it
 *   skip                                            does not look at it
 *
 * Arguments: how the rest of the request comes: post (if missing), request, paused, get (no way for
 * requests with a body).
 */
#include "kvm_api.h"
#include <unistd.h>

static unsigned long segments, bytes, sum, largest, wrong;
static char seen[300];

static struct streaming_content next(void *arg, size_t max, size_t written, size_t total)
{
	(void)max;
	(void)total;
	const struct streaming_content part = { (const char *)arg + written, 1 };
	return part;
}

static long take(const char *url, const char *arg, const char *content_type, const uint8_t *data,
	size_t len, size_t offset)
{
	char what[20] = "";
	unsigned long when = 0;
	sscanf(url, "/%19[a-z]/%lu", what, &when);
	if (offset == 0)
		segments = bytes = sum = largest = wrong = 0;
	if (offset != bytes)
		wrong++;
	for (size_t i = 0; i < len && strncmp(url, "/skip", 5) != 0; i++)
		sum = sum * 31 + data[i];
	segments++;
	bytes += len;
	if (len > largest)
		largest = len;
	char now[sizeof(seen)];
	snprintf(now, sizeof(now), "%s %s %s", url, arg, content_type);
	if (segments == 1)
		memcpy(seen, now, sizeof(seen));
	else if (strcmp(seen, now) != 0)
		wrong++;

	if (what[0] == 0 || offset < when)
		return (long)len;
	if (strcmp(what, "short") == 0)
		return (long)len - 1;
	if (strcmp(what, "more") == 0)
		return (long)len + 1;
	if (strcmp(what, "none") == 0)
		return -1;
	if (strcmp(what, "crash") == 0)
		*(volatile unsigned long *)(segments - segments) = 1;
	if (strcmp(what, "loop") == 0)
		for (;;)
			__asm__ volatile("");
	if (strcmp(what, "exit") == 0)
		_exit(4);
	if (strcmp(what, "wait") == 0)
		wait_for_requests();
	if (strcmp(what, "memory") == 0)
		for (size_t n = 0; n < 1u << 30; n += 4096)
			((volatile char *)malloc(4096))[0] = 1;
	if (strcmp(what, "answer") == 0) {
		snprintf(seen, sizeof(seen), "enough after %lu", bytes);
		backend_response_str(413, "text/plain", seen);
	}
	if (strcmp(what, "stream") == 0)
		begin_streaming_response(403, "text/plain", 10, 3, next, (void *)"no!");
	if (strcmp(what, "http") == 0)
		http_append_str(BERESP, "X-Part: yes");
	if (strcmp(what, "log") == 0) {
		printf("%zu bytes at %zu\n", len, offset);
		fflush(stdout);
	}
	if (strcmp(what, "scribble") == 0) {
		memset((char *)url, 'x', strlen(url));
		memset((char *)arg, 'x', strlen(arg));
		memset((uint8_t *)data, 'x', len);
	}
	return (long)len;
}

static void answer(const char *url, const char *arg, const char *content_type, const void *data,
	size_t len)
{
	static char text[1000];
	static unsigned request;
	snprintf(text, sizeof(text),
		"%s %s %s data=%s len=%zu segments=%lu bytes=%lu largest=%lu wrong=%lu sum=%lu request=%u first=%s",
		url, arg, content_type, data == NULL ? "no" : "yes", len, segments, bytes, largest, wrong,
		sum, ++request, seen);
	backend_response_str(200, "text/plain", text);
}

static void on_post(const char *url, const char *arg, const char *content_type, const uint8_t *data,
	size_t len)
{
	answer(url, arg, content_type, data, len);
}

static void on_get(const char *url, const char *arg)
{
	answer(url, arg, "", NULL, 0);
}

static void on_request(const struct kvm_request *request)
{
	answer(request->url, request->arg, request->content_type, request->content,
		request->content_len);
}

static void on_error(const char *url, const char *arg, const char *reason)
{
	(void)url;
	(void)arg;
	backend_response_str(502, "text/plain", reason);
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "post";
	set_backend_stream_post(take);
	set_on_error(on_error);
	if (strcmp(how, "paused") == 0) {
		struct kvm_request request;
		for (;;) {
			wait_for_requests_paused(&request);
			on_request(&request);
		}
	}
	if (strcmp(how, "request") == 0)
		set_backend_request(on_request);
	else
		set_backend_get(on_get);
	if (strcmp(how, "post") == 0)
		set_backend_post(on_post);
	wait_for_requests();
}
