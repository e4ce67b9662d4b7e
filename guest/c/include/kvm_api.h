/* SPDX-License-Identifier: Apache-2.0
 *
 * The TinyKVM guest interface for C and C++ programs: include this one file, link nothing.
 *
 *     #include "kvm_api.h"
 *     static void on_get(const char *url, const char *arg)
 *     {
 *         backend_response_str(200, "text/plain", "Hello World");
 *     }
 *     int main(void)
 *     {
 *         set_backend_get(on_get);
 *         wait_for_requests();
 *     }
 *
 *     gcc -static -O2 -I... hello.c -o hello
 *
 * How it works. main() runs once. When it waits for requests, the program is frozen; each request
 * then runs in a copy of that frozen state, and all that the request changed is undone afterwards.
 * A call to the host is `out %eax, $0`: the number in EAX, arguments where the C calling convention
 * has them, the result in RAX. Outside a TinyKVM VM the first such call is a segmentation fault.
 *
 * Errors. A host that does not offer a call returns -ENOSYS (-38); the calls of which that is to be
 * expected say "may be missing". Nonsense in arguments (bad pointers, impossible lengths, a call
 * in the wrong place) ends the request: on_error is called if there is one, else the client gets a
 * 500. Pointers passed to the host need to be valid only during the call, unless it says otherwise.
 *
 * Several source files: define KVM_API_ALREADY_DEFINED before the include in all but one of them.
 *
 * The numbers and structures are those of vendor/tinykvm-sys/include/tinykvm_abi.h; a test of the
 * project compares the two files.
 */
#ifndef KVM_API_H
#define KVM_API_H

#ifndef __x86_64__
#error "kvm_api.h: TinyKVM guests are x86-64 programs"
#endif

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Where am I? -----------------------------------------------------------------------------
 * From the environment that the host sets: KVM_NAME, KVM_GROUP, KVM_TYPE, KVM_STATE, KVM_DEBUG. */

static inline bool kvm_env_is_(const char *name, const char *value)
{
	const char *is = getenv(name);
	return is != NULL && strcmp(is, value) == 0;
}

#define IS_SANDBOXED_MAIN() (getenv("KVM_NAME") != NULL) /* in a TinyKVM VM */
#define IS_LINUX_MAIN() (getenv("KVM_NAME") == NULL)     /* started by hand on Linux */
#define IS_STORAGE() kvm_env_is_("KVM_TYPE", "storage")  /* in the program's storage VM */
#define IS_REQUEST() kvm_env_is_("KVM_TYPE", "request")  /* in the VM that requests are forked from */
#define IS_DEBUG() kvm_env_is_("KVM_DEBUG", "1")         /* a debug instance */

/* ---- Structures ------------------------------------------------------------------------------ */

/* A field of the request, "Name: value", NUL-terminated. */
struct kvm_request_header {
	char *field;
	uint32_t field_colon; /* field[field_colon] is the ':' */
	uint32_t field_len;
};

/* A request. The memory belongs to this request and may be written to. */
struct kvm_request {
	char *method; /* these four are never NULL and end in NUL */
	char *url;
	char *arg;          /* the third argument of program() in VCL, or "" */
	char *content_type; /* "" when there is no body */
	uint16_t method_len;
	uint16_t url_len;
	uint16_t arg_len;
	uint16_t content_type_len;
	uint8_t *content; /* NULL when there is no body; no NUL behind it */
	size_t content_len;
	struct kvm_request_header *headers; /* NULL when there are none */
	uint16_t num_headers;
	uint16_t info_flags;
	uint32_t reserved0;
	uint64_t prng[2]; /* random, different for each request */
	uint64_t reserved1[2];
};

/* Nobody waits for the answer: the host runs this request to warm the program up. */
#define IS_WARMUP_REQUEST(req) (((req)->info_flags & 1) != 0)

struct ResponseHeader {
	const char *field; /* "Name: value" */
	size_t field_len;
};

