/* Uses every name that programs written for upstream's header use, as C and as C++. Compiled and
 * linked by tests/header.rs, never run. */
#include "kvm_api.h"


EMBED_BINARY(this_source, "header/every_name.c")

static struct kvm_request request;
static struct kvm_socket_event events[2];
static char out[HTTP_FMT_SIZE];

static void get(const char *url, const char *arg)
{
	(void)arg;
	((char *)(uintptr_t)url)[0] = '/';
	backend_response(200, "text/plain", strlen("text/plain"), this_source, this_source_size);
}

static void post(const char *url, const char *arg, const char *content_type, const uint8_t *data,
	const size_t len)
{
	struct BackendResponseExtra extra;
	struct ResponseHeader headers[1];
	(void)url;
	(void)arg;
	memset(&extra, 0, sizeof(extra));
	headers[0].field = "X-Program: yes";
	headers[0].field_len = strlen(headers[0].field);
	extra.headers = headers;
	extra.num_headers = 1;
	extra.cached = true;
	extra.ttl = 1.0f;
	extra.grace = 2.0f;
	extra.keep = 3.0f;
	extra.reserved[0] = 0;
	backend_response_extra(201, content_type, strlen(content_type), data, len, &extra);
	sys_backend_response(201, content_type, strlen(content_type), data, len, &extra);
}

static long stream_post(const char *url, const char *arg, const char *content_type, const uint8_t *data,
	size_t len, size_t offset)
{
	(void)url, (void)arg, (void)content_type, (void)data, (void)offset;
	return (long)len;
}

static struct streaming_content next_piece(void *arg, size_t max, size_t written, size_t total)
{
	struct streaming_content content;
	(void)arg, (void)written, (void)total;
	content.data = out;
	content.len = max;
	return content;
}

static void headers(const struct kvm_request *req)
{
	const int wheres[] = {REQ, RESP, REQUEST, RESPONSE, BEREQ, BERESP};
	size_t len = 0;
	if (IS_WARMUP_REQUEST(req))
		vlogf("warming up %p", (const void *)req);
	for (size_t i = 0; i < sizeof(wheres) / sizeof(wheres[0]); i++) {
		const int where = wheres[i];
		http_append_str(where, "X-A: b");
		http_appendf(where, "X-A: %d", 1);
		http_set_str(where, "X-A: c");
		http_setf(where, "X-A: %s", "d");
		http_unset_str(where, "X-A");
		http_unset(where, "X-A", 3);
		len += (size_t)http_find_str(where, "Host", out, sizeof(out));
		len += (size_t)http_find_strlen(where, "Host");
		const char *found = http_alloc_find(where, "Host");
		free((void *)(uintptr_t)found);
		found = http_alloc_find(where, "Host", &len);
		free((void *)(uintptr_t)found);
		sys_http_append(where, "X-A: b", 6);
		sys_http_set(where, "X-A: b", 6);
		sys_http_find(where, "Host", 4, out, sizeof(out));
	}
	const char *method = http_alloc_method();
	free((void *)(uintptr_t)method);
	sys_http_method(out, sizeof(out));
	sys_set_cacheable(true, 1000, 2000, 3000);
	set_cacheable(false, 0.5f, 1, 2);
	for (unsigned i = 0; i < req->num_headers; i++)
		sys_log(req->headers[i].field + req->headers[i].field_colon, req->headers[i].field_len);
	sys_log(req->content, req->content_len);
	sys_log(req->method, req->method_len + req->url_len + req->arg_len + req->content_type_len);
	sys_log(req->content_type, (size_t)(req->prng[0] ^ req->prng[1]));
	begin_streaming_response(200, req->url, req->url_len, 100, next_piece, out);
}

static void on_error(const char *url, const char *arg, const char *exception)
{
	const int re = sys_regex_compile("^X-(.*)$", 8);
	(void)url;
	if (sys_regex_match(re, arg, strlen(arg)) > 0)
		sys_regex_subst(re, arg, "\\1", out, sizeof(out), 1);
	sys_regex_copyto(re, BEREQ, BERESP);
	sys_regex_free(re);
	backend_response_str(500, "text/plain", exception);
}

static void stored(size_t n, struct virtbuffer buffers[], size_t res)
{
	if (n == 1 && buffers[0].len <= res)
		storage_return(buffers[0].data, buffers[0].len);
	else if (n == 2)
		storage_noreturn(NULL, 0);
	storage_return_nothing();
}

static void task(void *data, size_t len)
{
	sys_log(data, len);
}

