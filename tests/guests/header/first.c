/* One of two source files of a program: this one brings the calls. */
#include "kvm_api.h"

void *allocate_in_second(void);
void log_in_second(const char *text);

int main(void)
{
	log_in_second("two files");
	wait_for_requests();
	return internal_shm_alloc(1, 1) == allocate_in_second();
}
