/* The interface between a guest program and its host: numbers, limits and memory layouts.
 * Everything here is compiled into guest programs that nobody will rebuild, so nothing here
 * changes: a new call gets a new number, a new field the next reserved bytes.
 *
 * Read by the assembler, by C and, through bindgen, by Rust. Guest programs do not include this
 * file; they include guest/c/include/kvm_api.h, which must say the same (tests/guests/tests/header.rs
 * compares the two). src/tripwires.rs restates every value and stops the build when one moves.
 *
 * A hypercall is the two bytes E7 00 (out %eax, $0) in user mode: number in EAX, arguments in
 * RDI, RSI, RDX, RCX, R8, R9, result in RAX. Numbers 0 to 511 are the Linux system calls (fourth
 * argument in R10). A number that nobody answers returns -ENOSYS. Of an argument that C declares
 * narrower than 64 bits only those bits count (bool: the low 8); compilers leave junk above them.
 *
 * History
 *   2026-11-21  Version 1. The calls, callback slots and structures that programs built for
 *               upstream's TinyKVM VMOD use, with their numbers and layouts.
 */
#ifndef TINYKVM_ABI_H
#define TINYKVM_ABI_H

#define TINYKVM_ABI_VERSION 1

/* ---- Hypercalls ------------------------------------------------------------------------------ */

#define TINYKVM_CALL_FIRST 0x10000
#define TINYKVM_CALL_LAST 0x7ffff

/* Starting, waiting, answering. */
#define TINYKVM_CALL_REGISTER_FUNC 0x10000     /* callback slot, function */
#define TINYKVM_CALL_WAIT_FOR_REQUESTS 0x10001 /* - */
#define TINYKVM_CALL_WAIT_PAUSED 0x10002       /* request | socket events, count */
#define TINYKVM_CALL_SET_CACHEABLE 0x10005     /* bool, ttl, grace, keep (ms) */
#define TINYKVM_CALL_BACKEND_RESPONSE 0x10010  /* status, type, len, data, len, extra */
#define TINYKVM_CALL_STORAGE_RETURN 0x10011    /* data, len */
#define TINYKVM_CALL_STREAMING_RESPONSE 0x10012 /* status, type, len, length, function, argument */
#define TINYKVM_CALL_STORAGE_NORETURN 0x10013  /* data, len */

/* Header fields of the HTTP transaction. */
#define TINYKVM_CALL_HTTP_APPEND 0x10020 /* where, text, len */
#define TINYKVM_CALL_HTTP_SET 0x10021    /* where, text, len */
#define TINYKVM_CALL_HTTP_FIND 0x10022   /* where, name, len, out, size */
#define TINYKVM_CALL_HTTP_METHOD 0x10023 /* out, size */

/* Regular expressions. */
#define TINYKVM_CALL_REGEX_COMPILE 0x10030 /* pattern, len */
#define TINYKVM_CALL_REGEX_FREE 0x10031    /* handle */
#define TINYKVM_CALL_REGEX_MATCH 0x10032   /* handle, text, len */
#define TINYKVM_CALL_REGEX_SUBST 0x10033   /* handle, text, replacement, out, size, flags */
#define TINYKVM_CALL_REGEX_COPYTO 0x10035  /* handle, from where, to where */

#define TINYKVM_CALL_SET_BACKEND 0x10100   /* does nothing, RAX stays */
#define TINYKVM_CALL_SOCKETS_WRITE 0x10500 /* socket events, count */

/* Memory and shared state. */
#define TINYKVM_CALL_SHARED_MEMORY 0x10700     /* -; also answers in RDX */
#define TINYKVM_CALL_MAKE_EPHEMERAL 0x10703    /* bool */
#define TINYKVM_CALL_IS_STORAGE 0x10706        /* - */
#define TINYKVM_CALL_STORAGE_ALLOW 0x10707     /* function */
#define TINYKVM_CALL_STORAGE_CALLV 0x10708     /* function, count, buffers, out, size */
#define TINYKVM_CALL_STORAGE_TASK 0x10709      /* function, data, len, start, period (ms) */
#define TINYKVM_CALL_STOP_STORAGE_TASK 0x1070a /* timer */
#define TINYKVM_CALL_MEMINFO 0x10a00           /* meminfo */

