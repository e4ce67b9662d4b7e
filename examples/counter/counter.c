/* Counts visits by page, across requests, restarts of Varnish and new builds of itself.
 *
 *   gcc -static -O2 -I guest/c/include -o counter examples/counter/counter.c
 *   vcl/storage.vcl
 *
 * main() runs twice: once in the VM that all requests are copies of, once in the storage VM, which is
 * never reset. What a request wants to keep it gives to a function there.
 */
#include "kvm_api.h"
#include <string.h>

#define PAGES 1024

struct page {
	char url[120];
	long visits;
};

/* ---- In the storage VM: one call at a time, so that no lock is needed. ------------------------ */

static struct page pages[PAGES];

static struct page *find(const char *url, size_t len)
{
	if (len >= sizeof(pages->url))
		len = sizeof(pages->url) - 1;
	for (size_t i = 0; i < PAGES; i++) {
		struct page *page = &pages[i];
		if (page->url[0] == '\0') {
			memcpy(page->url, url, len);
			return page;
		}
		if (strlen(page->url) == len && memcmp(page->url, url, len) == 0)
			return page;
	}
	return NULL; /* full */
}

static void visit(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)size;
	struct page *page = find(buffers[0].data, buffers[0].len);
	const long visits = page != NULL ? ++page->visits : 0;
	storage_return(&visits, sizeof(visits));
}

/* The state file is `<filename>.state` outside. */
static void write_state(void *data, size_t len)
{
	(void)data, (void)len;
	FILE *file = fopen("state", "w");
	if (file == NULL)
		return;
	fwrite(pages, sizeof(pages), 1, file);
	fclose(file);
}

static void read_state(void)
{
	FILE *file = fopen("state", "r");
	if (file == NULL)
		return;
	if (fread(pages, sizeof(pages), 1, file) != 1)
		memset(pages, 0, sizeof(pages));
	fclose(file);
}

/* A live update, or an invalidation: the old program's pages become the new one's. */
static void on_live_update(void)
{
	storage_return(pages, sizeof(pages));
}

static void on_live_restore(size_t len)
{
	storage_return(pages, len < sizeof(pages) ? len : sizeof(pages));
}

/* ---- In request VMs ---------------------------------------------------------------------------- */

static void on_get(const char *url, const char *arg)
{
	(void)arg;
	long visits = 0;
	if (storage_call(visit, url, strlen(url), &visits, sizeof(visits)) < 0)
		backend_response_str(503, "text/plain", "The counter is out of order.\n");

	char text[256];
	const int len = snprintf(text, sizeof(text), "Visit %ld of %.120s\n", visits, url);
	backend_response(200, "text/plain", 10, text, len);
}

int main(void)
{
	if (IS_STORAGE()) {
		STORAGE_ALLOW(visit);
		read_state();
		schedule_storage_task(write_state, NULL, 0, 1.0f, 1.0f); /* every second */
		set_on_live_update(on_live_update);
		set_on_live_restore(on_live_restore);
	}
	set_backend_get(on_get);
	wait_for_requests();
}