/* More about a response. Zero what you do not use. */
struct BackendResponseExtra {
	const struct ResponseHeader *headers; /* set in the response; at most 64 */
	uint16_t num_headers;
	bool cached; /* true: let Varnish cache it, for these times */
	float ttl;   /* seconds */
	float grace;
	float keep;
	uint64_t reserved[4];
};

/* The next piece of a streamed response. */
struct streaming_content {
	const void *data;
	size_t len; /* 0 fails the response */
};

struct virtbuffer {
	const void *data;
	size_t len;
};

struct shared_memory_info {
	void *ptr;
	void *end; /* one past the last byte; not above ptr when there is none */
};

/* Bytes. */
struct meminfo {
	uint64_t max_memory;      /* setting max_memory */
	uint64_t max_reqmem;      /* setting max_request_memory */
	uint64_t reqmem_upper;    /* the same as max_reqmem */
	uint64_t reqmem_current;  /* what of it is in use */
};

struct curl_op {
	uint32_t status; /* out: the HTTP status */
	uint32_t post_buflen;
	const void *post_buffer; /* a POST if not NULL and post_buflen is not 0 */
	void *headers;           /* in: a buffer, or NULL: the host allocates one */
	uint32_t headers_length; /* in: 64 or more asks for headers; out: their length without NUL */
	uint32_t unused1;
	void *content;           /* in: a buffer, or NULL: the host allocates one */
	uint32_t content_length; /* in: size of the buffer; out: length of the body */
	uint32_t ctlen;          /* in: length of ctype; out: with the NUL, 0 if there is none */
	char ctype[128];         /* Content-Type to send, then the one received */
};

#define CURL_FIELDS_COUNT 12

/* Fields to send with a fetch; the first NULL ends the list. */
struct curl_fields {
	const char *ptr[CURL_FIELDS_COUNT];
	uint16_t len[CURL_FIELDS_COUNT];
};

struct curl_options {
	const char *interface; /* ignored */
	const char *unused;
	int8_t follow_location;
	int8_t dummy_fetch; /* no body: a HEAD */
	int8_t tcp_fast_open;    /* ignored */
	int8_t dont_verify_host; /* take a certificate that is for another name */
	uint32_t unused_opt5;
};

struct kvm_socket_event {
	int fd;
	int event; /* 0 connected, 1 data to read, 2 writable, 3 disconnected */
	const char *remote;
	const char *arg;
	const uint8_t *data;
	size_t data_len;
};

/* ---- Registering callbacks, in main() --------------------------------------------------------
 * Strings given to a callback end in NUL, belong to the request and may be written to. A callback
 * answers by one of the response functions; one that returns without doing so gets a 500. */

void register_func(int slot, ...); /* slot 0 to 12, and the function; the set_ functions are safer */

/* Requests without a body. `arg` is the third argument of program() in VCL, or "". */
static inline void set_backend_get(void (*f)(const char *url, const char *arg))
{
	register_func(1, f);
}

/* Requests with a body. */
static inline void set_backend_post(void (*f)(const char *url, const char *arg,
	const char *content_type, const uint8_t *data, size_t len))
{
	register_func(2, f);
}

/* All requests; goes before the two above. */
static inline void set_backend_request(void (*f)(const struct kvm_request *))
{
	register_func(3, f);
}

/* A request body piece by piece, before the request itself is delivered (then with a NULL body and
 * its total length). Must return `len`, or answer: then the rest of the body is dropped. */
static inline void set_backend_stream_post(long (*f)(const char *url, const char *arg,
	const char *content_type, const uint8_t *data, size_t len, size_t offset))
{
	register_func(4, f);
}
#ifdef __cplusplus
extern "C++" {
static inline void set_backend_stream_post(size_t (*f)(const char *, const char *, const char *,
	const uint8_t *, size_t, size_t))
{
	register_func(4, f);
}
}
#endif

/* The request has failed, for the reason in the text; this is the last chance to answer it. One
 * second. */
static inline void set_on_error(void (*f)(const char *url, const char *arg, const char *reason))
{
	register_func(5, f);
}

/* In the storage VM of a program that is being replaced: end with storage_return() of the state
 * to keep. May be missing: then it is never called. */
static inline void set_on_live_update(void (*f)(void))
{
	register_func(6, f);
}