/* More vCPUs. */
#define TINYKVM_CALL_MULTIPROCESS 0x10710       /* vCPUs, function, three or four values */
#define TINYKVM_CALL_MULTIPROCESS_ARRAY 0x10711 /* vCPUs, function, array, element size */
#define TINYKVM_CALL_MULTIPROCESS_CLONE 0x10712 /* vCPUs, stacks, size of one */
#define TINYKVM_CALL_MULTIPROCESS_WAIT 0x10713  /* - */

/* Requests that the guest makes itself. */
#define TINYKVM_CALL_FETCH 0x20000   /* url, len, operation, fields, options */
#define TINYKVM_CALL_REQUEST 0x20001 /* as fetch, self-requests only */

/* For the program's author. */
#define TINYKVM_CALL_LOG 0x7f000        /* text, len */
#define TINYKVM_CALL_BREAKPOINT 0x7f7f7 /* - */
#define TINYKVM_CALL_IS_DEBUG 0x7fdeb   /* - */

/* ---- Callback slots of TINYKVM_CALL_REGISTER_FUNC -------------------------------------------- */

#define TINYKVM_ON_RECV 0 /* taken, never called */
#define TINYKVM_ON_GET 1
#define TINYKVM_ON_POST 2
#define TINYKVM_ON_REQUEST 3
#define TINYKVM_ON_STREAM_POST 4
#define TINYKVM_ON_ERROR 5
#define TINYKVM_ON_LIVE_UPDATE 6
#define TINYKVM_ON_LIVE_RESTORE 7
#define TINYKVM_ON_SOCKET_PAUSE 12
#define TINYKVM_CALLBACKS 13 /* slots 8 to 11 can be set and are never called */

/* ---- Values ---------------------------------------------------------------------------------- */

/* Which header table of the transaction ("where"). */
#define TINYKVM_WHERE_REQUEST 0 /* bereq; req in client context */
#define TINYKVM_WHERE_RESPONSE 1 /* beresp; resp in client context */
#define TINYKVM_WHERE_BEREQ 4   /* backend context only */
#define TINYKVM_WHERE_BERESP 5  /* backend context only */

/* What TINYKVM_CALL_HTTP_APPEND answers when the header table is full. */
#define TINYKVM_HTTP_FULL 0xffffffff

/* Flags of TINYKVM_CALL_REGEX_SUBST. */
#define TINYKVM_REGEX_ALL 1

/* What TINYKVM_CALL_FETCH answers, negative, besides libcurl's codes. */
#define TINYKVM_FETCH_FAILED 1     /* too many self-requests at once, or the host's fault */
#define TINYKVM_FETCH_REFUSED 9    /* not in allowed_fetch; libcurl's "access denied" */
#define TINYKVM_FETCH_TOO_DEEP 508 /* self-requests that cause one another */

/* Bits of tinykvm_request.info_flags. */
#define TINYKVM_REQUEST_WARMUP 1

/* tinykvm_socket_event.event */
#define TINYKVM_SOCKET_CONNECT 0
#define TINYKVM_SOCKET_READ 1
#define TINYKVM_SOCKET_WRITABLE 2
#define TINYKVM_SOCKET_DISCONNECT 3

/* ---- Limits that a program can notice -------------------------------------------------------- */

#define TINYKVM_MIN_STATUS 200
#define TINYKVM_MAX_STATUS 599
#define TINYKVM_MAX_CONTENT_TYPE 4095      /* bytes */
#define TINYKVM_MAX_REQUEST_HEADERS 64
#define TINYKVM_MAX_RESPONSE_HEADERS 64    /* in tinykvm_response_extra */
#define TINYKVM_MIN_HEADER_TEXT 4          /* bytes of one "Name: value" */
#define TINYKVM_MAX_HEADER_TEXT 65535
#define TINYKVM_MAX_LOG_TEXT 65535         /* bytes; more is cut */
#define TINYKVM_MAX_REGEX_TEXT 65535       /* bytes of a pattern */
#define TINYKVM_MAX_REGEXES 64
#define TINYKVM_MAX_STORAGE_BUFFERS 64
#define TINYKVM_MAX_STORAGE_TASK 2097152   /* bytes of a task's argument */
#define TINYKVM_MAX_FETCH_URL 1024         /* bytes */
#define TINYKVM_MAX_FETCH_CTYPE 128        /* bytes, with the NUL */
#define TINYKVM_FETCH_FIELDS 12
#define TINYKVM_MAX_SOCKET_EVENTS 32

