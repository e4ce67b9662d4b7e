/* A program whose start ends by max_boot_time. */
#include "kvm_api.h"

int main(void)
{
	for (volatile unsigned long i = 0;; i++)
		;
}