/* In the storage VM of the new program: storage_return() a buffer of up to `len` bytes; the saved
 * state is in it when that call returns. May be missing: then it is never called. */
static inline void set_on_live_restore(void (*f)(size_t len))
{
	register_func(7, f);
}

/* The program's socket server starts: end with wait_for_socket_events_paused(). May be missing:
 * then it is never called. */
static inline void set_socket_prepare_for_pause(void (*f)(int system_id))
{
	register_func(12, f);
}

/* ---- Waiting for requests, at the end of main() ---------------------------------------------- */

/* Freezes the program here; requests come through the callbacks. */
void wait_for_requests(void) __attribute__((noreturn));

/* Freezes the program here. For each request that no callback takes, *request is filled and the
 * call returns. Call it in a loop: after the answer it is called again where VMs are kept. */
void wait_for_requests_paused(struct kvm_request *request);

/* Upstream: freezes the program here, returns the number of events filled in. This host takes it
 * for wait_for_requests_paused(), which writes 104 bytes: do not call it. */
int wait_for_socket_events_paused(struct kvm_socket_event *events, size_t count);

static inline int wait_for_socket_event_paused(struct kvm_socket_event *event)
{
	return wait_for_socket_events_paused(event, 1);
}

/* Writes event.data to event.fd for each entry whose event is 2; then `fd` is the number of bytes,
 * or -errno. May be missing: then nothing changes. */
void sys_sockets_write(struct kvm_socket_event *events, size_t count);

/* ---- Responses -------------------------------------------------------------------------------
 * status 200 to 599; type is the Content-Type, up to 4095 bytes, none when its length is 0. The
 * body is taken from the program's memory after the call: leave it alone. Code behind a response
 * does not run for callbacks; it may run after wait_for_requests_paused(), where VMs are kept. */

void sys_backend_response(int16_t status, const void *type, size_t type_len,
	const void *data, size_t len, const struct BackendResponseExtra *extra);

static inline void backend_response(int16_t status, const void *type, size_t type_len,
	const void *data, size_t len)
{
	sys_backend_response(status, type, type_len, data, len, NULL);
}

static inline void backend_response_str(int16_t status, const char *type, const char *text)
{
	sys_backend_response(status, type, strlen(type), text, strlen(text), NULL);
}

static inline void backend_response_extra(int16_t status, const void *type, size_t type_len,
	const void *data, size_t len, const struct BackendResponseExtra *extra)
{
	sys_backend_response(status, type, type_len, data, len, extra);
}

/* A body of `content_length` bytes (not 0), made while it is sent: `next` is called until all are
 * there, with how much it may return at most, how much there was so far, and content_length. Two
 * seconds a call; the HTTP functions do not work in it. */
void begin_streaming_response(int16_t status, const void *type, size_t type_len,
	size_t content_length,
	struct streaming_content (*next)(void *arg, size_t max, size_t written, size_t total),
	void *arg) __attribute__((noreturn));

/* ---- HTTP headers of the current request -----------------------------------------------------
 * A field is "Name: value": one space behind the colon, none at the ends, 4 to 65535 bytes, no
 * control characters. Asking for a table that does not exist here ends the request. */

enum {
	REQ = 0,
	RESP = 1,
	REQUEST = 0,
	RESPONSE = 1,
	BEREQ = 0,
	BERESP = 1
};

#define HTTP_FMT_SIZE 4096 /* bytes that http_appendf() and http_setf() can make, with the NUL */

/* Adds a field; its index, or 0xffffffff when the table is full, or 0 when there is no memory. */
long sys_http_append(int where, const void *field, size_t len);
/* With a ':': replaces the first field of that name, or adds it. Without: removes the first field
 * of that name. The field's index, or 0 when there was nothing to do. */
long sys_http_set(int where, const void *field, size_t len);
/* Copies the whole field of that name to `out` (no NUL) if it fits. Its length; 0 when there is
 * none or it does not fit. `out` NULL: the length only. Name and size up to 65535. */