/* ---- Structures in guest memory -------------------------------------------------------------- */

#ifndef __ASSEMBLER__
#include <stdint.h>

/* Pointers are guest-virtual addresses. No structure has padding: what would be padding is a
 * field, so that one can be copied to a guest without copying host memory along. */
typedef uint64_t tinykvm_ptr;

/* One field of the request: "Name: value" with a NUL behind it. */
struct tinykvm_request_header {
	tinykvm_ptr field;
	uint32_t field_colon; /* index of the ':' */
	uint32_t field_len;
};

/* What a waiting program and the ON_REQUEST callback get. */
struct tinykvm_request {
	tinykvm_ptr method; /* these four end in NUL and are never 0 */
	tinykvm_ptr url;
	tinykvm_ptr arg;
	tinykvm_ptr content_type; /* "" without a body */
	uint16_t method_len;
	uint16_t url_len;
	uint16_t arg_len;
	uint16_t content_type_len;
	tinykvm_ptr content; /* 0 without a body */
	uint64_t content_len;
	tinykvm_ptr headers; /* tinykvm_request_header[num_headers], 0 when there are none */
	uint16_t num_headers;
	uint16_t info_flags;
	uint32_t reserved0;
	uint64_t prng[2]; /* fresh for every request */
	uint64_t reserved1[2];
};

struct tinykvm_response_header {
	tinykvm_ptr field; /* "Name: value", no NUL needed */
	uint64_t field_len;
};

/* The last argument of TINYKVM_CALL_BACKEND_RESPONSE. */
struct tinykvm_response_extra {
	tinykvm_ptr headers; /* tinykvm_response_header[num_headers] */
	uint16_t num_headers;
	uint8_t cached; /* 0: leave cacheability alone, and do not read the three times */
	uint8_t unused;
	float ttl; /* seconds */
	float grace;
	float keep;
	uint64_t reserved[4];
};

/* One input of a storage function. */
struct tinykvm_buffer {
	tinykvm_ptr data;
	uint64_t len;
};

/* What a streaming callback returns, in RAX and RDX. */
struct tinykvm_streaming_content {
	tinykvm_ptr data;
	uint64_t len;
};

/* What TINYKVM_CALL_SHARED_MEMORY answers, in RAX and RDX. */
struct tinykvm_shared_memory {
	tinykvm_ptr begin;
	tinykvm_ptr end;
};

/* Bytes. */
struct tinykvm_meminfo {
	uint64_t max_memory;
	uint64_t max_request_memory;
	uint64_t request_memory_upper;
	uint64_t request_memory_current;
};

/* What TINYKVM_CALL_FETCH is to do, and its outcome. */
struct tinykvm_fetch {
	uint32_t status;
	uint32_t post_len;
	tinykvm_ptr post_data;
	tinykvm_ptr headers;
	uint32_t headers_len;
	uint32_t unused;
	tinykvm_ptr content;
	uint32_t content_len;
	uint32_t content_type_len;
	uint8_t content_type[128];
};

struct tinykvm_fetch_fields {
	tinykvm_ptr field[12];
	uint16_t len[12];
};

struct tinykvm_fetch_options {
	tinykvm_ptr interface;
	tinykvm_ptr unused;
	uint8_t follow_location;
	uint8_t dummy_fetch;
	uint8_t tcp_fast_open;
	uint8_t dont_verify_host;
	uint32_t unused_option;
};

struct tinykvm_socket_event {
	int32_t fd;
	int32_t event;
	tinykvm_ptr remote;
	tinykvm_ptr arg;
	tinykvm_ptr data;
	uint64_t data_len;
};

#endif /* __ASSEMBLER__ */
#endif
