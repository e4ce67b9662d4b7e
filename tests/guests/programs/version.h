/* A program that answers which of its builds it is.
 *
 * `VERSION` is defined by what includes this.
 */
#include "kvm_api.h"

static void on_request(const struct kvm_request *request)
{
	(void)request;
	backend_response_str(200, "text/plain", VERSION);
}

int main(void)
{
	set_backend_request(on_request);
	wait_for_requests();
}