long sys_http_find(int where, const void *name, size_t name_len, void *out, size_t size);
/* Copies the method to `out` (no NUL) if it fits. Its length, or 0; `out` NULL: the length only. */
long sys_http_method(void *out, size_t size);

static inline long http_append_str(int where, const char *field)
{
	return sys_http_append(where, field, strlen(field));
}

static inline long http_set_str(int where, const char *field)
{
	return sys_http_set(where, field, strlen(field));
}

static inline long http_unset(int where, const char *name, size_t name_len)
{
	return sys_http_set(where, name, name_len);
}

static inline long http_unset_str(int where, const char *name)
{
	return sys_http_set(where, name, strlen(name));
}

/* What vsnprintf() returned, as the number of bytes that are there. */
static inline size_t kvm_fitted_(int len, size_t size)
{
	return len < 0 ? 0 : (size_t)len < size ? (size_t)len : size - 1;
}

/* As http_append_str() and http_set_str(), with a text as printf() makes it, cut at HTTP_FMT_SIZE. */
__attribute__((format(printf, 2, 3)))
static inline long http_appendf(int where, const char *format, ...)
{
	char text[HTTP_FMT_SIZE];
	va_list args;
	va_start(args, format);
	const int len = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return sys_http_append(where, text, kvm_fitted_(len, sizeof(text)));
}

__attribute__((format(printf, 2, 3)))
static inline long http_setf(int where, const char *format, ...)
{
	char text[HTTP_FMT_SIZE];
	va_list args;
	va_start(args, format);
	const int len = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return sys_http_set(where, text, kvm_fitted_(len, sizeof(text)));
}

/* As sys_http_find(); ends the text with NUL where there is room for it. */
static inline long http_find_str(int where, const char *name, char *out, size_t size)
{
	const long len = sys_http_find(where, name, strlen(name), out, size);
	if (out != NULL && len > 0 && (size_t)len < size)
		out[len] = 0;
	return len;
}

/* The length of the field of that name, 0 when there is none. */
static inline long http_find_strlen(int where, const char *name)
{
	return sys_http_find(where, name, strlen(name), NULL, 0);
}

/* The field of that name, NUL-terminated, from malloc(); NULL when there is none. Its length goes
 * to *len; that argument may be left out. */
static inline char *kvm_alloc_find_(int where, const char *name, size_t *len)
{
	const size_t name_len = strlen(name);
	const long found = sys_http_find(where, name, name_len, NULL, 0);
	char *field = found > 0 ? (char *)malloc((size_t)found + 1) : NULL;
	if (field != NULL) {
		sys_http_find(where, name, name_len, field, (size_t)found);
		field[found] = 0;
	}
	if (len != NULL)
		*len = field != NULL ? (size_t)found : 0;
	return field;
}
#define KVM_FIRST_TWO_(a, b, ...) a, b
#define http_alloc_find(where, ...) \
	kvm_alloc_find_(where, KVM_FIRST_TWO_(__VA_ARGS__, (size_t *)NULL, 0))

/* The method, NUL-terminated, from malloc(); NULL when there is none. */
static inline char *http_alloc_method(void)
{
	const long len = sys_http_method(NULL, 0);
	char *method = len > 0 ? (char *)malloc((size_t)len + 1) : NULL;
	if (method != NULL) {
		sys_http_method(method, (size_t)len);
		method[len] = 0;
	}
	return method;
}

/* ---- Caching --------------------------------------------------------------------------------- */

/* May Varnish cache this response, and how long? Milliseconds. 0, or -1 where nothing is cached. */
long sys_set_cacheable(bool cacheable, uint64_t ttl, uint64_t grace, uint64_t keep);

/* The same in seconds; negative times are 0. */
static inline long set_cacheable(bool cacheable, float ttl, float grace, float keep)
{
	return sys_set_cacheable(cacheable, ttl > 0 ? (uint64_t)(ttl * 1000.0f) : 0,
		grace > 0 ? (uint64_t)(grace * 1000.0f) : 0,
		keep > 0 ? (uint64_t)(keep * 1000.0f) : 0);
}

/* ---- Regular expressions: no back-references, no look-around, at most 32 groups -------------- */

