/* Overwrites as many pages as the URL says (/1, /1000, up to /20000) with the number in the argument
 * and answers with a sum over what they held before: the same for every request, whatever requests
 * ran before, if reset works. /heap/N, /stack/N (up to 900) and /mmap/N do it elsewhere; mapped memory
 * must be zero (sum 0). Natively prints the sums of the static area. */
#include "kvm_api.h"
#include <sys/mman.h>

#define PAGE 4096
#define PAGES 20000
#define STACK_PAGES 900

/* The first pages have content in the image, the others are zero. */
#define FILLED 700
static uint64_t area[PAGES][PAGE / 8] __attribute__((aligned(PAGE)));
static char text[256];

static uint64_t dirty(uint64_t (*at)[PAGE / 8], size_t pages, uint64_t value)
{
	uint64_t sum = 0;
	for (size_t page = 0; page < pages; page++)
		for (size_t i = 0; i < PAGE / 8; i++) {
			sum = sum * 31 + at[page][i];
			at[page][i] = value + page + i;
		}
	return sum;
}

__attribute__((noinline)) static uint64_t dirty_stack(size_t pages, uint64_t value)
{
	uint64_t frame[STACK_PAGES][PAGE / 8];
	__asm__ volatile("" :: "r"(frame) : "memory");
	return dirty(frame + (STACK_PAGES - pages), pages, value);
}

static void on_get(const char *url, const char *arg)
{
	const uint64_t value = strtoull(arg, NULL, 10);
	const char *digits = strrchr(url, '/');
	size_t pages = digits != NULL ? strtoul(digits + 1, NULL, 10) : 0;
	if (pages > PAGES)
		pages = PAGES;
	uint64_t sum;
	if (strncmp(url, "/heap/", 6) == 0) {
		void *at = malloc(pages * PAGE);
		sum = at != NULL ? dirty(at, pages, value) : 1;
	} else if (strncmp(url, "/mmap/", 6) == 0) {
		void *at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		sum = at != MAP_FAILED ? dirty(at, pages, value) : 1;
	} else if (strncmp(url, "/stack/", 7) == 0) {
		sum = dirty_stack(pages < STACK_PAGES ? pages : STACK_PAGES, value);
	} else {
		sum = dirty(area, pages, value);
	}
	const int len = snprintf(text, sizeof(text), "pages=%zu before=%016llx\n", pages, (unsigned long long)sum);
	backend_response(200, "text/plain", 10, text, (size_t)len);
}

int main(void)
{
	for (size_t page = 0; page < FILLED; page++)
		for (size_t i = 0; i < PAGE / 8; i++)
			area[page][i] = page * 1000003 + i;
	if (IS_LINUX_MAIN()) {
		printf("%016llx\n", (unsigned long long)dirty(area, PAGES, 1));
		return 0;
	}
	set_backend_get(on_get);
	wait_for_requests();
}
