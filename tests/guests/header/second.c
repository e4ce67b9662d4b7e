/* The other one: it uses the calls of the first. */
#ifndef BOTH_BRING_THE_CALLS
#define KVM_API_ALREADY_DEFINED
#endif
#include "kvm_api.h"

void *allocate_in_second(void);
void log_in_second(const char *text);

void *allocate_in_second(void)
{
	return SHM_ALLOC_BYTES(1);
}

void log_in_second(const char *text)
{
	vlogf("%s", text);
}