/* A handle; those made in main() serve all requests. A bad pattern ends the request. */
int sys_regex_compile(const void *pattern, size_t len);
void sys_regex_free(int handle);
/* Above 0: matches; negative: does not. */
int sys_regex_match(int handle, const void *text, size_t len);
/* Replaces the first match (flags 1: all) in `text`, \1 to \9 standing for groups. Bytes written,
 * with the NUL; -1 for failure. */
long sys_regex_subst(int handle, const char *text, const char *replacement, char *out, size_t size,
	uint32_t flags);
/* Appends the fields of `from` that match to `to`; how many. */
int sys_regex_copyto(int handle, int from, int to);

/* ---- Storage: one VM of the program keeps its state -------------------------------------------
 * Without the setting `storage` a call from a request ends the request. */

/* Runs in the storage VM; `size` is how much the caller can take. Ends with storage_return(). */
typedef void (*storage_func)(size_t n, struct virtbuffer *buffers, size_t size);
typedef void (*storage_task_func)(void *data, size_t len);

long sys_is_storage(void); /* 1 in the storage VM, else 0 */

/* In the storage VM's main(): requests may call this function. Before the first: all. */
long sys_storage_allow(storage_func f);
#define STORAGE_ALLOW(f) sys_storage_allow((storage_func)(f))

/* Calls `f` in the storage VM with up to 64 buffers. Bytes put into `out`; negative: failed, and the
 * log says why. 16 MiB at most go in, and 16 MiB come back: more is -1. */
long storage_callv(storage_func f, size_t n, const struct virtbuffer *buffers, void *out,
	size_t size);

static inline long storage_call(storage_func f, const void *data, size_t len, void *out,
	size_t size)
{
	const struct virtbuffer buffer = {data, len};
	return storage_callv(f, 1, &buffer, out, size);
}

/* Calls `f` in the storage VM with a copy of up to 2 MiB, without waiting: at once, or after
 * `start` and then each `period` milliseconds. 0 or a timer; negative: failed. */
long sys_storage_task(storage_task_func f, const void *data, size_t len, uint64_t start,
	uint64_t period);
long stop_storage_task(long timer); /* 1 stopped, 0 no such timer */

static inline long storage_task(storage_task_func f, const void *data, size_t len)
{
	return sys_storage_task(f, data, len, 0, 0);
}

/* Seconds. */
static inline long schedule_storage_task(storage_task_func f, const void *data, size_t len,
	float start, float period)
{
	return sys_storage_task(f, data, len, start > 0 ? (uint64_t)(start * 1000.0f) : 0,
		period > 0 ? (uint64_t)(period * 1000.0f) : 0);
}

/* The result of a storage function; returns, so that it can clean up. */
void storage_return(const void *data, size_t len);
/* The same, without returning. */
void storage_noreturn(const void *data, size_t len) __attribute__((noreturn));

static inline void storage_return_nothing(void)
{
	storage_return(NULL, 0);
}

/* ---- More virtual CPUs. May be missing. ------------------------------------------------------ */

typedef void (*multiprocess_t)(void *data);
typedef void (*multiprocess_array_t)(int cpu, void *array, size_t element_size);

/* `n` counts all virtual CPUs, this one too. Up to four values go to the function. 0, or negative. */
long multiprocess(size_t n, multiprocess_t f, ...);
long multiprocess_array(size_t n, multiprocess_array_t f, void *array, size_t element_size);
/* All return from here, each new one on its own `stack_size` bytes of `stacks`. */
long multiprocess_clone(size_t n, void *stacks, size_t stack_size);
long multiprocess_wait(void);

int vcpuid(void);    /* number of this virtual CPU; no call to the host */
int vcpureqid(void); /* number of this request VM */

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Memory that all requests of the program share and nobody resets; empty without the setting
 * `shared_memory` and in the storage VM. */
struct shared_memory_info shared_memory_area(void);

/* true: reset this program's VMs after each request. In main(). 0, or negative when not allowed. */
long sys_make_ephemeral(bool ephemeral);

void get_meminfo(struct meminfo *info);

