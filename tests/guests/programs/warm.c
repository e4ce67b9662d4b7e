/* Counts the requests that it was warmed up with, and says so with the URL. Request VMs start from there. */
#include "kvm_api.h"

static unsigned warmed;
static char text[256];

static void on_request(const struct kvm_request *request)
{
	if (request->info_flags & 1)
		warmed++;
	int len = snprintf(text, sizeof(text), "%u %s\n", warmed, request->url);
	backend_response(200, "text/plain", 10, text, (size_t)len);
}

int main(void)
{
	set_backend_request(on_request);
	wait_for_requests();
}
