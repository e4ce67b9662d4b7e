/* Which callback slot each set_ function uses. Brings a register_func of its own that prints it, and
 * runs on Linux. */
#define KVM_API_ALREADY_DEFINED
#include "kvm_api.h"
#include "tinykvm_abi.h"

static int last = -1;

void register_func(int slot, ...)
{
	last = slot;
}

static int wrong(const char *name, int slot)
{
	if (last != slot)
		printf("%s: slot %d, not %d\n", name, last, slot);
	return last != slot;
}

int main(void)
{
	int bad = 0;
	set_backend_get(NULL);
	bad += wrong("set_backend_get", TINYKVM_ON_GET);
	set_backend_post(NULL);
	bad += wrong("set_backend_post", TINYKVM_ON_POST);
	set_backend_request(NULL);
	bad += wrong("set_backend_request", TINYKVM_ON_REQUEST);
	set_backend_stream_post(NULL);
	bad += wrong("set_backend_stream_post", TINYKVM_ON_STREAM_POST);
	set_on_error(NULL);
	bad += wrong("set_on_error", TINYKVM_ON_ERROR);
	set_on_live_update(NULL);
	bad += wrong("set_on_live_update", TINYKVM_ON_LIVE_UPDATE);
	set_on_live_restore(NULL);
	bad += wrong("set_on_live_restore", TINYKVM_ON_LIVE_RESTORE);
	set_socket_prepare_for_pause(NULL);
	bad += wrong("set_socket_prepare_for_pause", TINYKVM_ON_SOCKET_PAUSE);
	return bad;
}