extern char *kvm_shm_next_; /* with the stubs below: one for all source files */

/* Memory from the shared area, never given back; NULL when there is not enough. In main(). */
static inline void *internal_shm_alloc(size_t size, size_t align)
{
	const struct shared_memory_info area = shared_memory_area();
	const uintptr_t end = (uintptr_t)area.end;
	uintptr_t at = (uintptr_t)(kvm_shm_next_ != NULL ? kvm_shm_next_ : (char *)area.ptr);
	if (end <= (uintptr_t)area.ptr || align == 0 || at > end)
		return NULL;
	at += (align - at % align) % align;
	if (at > end || size > end - at)
		return NULL;
	kvm_shm_next_ = (char *)(at + size);
	return (void *)at;
}

#define SHM_ALLOC_BYTES(size) internal_shm_alloc((size), 16)
#define SHM_ALLOC_TYPE(type) ((type *)internal_shm_alloc(sizeof(type), __alignof__(type)))
#define SHM_ALLOC(thing) ((__typeof__(thing) *)internal_shm_alloc(sizeof(thing), __alignof__(thing)))

/* ---- HTTP requests made by the program ------------------------------------------------------- */

/* Fetches a URL of up to 1024 bytes. One that begins with '/' goes to this Varnish; others have to be
 * in the program's allowed_fetch. `fields` and `options` may be NULL: redirects are followed then.
 * Waits up to 8 seconds, but no longer than the request has. Clear the operation before: what it has
 * in content, headers and ctype is used. 0, or a negative code, and then nothing is changed: of cURL
 * (-3 no URL, -7 no connection, -23 too big, -28 too late, -47 too many redirects), -9 not allowed,
 * -508 too many self-requests have led here, -1 anything else. An HTTP error is not a failure. */
long sys_fetch(const void *url, size_t len, struct curl_op *op, const struct curl_fields *fields,
	const struct curl_options *options);
/* The same, for this Varnish only. */
long sys_request(const void *url, size_t len, struct curl_op *op, const struct curl_fields *fields,
	const struct curl_options *options);

static inline void kvm_set_field_(struct curl_fields *fields, size_t i, const char *field)
{
	if (i < CURL_FIELDS_COUNT) {
		fields->ptr[i] = field;
		fields->len[i] = (uint16_t)strlen(field);
	}
}

/* CURL_SETFIELD(fields, 0, "Accept: text/plain"): field `i` of a curl_fields, or of a pointer to one. */
#ifdef __cplusplus
extern "C++" {
static inline struct curl_fields *kvm_fields_(struct curl_fields &fields) { return &fields; }
static inline struct curl_fields *kvm_fields_(struct curl_fields *fields) { return fields; }
}
#define CURL_SETFIELD(f, i, v) kvm_set_field_(kvm_fields_(f), (i), (v))
#else
#define CURL_SETFIELD(f, i, v) kvm_set_field_(__builtin_choose_expr( \
	__builtin_types_compatible_p(__typeof__(f), struct curl_fields), &(f), (f)), (i), (v))
#endif

/* ---- For the author -------------------------------------------------------------------------- */

/* Lines of Varnish's log (VSL), up to 65535 bytes in all; each is cut at 4096. */
void sys_log(const void *text, size_t len);

/* The same, as printf() makes it, cut at 2047 bytes. */
__attribute__((format(printf, 1, 2)))
static inline void vlogf(const char *format, ...)
{
	char text[2048];
	va_list args;
	va_start(args, format);
	const int len = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	sys_log(text, kvm_fitted_(len, sizeof(text)));
}

long sys_is_debug(void);    /* 1 where sys_breakpoint() waits for gdb, else 0 */
void sys_breakpoint(void);  /* waits for gdb where the program's "allow_debug" is set */

/* A pointer to anything as a pointer to a function. */
#define TRUST_ME(p) ((void (*)(void))(uintptr_t)(p))

/* EMBED_BINARY(page, "page.html") makes `const char page[]` and `const uint32_t page_size` of a
 * file, at file scope. A NUL follows the last byte. No semicolon is needed. */
