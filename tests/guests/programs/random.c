/* Every source of randomness that a program has, one per line. No two requests may see the same,
 * except for "rand", which is state of the program and the same in every request. */
#include "kvm_api.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <unistd.h>

static char text[4096];
static size_t used;

static void say(const char *name, const void *bytes, size_t len)
{
	used += (size_t)snprintf(text + used, sizeof(text) - used, "%s=", name);
	for (size_t i = 0; i < len; i++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%02x", ((const unsigned char *)bytes)[i]);
	used += (size_t)snprintf(text + used, sizeof(text) - used, "\n");
}

static void on_request(const struct kvm_request *request)
{
	unsigned char bytes[16] = {0};
	used = 0;
	say("getrandom", bytes, getrandom(bytes, sizeof(bytes), 0) == sizeof(bytes) ? sizeof(bytes) : 0);
	say("getentropy", bytes, getentropy(bytes, sizeof(bytes)) == 0 ? sizeof(bytes) : 0);
	say("at_random", (const void *)getauxval(AT_RANDOM), 16);
	say("prng", request->prng, sizeof(request->prng));
	const int fd = open("/dev/urandom", O_RDONLY);
	if (fd >= 0) {
		say("urandom", bytes, read(fd, bytes, sizeof(bytes)) == sizeof(bytes) ? sizeof(bytes) : 0);
		close(fd);
	}
	const int number = rand();
	say("rand", &number, sizeof(number));
	backend_response(200, "text/plain", 10, text, used);
}

int main(void)
{
	set_backend_request(on_request);
	wait_for_requests();
}
