/* A first program: answers GET with a greeting, POST with what was posted.
 *
 *     gcc -static -O2 -I guest/c/include examples/hello/hello.c -o hello
 */
#include "kvm_api.h"

/* Set once, in main(). Every request starts from here: what a request adds is gone afterwards. */
static int served;

static void on_get(const char *url, const char *arg)
{
	static char text[4096];
	char *agent = http_alloc_find(BEREQ, "User-Agent");

	served++;
	const int len = snprintf(text, sizeof(text),
		"Hello World from a virtual machine of your own.\n"
		"You asked for %.1000s\n"
		"The argument from VCL is \"%.1000s\"\n"
		"%.1000s\n"
		"This is request number %d of this machine, as always.\n",
		url, arg, agent != NULL ? agent : "No User-Agent", served);

	http_set_str(BERESP, "X-Guest: hello");
	backend_response(200, "text/plain", strlen("text/plain"), text, (size_t)len);
}

static void on_post(const char *url, const char *arg, const char *content_type, const uint8_t *data,
	size_t len)
{
	(void)url;
	(void)arg;
	vlogf("%zu bytes of %s", len, content_type);
	backend_response(200, content_type, strlen(content_type), data, len);
}

static void on_error(const char *url, const char *arg, const char *reason)
{
	(void)url;
	(void)arg;
	backend_response_str(500, "text/plain", reason);
}

int main(void)
{
	if (IS_LINUX_MAIN()) {
		puts("This program answers HTTP requests in Varnish, with the TinyKVM VMOD.");
		return 1;
	}
	set_backend_get(on_get);
	set_backend_post(on_post);
	set_on_error(on_error);
	wait_for_requests();
}