#define EMBED_BINARY(name, file) \
	__asm__(".pushsection .rodata\n\t.balign 16\n\t.global " #name ", " #name "_size\n" \
		#name ":\n\t.incbin " #file "\n" \
		".L" #name "_end:\n\t.byte 0\n\t.balign 4\n" \
		#name "_size:\n\t.int .L" #name "_end - " #name "\n" \
		"\t.type " #name ", @object\n\t.type " #name "_size, @object\n" \
		"\t.size " #name ", .L" #name "_end - " #name "\n\t.size " #name "_size, 4\n" \
		"\t.popsection"); \
	extern const char name[]; \
	extern const uint32_t name##_size;

/* ---- The calls ------------------------------------------------------------------------------- */

#define KVM_CALL_REGISTER_FUNC 0x10000
#define KVM_CALL_WAIT_FOR_REQUESTS 0x10001
#define KVM_CALL_WAIT_PAUSED 0x10002
#define KVM_CALL_SET_CACHEABLE 0x10005
#define KVM_CALL_BACKEND_RESPONSE 0x10010
#define KVM_CALL_STORAGE_RETURN 0x10011
#define KVM_CALL_STREAMING_RESPONSE 0x10012
#define KVM_CALL_STORAGE_NORETURN 0x10013
#define KVM_CALL_HTTP_APPEND 0x10020
#define KVM_CALL_HTTP_SET 0x10021
#define KVM_CALL_HTTP_FIND 0x10022
#define KVM_CALL_HTTP_METHOD 0x10023
#define KVM_CALL_REGEX_COMPILE 0x10030
#define KVM_CALL_REGEX_FREE 0x10031
#define KVM_CALL_REGEX_MATCH 0x10032
#define KVM_CALL_REGEX_SUBST 0x10033
#define KVM_CALL_REGEX_COPYTO 0x10035
#define KVM_CALL_SOCKETS_WRITE 0x10500
#define KVM_CALL_SHARED_MEMORY 0x10700
#define KVM_CALL_MAKE_EPHEMERAL 0x10703
#define KVM_CALL_IS_STORAGE 0x10706
#define KVM_CALL_STORAGE_ALLOW 0x10707
#define KVM_CALL_STORAGE_CALLV 0x10708
#define KVM_CALL_STORAGE_TASK 0x10709
#define KVM_CALL_STOP_STORAGE_TASK 0x1070a
#define KVM_CALL_MULTIPROCESS 0x10710
#define KVM_CALL_MULTIPROCESS_ARRAY 0x10711
#define KVM_CALL_MULTIPROCESS_CLONE 0x10712
#define KVM_CALL_MULTIPROCESS_WAIT 0x10713
#define KVM_CALL_MEMINFO 0x10a00
#define KVM_CALL_FETCH 0x20000
#define KVM_CALL_REQUEST 0x20001
#define KVM_CALL_LOG 0x7f000
#define KVM_CALL_BREAKPOINT 0x7f7f7
#define KVM_CALL_IS_DEBUG 0x7fdeb

#ifndef KVM_API_ALREADY_DEFINED
/* Weak, so that forgetting KVM_API_ALREADY_DEFINED in a second source file does no harm. */
#define KVM_TEXT_(x) #x
#define KVM_FUNCTION_(name, code) \
	__asm__(".pushsection .text.kvm_api, \"ax\", @progbits\n\t.balign 16\n\t.weak " #name \
		"\n\t.type " #name ", @function\n" #name ":\n" code "\t.size " #name ", . - " #name \
		"\n\t.popsection");
#define KVM_OUT_(number) "\tmovl $" KVM_TEXT_(number) ", %eax\n\toutl %eax, $0\n"
#define KVM_CALL_(name, number) KVM_FUNCTION_(name, KVM_OUT_(number) "\tret\n")
#define KVM_LAST_CALL_(name, number) KVM_FUNCTION_(name, KVM_OUT_(number) "\tud2\n")

