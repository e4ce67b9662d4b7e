/* The HTTP header calls. The URL says what to do; the body says what the calls returned. */
#include "kvm_api.h"

static char text[65536];
static size_t used;

__attribute__((format(printf, 1, 2)))
static void say(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	used += (size_t)vsnprintf(text + used, sizeof(text) - used, format, args);
	va_end(args);
}

static void say_field(int where, const char *name)
{
	char *field = http_alloc_find(where, name);
	say("%s\n", field != NULL ? field : "(none)");
	free(field);
}

/* A field of `len` bytes, all of it. */
static char *long_field(size_t len)
{
	char *field = malloc(len + 1);
	if (field == NULL)
		abort();
	memset(field, 'x', len);
	memcpy(field, "X-Long: ", 8);
	field[len] = 0;
	return field;
}

static void on_get(const char *url, const char *arg)
{
	if (strcmp(url, "/append") == 0) {
		say("%d\n", http_append_str(BERESP, "X-One: 1") > 0);
		say("%d\n", http_append_str(BERESP, "X-One: 2") > 0);
		say("%d\n", http_appendf(BERESP, "X-Text: %s-%d", "formatted", 7) > 0);
		say_field(BERESP, "x-one");
	} else if (strcmp(url, "/set") == 0) {
		say("%d\n", http_set_str(BERESP, "X-One: 1") > 0);
		say("%d\n", http_setf(BERESP, "x-one: %d", 2) > 0);
		say_field(BERESP, "X-ONE");
	} else if (strcmp(url, "/unset") == 0) {
		http_set_str(BERESP, "X-One: 1");
		http_set_str(BERESP, "X-Two: 2");
		say("%d\n", http_unset_str(BERESP, "X-One") > 0);
		say("%ld\n", http_unset(BERESP, "X-One", 5));
		say("%ld\n", http_set_str(BERESP, ""));
		say_field(BERESP, "X-One");
		say_field(BERESP, "X-Two");
	} else if (strcmp(url, "/find") == 0) {
		/* The argument names the field of the request. */
		char small[4], exact[4096];
		const long len = http_find_strlen(BEREQ, arg);
		say("%ld\n", len);
		say("%ld\n", http_find_str(BEREQ, arg, small, sizeof(small)));
		say("%ld\n", len > 0 ? sys_http_find(BEREQ, arg, strlen(arg), exact, (size_t)len) : 0);
		say("%.*s\n", (int)len, exact);
		say_field(BEREQ, arg);
	} else if (strcmp(url, "/method") == 0) {
		char *method = http_alloc_method();
		char small[2];
		say("%s\n", method);
		say("%ld\n", sys_http_method(NULL, 0));
		say("%ld\n", sys_http_method(small, sizeof(small)));
		free(method);
	} else if (strcmp(url, "/request") == 0) {
		http_set_str(BEREQ, "X-From-Guest: yes");
		say_field(BEREQ, "X-From-Guest");
	} else if (strcmp(url, "/frame") == 0) {
		/* Fields that say where the body ends; the argument says of which message. */
		const int where = atoi(arg);
		say("%ld ", http_set_str(where, "content-length: 1"));
		say("%ld ", http_append_str(where, "Transfer-Encoding: chunked"));
		say("%ld", http_set_str(where, "Content-Length"));
	} else if (strcmp(url, "/extra") == 0) {
		static const struct ResponseHeader headers[] = {
			{"X-Extra: one", 12},
			{"Server: guest", 13},
			{"X-Cut: and the restNOT THIS", 19},
		};
		static struct BackendResponseExtra extra;
		extra.headers = headers;
		extra.num_headers = 3;
		backend_response_extra(203, "text/html", 9, "extra", 5, &extra);
	} else if (strcmp(url, "/cached") == 0) {
		static struct BackendResponseExtra extra;
		extra.cached = true;
		extra.ttl = 100.5f;
		extra.grace = 20;
		extra.keep = 3;
		http_setf(BERESP, "X-Random: %u", rand());
		backend_response_extra(200, "text/plain", 10, "cached", 6, &extra);
	} else if (strcmp(url, "/cacheable") == 0) {
		say("%ld\n", set_cacheable(true, 7.5f, 2, 1));
	} else if (strcmp(url, "/uncacheable") == 0) {
		say("%ld\n", set_cacheable(false, 0, 0, 0));
	} else if (strcmp(url, "/many") == 0) {
		/* More than any header table holds. */
		long full = 0;
		for (int i = 0; i < 1000 && full != 0xffffffff; i++)
			full = http_appendf(BERESP, "X-Many-%d: y", i);
		say("%lx\n", full);
		http_unset_str(BERESP, "X-Many-0");
	} else if (strcmp(url, "/long") == 0) {
		char *field = long_field((size_t)atoi(arg));
		say("%d\n", http_set_str(BERESP, field) > 0);
		say("%ld\n", http_find_strlen(BERESP, "X-Long"));
		free(field);
	} else if (strcmp(url, "/bad") == 0) {
		/* The argument, with _ for space, ! for CR and $ for LF, as a field that must be refused. */
		char field[256];
		snprintf(field, sizeof(field), "%s", arg);
		for (char *at = field; *at != 0; at++)
			*at = *at == '_' ? ' ' : *at == '!' ? '\r' : *at == '$' ? '\n' : *at;
		say("%ld\n", http_append_str(BERESP, field));
	} else if (strcmp(url, "/where") == 0) {
		say("%ld\n", http_find_strlen(atoi(arg), "Host"));
	} else if (strcmp(url, "/log") == 0) {
		vlogf("a line of the guest: %s", arg);
		say("logged\n");
	} else {
		backend_response_str(404, "text/plain", "unknown test");
	}
	backend_response(200, "text/plain", 10, text, used);
}

int main(void)
{
	set_backend_get(on_get);
	wait_for_requests();
}
