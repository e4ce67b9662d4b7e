/* Areas of address space that the configuration made: main() writes to 0x10000000000 and executes there
 * if its argument says so, and tries to map 0x20000000000. Each request says what it finds and changes it. */
#include "kvm_api.h"
#include <errno.h>
#include <sys/mman.h>

static unsigned char *const area = (unsigned char *)0x10000000000;
static unsigned char *const nothing = (unsigned char *)0x20000000000;
static char text[256];
static int mapped_over, executed, refused;

static void on_get(const char *url, const char *arg)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	(void)arg;
	size_t len = (size_t)sprintf(text, "%d %d %d %d %d", area[0], area[(1 << 20) - 1], mapped_over, executed,
		refused);
	area[0] = 99;
	area[(1 << 20) - 1] = 99;
	if (strcmp(url, "/map") == 0) {
		unsigned char *at = mmap(area, 8192, PROT_READ | PROT_WRITE, flags | MAP_FIXED, -1, 0);
		len += (size_t)sprintf(text + len, " %d %d", at == area, at[0]);
	}
	backend_response(200, "text/plain", 10, text, len);
}

int main(int argc, char **argv)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS;

	area[0] = 1;
	/* What is mapped over the area is zero. */
	unsigned char *at = mmap(area + 4096, 4096, PROT_READ | PROT_WRITE, flags, -1, 0);
	mapped_over = at == area + 4096 && at[0] == 0;
	area[(1 << 20) - 1] = 2;
	if (argc > 1 && strcmp(argv[1], "execute") == 0) {
		static const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};
		memcpy(area + 65536, code, sizeof(code));
		int (*function)(void);
		unsigned char *from = area + 65536;
		memcpy(&function, &from, sizeof(function));
		executed = function();
		if (mprotect(area + 65536, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) != 0)
			executed = -errno;
	}
	at = mmap(nothing, 4096, PROT_READ, flags | MAP_FIXED, -1, 0);
	refused = at == MAP_FAILED ? errno : 0;
	if (mmap(nothing, 4096, PROT_READ, flags, -1, 0) == nothing)
		refused = -1;
	set_backend_get(on_get);
	wait_for_requests();
}