KVM_CALL_(register_func, KVM_CALL_REGISTER_FUNC)
KVM_LAST_CALL_(wait_for_requests, KVM_CALL_WAIT_FOR_REQUESTS)
KVM_CALL_(wait_for_requests_paused, KVM_CALL_WAIT_PAUSED)
KVM_CALL_(wait_for_socket_events_paused, KVM_CALL_WAIT_PAUSED)
KVM_CALL_(sys_set_cacheable, KVM_CALL_SET_CACHEABLE)
KVM_CALL_(sys_backend_response, KVM_CALL_BACKEND_RESPONSE)
KVM_CALL_(storage_return, KVM_CALL_STORAGE_RETURN)
KVM_LAST_CALL_(begin_streaming_response, KVM_CALL_STREAMING_RESPONSE)
KVM_LAST_CALL_(storage_noreturn, KVM_CALL_STORAGE_NORETURN)
KVM_CALL_(sys_http_append, KVM_CALL_HTTP_APPEND)
KVM_CALL_(sys_http_set, KVM_CALL_HTTP_SET)
KVM_CALL_(sys_http_find, KVM_CALL_HTTP_FIND)
KVM_CALL_(sys_http_method, KVM_CALL_HTTP_METHOD)
KVM_CALL_(sys_regex_compile, KVM_CALL_REGEX_COMPILE)
KVM_CALL_(sys_regex_free, KVM_CALL_REGEX_FREE)
KVM_CALL_(sys_regex_match, KVM_CALL_REGEX_MATCH)
KVM_CALL_(sys_regex_subst, KVM_CALL_REGEX_SUBST)
KVM_CALL_(sys_regex_copyto, KVM_CALL_REGEX_COPYTO)
KVM_CALL_(sys_sockets_write, KVM_CALL_SOCKETS_WRITE)
KVM_FUNCTION_(shared_memory_area, "\txorl %edx, %edx\n" KVM_OUT_(KVM_CALL_SHARED_MEMORY) "\tret\n")
KVM_CALL_(sys_make_ephemeral, KVM_CALL_MAKE_EPHEMERAL)
KVM_CALL_(sys_is_storage, KVM_CALL_IS_STORAGE)
KVM_CALL_(sys_storage_allow, KVM_CALL_STORAGE_ALLOW)
KVM_CALL_(storage_callv, KVM_CALL_STORAGE_CALLV)
KVM_CALL_(sys_storage_task, KVM_CALL_STORAGE_TASK)
KVM_CALL_(stop_storage_task, KVM_CALL_STOP_STORAGE_TASK)
KVM_CALL_(multiprocess, KVM_CALL_MULTIPROCESS)
KVM_CALL_(multiprocess_array, KVM_CALL_MULTIPROCESS_ARRAY)
KVM_CALL_(multiprocess_clone, KVM_CALL_MULTIPROCESS_CLONE)
KVM_CALL_(multiprocess_wait, KVM_CALL_MULTIPROCESS_WAIT)
KVM_CALL_(get_meminfo, KVM_CALL_MEMINFO)
KVM_CALL_(sys_fetch, KVM_CALL_FETCH)
KVM_CALL_(sys_request, KVM_CALL_REQUEST)
KVM_CALL_(sys_log, KVM_CALL_LOG)
KVM_CALL_(sys_breakpoint, KVM_CALL_BREAKPOINT)
KVM_CALL_(sys_is_debug, KVM_CALL_IS_DEBUG)
KVM_FUNCTION_(vcpuid, "\tmovl %gs:0, %eax\n\tret\n")
KVM_FUNCTION_(vcpureqid, "\tmovl %gs:4, %eax\n\tret\n")
__asm__(".pushsection .bss.kvm_api, \"aw\", @nobits\n\t.balign 8\n\t.weak kvm_shm_next_\n"
	"\t.type kvm_shm_next_, @object\n\t.size kvm_shm_next_, 8\n"
	"kvm_shm_next_:\n\t.zero 8\n\t.popsection");

#undef KVM_CALL_
#undef KVM_LAST_CALL_
#undef KVM_FUNCTION_
#undef KVM_OUT_
#undef KVM_TEXT_
#endif /* KVM_API_ALREADY_DEFINED */

#ifdef __cplusplus
}
#endif
#endif
