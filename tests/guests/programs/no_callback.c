// Waits for requests that it has no callback for.
#include "kvm_api.h"

int main(void)
{
	wait_for_requests();
}
