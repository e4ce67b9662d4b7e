/* Takes every request through set_backend_request and prints each part of it, one per line. */
#include "kvm_api.h"

static char text[1 << 20];

static void on_request(const struct kvm_request *request)
{
	size_t at = (size_t)snprintf(text, sizeof(text),
		"method=%s\nurl=%s\narg=%s\ncontent_type=%s\nlengths=%u %u %u %u\ncontent=%s %zu\n"
		"flags=%u\nreserved=%u %llu %llu\nheaders=%u\n",
		request->method, request->url, request->arg, request->content_type, request->method_len,
		request->url_len, request->arg_len, request->content_type_len,
		request->content != NULL ? "yes" : "no", request->content_len, request->info_flags,
		request->reserved0, (unsigned long long)request->reserved1[0],
		(unsigned long long)request->reserved1[1], request->num_headers);
	for (unsigned i = 0; i < request->num_headers; i++) {
		const struct kvm_request_header *header = &request->headers[i];
		/* The text must agree with both lengths and end in NUL. */
		const bool good = strlen(header->field) == header->field_len &&
			header->field_colon < header->field_len &&
			header->field[header->field_colon] == ':';
		at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%s\n", good ? "" : "BAD ", header->field);
		if (at >= sizeof(text))
			abort();
	}
	backend_response(200, "text/plain", 10, text, at);
}

int main(void)
{
	set_backend_request(on_request);
	wait_for_requests();
}
