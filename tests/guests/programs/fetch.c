/* Fetches what the URL says and tells what came of it. The argument has options, separated by spaces
 * (_ in a value is a space):
 *
 *   post=N type=T field=F headers=N (0: the host's memory) buffer=N head nofollow noverify interface=I
 *   request (sys_request) times=N (one after the other) keep (without a clean operation between)
 *   stream store task                     while streaming, in a storage function, in a task of it
 *   bad=N                                 N-th way to misuse the call
 *
 * The answer is a line, then header fields if asked for, then up to 2000 bytes of the content. An
 * environment variable FETCH is a URL that main() fetches; the URL "-" tells the outcome.
 */
#include "kvm_api.h"

static char text[16384];
static char values[16][256];
static char at_start[256] = "nothing";
static char buffer[1 << 16];
static char header_buffer[4096];

static int tell(char *to, size_t size, long result, const struct curl_op *op)
{
	unsigned sum = 0;
	const unsigned char *content = op->content;
	if (result == 0)
		for (uint32_t i = 0; i < op->content_length; i++)
			sum = sum * 31 + content[i];
	return snprintf(to, size, "r=%ld status=%u len=%u type=%s ctlen=%u hlen=%u sum=%u content=%d\n",
		result, op->status, op->content_length, op->ctype, op->ctlen, op->headers_length, sum,
		op->content != NULL);
}

static const char *value(const char *option, const char *name, int slot)
{
	const size_t len = strlen(name);
	if (strncmp(option, name, len) != 0 || option[len] != '=')
		return NULL;
	snprintf(values[slot], sizeof(values[slot]), "%s", option + len + 1);
	for (char *at = values[slot]; *at != 0; at++)
		if (*at == '_')
			*at = ' ';
	return values[slot];
}

/* Where there is no transaction: a line about a fetch of `url`. */
static void fetch_plainly(const char *url, char *to, size_t size)
{
	struct curl_op op = {0};
	const long result = sys_fetch(url, strlen(url), &op, NULL, NULL);
	tell(to, size, result, &op);
}

static struct streaming_content next(void *arg, size_t max, size_t written, size_t total)
{
	static char told[1024];
	(void)max;
	(void)written;
	memset(told, ' ', sizeof(told));
	fetch_plainly(arg, told, sizeof(told));
	told[strlen(told)] = ' ';
	return (struct streaming_content){told, total};
}

static char in_storage[512] = "nothing yet";

static void store(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n;
	(void)size;
	fetch_plainly(buffers[0].data, in_storage, sizeof(in_storage));
	storage_return(in_storage, strlen(in_storage) + 1);
}

static void stored(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n;
	(void)buffers;
	(void)size;
	storage_return(in_storage, strlen(in_storage) + 1);
}

static void task(void *data, size_t len)
{
	(void)len;
	fetch_plainly(data, in_storage, sizeof(in_storage));
}

/* Misuse that leaves the program alive is told; the rest ends the request. */
static long misuse(int way, const char *url, size_t len, struct curl_op *op)
{
	static const struct curl_op frozen;
	struct curl_fields fields = {{"Split: a\r\nX: b"}, {15}};
	switch (way) {
	case 1:
		return sys_fetch(url, len, NULL, NULL, NULL);
	case 2:
		return sys_fetch((void *)-4096l, len, op, NULL, NULL);
	case 3:
		return sys_fetch(text, 1025, op, NULL, NULL);
	case 4:
		return sys_fetch(url, len, op, (void *)16, NULL);
	case 5:
		return sys_fetch(url, len, op, NULL, (void *)0x7ffffffffff0l);
	case 6:
		op->content = (void *)16;
		op->content_length = 1000;
		return sys_fetch(url, len, op, NULL, NULL);
	case 7:
		op->headers = (void *)-64l;
		op->headers_length = 64;
		return sys_fetch(url, len, op, NULL, NULL);
	case 8:
		op->post_buffer = (void *)0x1000;
		op->post_buflen = 0xffffffff;
		return sys_fetch(url, len, op, NULL, NULL);
	case 9:
		return sys_fetch(url, len, op, &fields, NULL);
	case 10:
		return sys_fetch(url, len, (struct curl_op *)&frozen, NULL, NULL);
	case 11:
		op->ctlen = 5;
		memcpy(op->ctype, "a\r\nb:", 5);
		return sys_fetch(url, len, op, NULL, NULL);
	case 12: /* the structure itself is the buffer */
		op->content = op;
		op->content_length = 20000;
		return sys_fetch(url, len, op, NULL, NULL);
	case 13:
		return sys_fetch(url, (size_t)-1, op, NULL, NULL);
	default:
		return sys_fetch("", 0, op, NULL, NULL);
	}
}