static void live_update(void)
{
	storage_return(out, sizeof(out));
}

static void live_restore(size_t len)
{
	storage_return(out, len);
}

static void use_storage(void)
{
	const storage_func function = stored;
	const storage_task_func task_function = task;
	struct virtbuffer buffers[2];
	buffers[0].data = out;
	buffers[0].len = sizeof(out);
	buffers[1] = buffers[0];
	if (sys_is_storage()) {
		STORAGE_ALLOW(stored);
		sys_storage_allow(function);
	}
	storage_callv(function, 2, buffers, out, sizeof(out));
	storage_call(stored, "text", 4, out, sizeof(out));
	sys_storage_task(task_function, "text", 4, 0, 0);
	storage_task(task, "text", 4);
	stop_storage_task(schedule_storage_task(task, "text", 4, 1.0, 0.5));
}

static void process(void *data)
{
	(void)data;
	vlogf("%d %d", vcpuid(), vcpureqid());
}

static void process_array(int cpu, void *array, size_t size)
{
	((char *)array)[(size_t)cpu * size] = 1;
}

static void use_processors(void)
{
	const multiprocess_t function = process;
	const multiprocess_array_t array_function = process_array;
	static char stacks[2][65536];
	multiprocess(2, function, out);
	multiprocess_wait();
	multiprocess_array(2, array_function, out, 8);
	multiprocess_wait();
	multiprocess_clone(2, stacks, sizeof(stacks[0]));
}

static void use_memory(void)
{
	struct thing {
		double a, b;
	};
	struct meminfo info;
	const struct shared_memory_info area = shared_memory_area();
	char *bytes = (char *)SHM_ALLOC_BYTES(100);
	struct thing *one = SHM_ALLOC_TYPE(struct thing);
	struct thing *two = SHM_ALLOC(struct thing);
	get_meminfo(&info);
	vlogf("%d %d %d %d %lu", area.ptr < area.end, bytes != NULL, one != NULL, two != NULL,
		(unsigned long)(info.max_memory + info.max_reqmem + info.reqmem_upper + info.reqmem_current));
	(void)internal_shm_alloc(1, 1);
	sys_make_ephemeral(true);
}

static void use_fetch(void)
{
	struct curl_op op;
	struct curl_fields fields;
	struct curl_fields *pointer = &fields;
	struct curl_options options;
	memset(&op, 0, sizeof(op));
	memset(&fields, 0, sizeof(fields));
	memset(&options, 0, sizeof(options));
	op.post_buffer = "body";
	op.post_buflen = 4;
	op.headers_length = 64;
	options.interface = "lo";
	options.follow_location = options.dummy_fetch = options.tcp_fast_open = options.dont_verify_host = 1;
	CURL_SETFIELD(fields, 0, "Accept: text/plain");
	CURL_SETFIELD(pointer, CURL_FIELDS_COUNT - 1, "X-Last: yes");
	sys_fetch("/", 1, &op, &fields, &options);
	sys_request("/", 1, &op, NULL, NULL);
	sys_log(op.content, op.content_length + op.status + op.headers_length + op.ctlen);
	sys_log(op.ctype, strlen(op.ctype));
}

static void sockets(int system_id)
{
	static const uint8_t greeting[] = "hello";
	(void)system_id;
	for (;;) {
		const int n = wait_for_socket_events_paused(events, 2);
		for (int i = 0; i < n; i++) {
			if (events[i].event == 0)
				vlogf("%s %s", events[i].remote, events[i].arg);
			events[i].data = greeting;
			events[i].data_len = 5;
			events[i].event = 2;
		}
		sys_sockets_write(events, (size_t)n);
		wait_for_socket_event_paused(events);
	}
}

int main(void)
{
	if (IS_LINUX_MAIN() || !IS_SANDBOXED_MAIN())
		return 1;
	if (IS_DEBUG() && sys_is_debug())
		sys_breakpoint();
	if (IS_STORAGE() && !IS_REQUEST())
		use_storage();
	use_processors();
	use_memory();
	use_fetch();
	register_func(1, get);
	register_func(1, TRUST_ME(get));
	set_backend_get(get);
	set_backend_post(post);
	set_backend_request(headers);
	set_backend_stream_post(stream_post);
	set_on_error(on_error);
	set_on_live_update(live_update);
	set_on_live_restore(live_restore);
	set_socket_prepare_for_pause(sockets);
	if (IS_STORAGE())
		wait_for_requests();
	for (;;) {
		wait_for_requests_paused(&request);
		headers(&request);
	}
}
