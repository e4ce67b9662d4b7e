/* Answers a request with its body (of any size, without copying it) and its Content-Type; one
 * without a body with "url argument". */
#include "kvm_api.h"

static void on_get(const char *url, const char *arg)
{
	static char text[16384];
	const int len = snprintf(text, sizeof(text), "%s %s", url, arg);
	backend_response(200, "text/plain", 10, text, (size_t)len < sizeof(text) ? (size_t)len : sizeof(text) - 1);
}

static void on_post(const char *url, const char *arg, const char *content_type, const uint8_t *data,
	size_t len)
{
	(void)url;
	(void)arg;
	backend_response(200, content_type, strlen(content_type), data, len);
}

int main(void)
{
	set_backend_get(on_get);
	set_backend_post(on_post);
	wait_for_requests();
}
