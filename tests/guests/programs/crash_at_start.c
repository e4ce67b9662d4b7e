/* A program that never gets to waiting for requests. */
#include "kvm_api.h"

int main(void)
{
	volatile int *nowhere = (volatile int *)8;
	*nowhere = 1;
	wait_for_requests();
}