static void on_get(const char *url, const char *arg)
{
	static char options_text[1024];
	struct curl_op op = {0};
	struct curl_fields fields = {{0}, {0}};
	struct curl_options options = {.follow_location = 1};
	bool request = false, with_options = false, keep = false;
	int times = 1, slot = 0, bad = 0;
	size_t count = 0;

	if (strcmp(url, "-") == 0)
		backend_response_str(200, "text/plain", at_start);

	if (strcmp(arg, "stream") == 0) {
		begin_streaming_response(200, "text/plain", 10, 1000, next, strdup(url));
	} else if (strcmp(arg, "store") == 0 || strcmp(arg, "stored") == 0) {
		storage_call(arg[5] == 0 ? store : stored, url, strlen(url) + 1, text, sizeof(text));
		backend_response_str(200, "text/plain", text);
	} else if (strcmp(arg, "task") == 0) {
		sys_storage_task(task, url, strlen(url) + 1, 0, 0);
		backend_response_str(200, "text/plain", "");
	}
	snprintf(options_text, sizeof(options_text), "%s", arg);
	for (char *o = strtok(options_text, " "); o != NULL && slot < 15; o = strtok(NULL, " ")) {
		const char *v;
		if ((v = value(o, "post", slot)) != NULL) {
			const size_t len = strtoul(v, NULL, 10);
			char *data = malloc(len + 1);
			for (size_t i = 0; i < len; i++)
				data[i] = (char)('a' + i % 26);
			op.post_buffer = data;
			op.post_buflen = (uint32_t)len;
		} else if ((v = value(o, "type", slot)) != NULL) {
			op.ctlen = (uint32_t)strlen(v);
			memcpy(op.ctype, v, op.ctlen < sizeof(op.ctype) ? op.ctlen : sizeof(op.ctype));
		} else if ((v = value(o, "field", slot)) != NULL) {
			CURL_SETFIELD(fields, count, v);
			count++;
			slot++;
		} else if ((v = value(o, "headers", slot)) != NULL) {
			op.headers_length = (uint32_t)strtoul(v, NULL, 10);
			if (op.headers_length != 0)
				op.headers = header_buffer;
			else
				op.headers_length = 64;
		} else if ((v = value(o, "buffer", slot)) != NULL) {
			op.content = buffer;
			op.content_length = (uint32_t)strtoul(v, NULL, 10);
		} else if ((v = value(o, "interface", slot)) != NULL) {
			options.interface = v;
			with_options = true;
			slot++;
		} else if ((v = value(o, "times", slot)) != NULL) {
			times = atoi(v);
		} else if ((v = value(o, "bad", slot)) != NULL) {
			bad = atoi(v);
		} else if (strcmp(o, "head") == 0) {
			options.dummy_fetch = 1;
			with_options = true;
		} else if (strcmp(o, "nofollow") == 0) {
			options.follow_location = 0;
			with_options = true;
		} else if (strcmp(o, "noverify") == 0) {
			options.dont_verify_host = 1;
			with_options = true;
		} else if (strcmp(o, "request") == 0) {
			request = true;
		} else if (strcmp(o, "keep") == 0) {
			keep = true;
		}
	}

	const struct curl_op clean = op;
	long result = 0;
	for (int i = 0; i < times && result == 0; i++) {
		if (!keep)
			op = clean;
		result = bad != 0 ? misuse(bad, url, strlen(url), &op)
			: request ? sys_request(url, strlen(url), &op, &fields, &options)
			: sys_fetch(url, strlen(url), &op, count ? &fields : NULL,
				with_options ? &options : NULL);
	}
	int len = tell(text, 512, result, &op);
	if (result == 0 && op.headers_length >= 60) {
		memcpy(text + len, op.headers, op.headers_length);
		len += (int)op.headers_length;
	}
	if (result == 0 && bad == 0) {
		const size_t shown = op.content_length < 2000 ? op.content_length : 2000;
		memcpy(text + len, op.content, shown);
		len += (int)shown;
	}
	backend_response(200, "text/plain", 10, text, (size_t)len);
}

int main(void)
{
	const char *url = getenv("FETCH");
	if (url != NULL) {
		struct curl_op op = {0};
		const long result = sys_fetch(url, strlen(url), &op, NULL, NULL);
		tell(at_start, sizeof(at_start), result, &op);
	}
	set_backend_get(on_get);
	wait_for_requests();
}
