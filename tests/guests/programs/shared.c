/* Memory that all VMs of the program share. main() writes a word into it. The URLs: /count counts there and
 * in memory of its own, /fail the same and then fails, /steal tries to map, unmap, protect and discard it,
 * /body answers with a body that lies in it, /exhaust says what the allocator gives at the end. */
#define _GNU_SOURCE
#include "kvm_api.h"
#include <errno.h>
#include <sys/mman.h>

struct common {
	char word[16];
	unsigned count;
};

static struct common *common;
static char *body;
static unsigned own;
static char text[512];

static void on_get(const char *url, const char *arg)
{
	const struct shared_memory_info area = shared_memory_area();
	size_t len = 0;

	(void)arg;
	if (common == NULL) {
		len = (size_t)sprintf(text, "none %d", area.ptr == area.end);
	} else if (strcmp(url, "/steal") == 0) {
		char *at = (char *)area.ptr;
		const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
		len += (size_t)sprintf(text + len, "%d ", munmap(at, 4096) == -1 ? errno : 0);
		len += (size_t)sprintf(text + len, "%d ", mprotect(at, 4096, PROT_NONE) == -1 ? errno : 0);
		len += (size_t)sprintf(text + len, "%d ", madvise(at, 4096, MADV_DONTNEED) == -1 ? errno : 0);
		len += (size_t)sprintf(text + len, "%d ",
			mmap(at, 4096, PROT_READ, flags | MAP_FIXED, -1, 0) == MAP_FAILED ? errno : 0);
		len += (size_t)sprintf(text + len, "%d ",
			mremap(at, 4096, 8192, MREMAP_MAYMOVE) == MAP_FAILED ? errno : 0);
		len += (size_t)sprintf(text + len, "%s", common->word);
	} else if (strcmp(url, "/body") == 0) {
		backend_response(200, "text/plain", 10, body, 1 << 20);
	} else {
		const unsigned count = __atomic_add_fetch(&common->count, 1, __ATOMIC_SEQ_CST);
		memset(body, 'a' + (int)(count % 26), 1 << 20);
		own++;
		if (strcmp(url, "/fail") == 0)
			__builtin_trap();
		len = (size_t)sprintf(text, "%s %u %u %zu %d", common->word, count, own,
			(size_t)((char *)area.end - (char *)area.ptr), SHM_ALLOC_BYTES(8 << 20) == NULL);
	}
	backend_response(200, "text/plain", 10, text, len);
}

int main(void)
{
	common = SHM_ALLOC_TYPE(struct common);
	body = SHM_ALLOC_BYTES(1 << 20);
	if (common != NULL)
		strcpy(common->word, "from main");
	set_backend_get(on_get);
	wait_for_requests();
}
