/* A program that ends instead of waiting for requests. */
#include "kvm_api.h"

int main(void)
{
	return 0;
}
