/* Waits in a loop, without callbacks, and answers with what it was given: the request line and
 * argument, the header fields, an empty line, the body. The number of requests since the program
 * was frozen is in the last header line (always 1 where VMs are reset). */
#include "kvm_api.h"

static char *put(char *to, const void *text, size_t len)
{
	memcpy(to, text, len);
	return to + len;
}

int main(void)
{
	static unsigned served;
	struct kvm_request request;

	for (;;) {
		wait_for_requests_paused(&request);
		size_t size = 256 + request.method_len + request.url_len + request.arg_len +
			request.content_type_len + request.content_len;
		for (unsigned i = 0; i < request.num_headers; i++)
			size += request.headers[i].field_len + 1;
		char *text = malloc(size);
		if (text == NULL)
			abort();
		char *at = text;
		at = put(at, request.method, request.method_len);
		at = put(at, " ", 1);
		at = put(at, request.url, request.url_len);
		at = put(at, " ", 1);
		at = put(at, request.arg, request.arg_len);
		at = put(at, "\n", 1);
		for (unsigned i = 0; i < request.num_headers; i++) {
			at = put(at, request.headers[i].field, request.headers[i].field_len);
			at = put(at, "\n", 1);
		}
		at += sprintf(at, "content_type=%s\nserved=%u\n\n", request.content_type, ++served);
		at = put(at, request.content, request.content_len);
		backend_response(200, "text/plain", 10, text, (size_t)(at - text));
		free(text);
	}
}
