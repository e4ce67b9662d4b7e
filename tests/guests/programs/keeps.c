/* For VMs that are called without a reset between: callback 6 counts in memory, in a mapping and in
 * a file, says so in the middle, goes on, and says it again. Callback 7 prints. */
#include "kvm_api.h"
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static long count;
static long *mapped;
static long destroyed;
static char line[256];

static void keep(void)
{
	if (mapped == NULL)
		mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	count++;
	++*mapped;
	int fd = open("/state", O_WRONLY | O_CREAT | O_APPEND, 0600);
	long written = fd < 0 ? -1 : write(fd, "x", 1);
	if (fd >= 0)
		close(fd);
	snprintf(line, sizeof(line), "%ld %ld %ld %ld", count, *mapped, written, destroyed);
	storage_return(line, strlen(line));
	destroyed++;
}

static void print(size_t len)
{
	(void)len;
	static char much[64 << 10];
	memset(much, 'x', sizeof(much));
	for (int i = 0; i < 20; i++)
		(void)!write(1, much, sizeof(much));
	storage_noreturn(NULL, 0);
}

int main(void)
{
	set_on_live_update(keep);
	set_on_live_restore(print);
	wait_for_requests();
}
