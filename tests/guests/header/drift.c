/* kvm_api.h against tinykvm_abi.h: numbers, structures and the machine code of each call. Does not
 * compile when a number or a layout differs; prints what differs in the code when run (on Linux).
 * tests/header.rs puts the list of all numbers of tinykvm_abi.h before it (numbers.h). */
#include "kvm_api.h"
#include "tinykvm_abi.h"
#include "numbers.h"

#define SAME_SIZE(a, b) _Static_assert(sizeof(struct a) == sizeof(struct b), "size of " #a)
#define SAME_FIELD(a, x, b, y) \
	_Static_assert(offsetof(struct a, x) == offsetof(struct b, y) && \
		sizeof(((struct a *)0)->x) == sizeof(((struct b *)0)->y), #a "." #x)

SAME_SIZE(kvm_request_header, tinykvm_request_header);
SAME_FIELD(kvm_request_header, field, tinykvm_request_header, field);
SAME_FIELD(kvm_request_header, field_colon, tinykvm_request_header, field_colon);
SAME_FIELD(kvm_request_header, field_len, tinykvm_request_header, field_len);

SAME_SIZE(kvm_request, tinykvm_request);
#define REQUEST_FIELD(x) SAME_FIELD(kvm_request, x, tinykvm_request, x)
REQUEST_FIELD(method);
REQUEST_FIELD(url);
REQUEST_FIELD(arg);
REQUEST_FIELD(content_type);
REQUEST_FIELD(method_len);
REQUEST_FIELD(url_len);
REQUEST_FIELD(arg_len);
REQUEST_FIELD(content_type_len);
REQUEST_FIELD(content);
REQUEST_FIELD(content_len);
REQUEST_FIELD(headers);
REQUEST_FIELD(num_headers);
REQUEST_FIELD(info_flags);
REQUEST_FIELD(reserved0);
REQUEST_FIELD(prng);
REQUEST_FIELD(reserved1);

SAME_SIZE(ResponseHeader, tinykvm_response_header);
SAME_FIELD(ResponseHeader, field, tinykvm_response_header, field);
SAME_FIELD(ResponseHeader, field_len, tinykvm_response_header, field_len);

SAME_SIZE(BackendResponseExtra, tinykvm_response_extra);
#define EXTRA_FIELD(x) SAME_FIELD(BackendResponseExtra, x, tinykvm_response_extra, x)
EXTRA_FIELD(headers);
EXTRA_FIELD(num_headers);
EXTRA_FIELD(cached);
EXTRA_FIELD(ttl);
EXTRA_FIELD(grace);
EXTRA_FIELD(keep);
EXTRA_FIELD(reserved);

SAME_SIZE(virtbuffer, tinykvm_buffer);
SAME_FIELD(virtbuffer, data, tinykvm_buffer, data);
SAME_FIELD(virtbuffer, len, tinykvm_buffer, len);
SAME_SIZE(streaming_content, tinykvm_streaming_content);
SAME_FIELD(streaming_content, data, tinykvm_streaming_content, data);
SAME_FIELD(streaming_content, len, tinykvm_streaming_content, len);
SAME_SIZE(shared_memory_info, tinykvm_shared_memory);
SAME_FIELD(shared_memory_info, ptr, tinykvm_shared_memory, begin);
SAME_FIELD(shared_memory_info, end, tinykvm_shared_memory, end);

SAME_SIZE(meminfo, tinykvm_meminfo);
SAME_FIELD(meminfo, max_memory, tinykvm_meminfo, max_memory);
SAME_FIELD(meminfo, max_reqmem, tinykvm_meminfo, max_request_memory);
SAME_FIELD(meminfo, reqmem_upper, tinykvm_meminfo, request_memory_upper);
SAME_FIELD(meminfo, reqmem_current, tinykvm_meminfo, request_memory_current);

SAME_SIZE(curl_op, tinykvm_fetch);
SAME_FIELD(curl_op, status, tinykvm_fetch, status);
SAME_FIELD(curl_op, post_buflen, tinykvm_fetch, post_len);
SAME_FIELD(curl_op, post_buffer, tinykvm_fetch, post_data);
SAME_FIELD(curl_op, headers, tinykvm_fetch, headers);
SAME_FIELD(curl_op, headers_length, tinykvm_fetch, headers_len);
SAME_FIELD(curl_op, unused1, tinykvm_fetch, unused);
SAME_FIELD(curl_op, content, tinykvm_fetch, content);
SAME_FIELD(curl_op, content_length, tinykvm_fetch, content_len);
SAME_FIELD(curl_op, ctlen, tinykvm_fetch, content_type_len);
SAME_FIELD(curl_op, ctype, tinykvm_fetch, content_type);
SAME_SIZE(curl_fields, tinykvm_fetch_fields);
SAME_FIELD(curl_fields, ptr, tinykvm_fetch_fields, field);
SAME_FIELD(curl_fields, len, tinykvm_fetch_fields, len);
_Static_assert(CURL_FIELDS_COUNT == TINYKVM_FETCH_FIELDS, "CURL_FIELDS_COUNT");
SAME_SIZE(curl_options, tinykvm_fetch_options);
#define OPTION_FIELD(x) SAME_FIELD(curl_options, x, tinykvm_fetch_options, x)
OPTION_FIELD(interface);
OPTION_FIELD(unused);
OPTION_FIELD(follow_location);
OPTION_FIELD(dummy_fetch);
OPTION_FIELD(tcp_fast_open);
OPTION_FIELD(dont_verify_host);
SAME_FIELD(curl_options, unused_opt5, tinykvm_fetch_options, unused_option);

SAME_SIZE(kvm_socket_event, tinykvm_socket_event);
#define EVENT_FIELD(x) SAME_FIELD(kvm_socket_event, x, tinykvm_socket_event, x)
EVENT_FIELD(fd);
EVENT_FIELD(event);
EVENT_FIELD(remote);
EVENT_FIELD(arg);
EVENT_FIELD(data);
EVENT_FIELD(data_len);

_Static_assert(REQ == TINYKVM_WHERE_REQUEST && REQUEST == TINYKVM_WHERE_REQUEST &&
	BEREQ == TINYKVM_WHERE_REQUEST, "where: request");
_Static_assert(RESP == TINYKVM_WHERE_RESPONSE && RESPONSE == TINYKVM_WHERE_RESPONSE &&
	BERESP == TINYKVM_WHERE_RESPONSE, "where: response");

struct stub {
	const char *name;
	void (*code)(void);
	uint32_t number;
	bool returns;
	bool clears_rdx;
};

#define CALL(name, number) {#name, TRUST_ME(name), TINYKVM_CALL_##number, true, false}
#define LAST_CALL(name, number) {#name, TRUST_ME(name), TINYKVM_CALL_##number, false, false}

int main(void)
{
	const struct stub stubs[] = {
		CALL(register_func, REGISTER_FUNC),
		LAST_CALL(wait_for_requests, WAIT_FOR_REQUESTS),
		CALL(wait_for_requests_paused, WAIT_PAUSED),
		CALL(wait_for_socket_events_paused, WAIT_PAUSED),
		CALL(sys_set_cacheable, SET_CACHEABLE),
		CALL(sys_backend_response, BACKEND_RESPONSE),
		CALL(storage_return, STORAGE_RETURN),
		LAST_CALL(begin_streaming_response, STREAMING_RESPONSE),
		LAST_CALL(storage_noreturn, STORAGE_NORETURN),
		CALL(sys_http_append, HTTP_APPEND),
		CALL(sys_http_set, HTTP_SET),
		CALL(sys_http_find, HTTP_FIND),
		CALL(sys_http_method, HTTP_METHOD),
		CALL(sys_regex_compile, REGEX_COMPILE),
		CALL(sys_regex_free, REGEX_FREE),
		CALL(sys_regex_match, REGEX_MATCH),
		CALL(sys_regex_subst, REGEX_SUBST),
		CALL(sys_regex_copyto, REGEX_COPYTO),
		CALL(sys_sockets_write, SOCKETS_WRITE),
		{"shared_memory_area", TRUST_ME(shared_memory_area), TINYKVM_CALL_SHARED_MEMORY, true, true},
		CALL(sys_make_ephemeral, MAKE_EPHEMERAL),
		CALL(sys_is_storage, IS_STORAGE),
		CALL(sys_storage_allow, STORAGE_ALLOW),
		CALL(storage_callv, STORAGE_CALLV),
		CALL(sys_storage_task, STORAGE_TASK),
		CALL(stop_storage_task, STOP_STORAGE_TASK),
		CALL(multiprocess, MULTIPROCESS),
		CALL(multiprocess_array, MULTIPROCESS_ARRAY),
		CALL(multiprocess_clone, MULTIPROCESS_CLONE),
		CALL(multiprocess_wait, MULTIPROCESS_WAIT),
		CALL(get_meminfo, MEMINFO),
		CALL(sys_fetch, FETCH),
		CALL(sys_request, REQUEST),
		CALL(sys_log, LOG),
		CALL(sys_breakpoint, BREAKPOINT),
		CALL(sys_is_debug, IS_DEBUG),
	};
	int wrong = 0;
	for (size_t i = 0; i < sizeof(stubs) / sizeof(stubs[0]); i++) {
		uint8_t expected[16];
		size_t len = 0;
		if (stubs[i].clears_rdx) {
			memcpy(expected, "\x31\xd2", 2); /* xor %edx, %edx */
			len = 2;
		}
		expected[len++] = 0xb8; /* mov $number, %eax */
		memcpy(expected + len, &stubs[i].number, 4);
		memcpy(expected + len + 4, "\xe7\x00", 2); /* out %eax, $0 */
		memcpy(expected + len + 6, stubs[i].returns ? "\xc3" : "\x0f\x0b", stubs[i].returns ? 1 : 2);
		len += stubs[i].returns ? 7 : 8;
		if (memcmp((const void *)(uintptr_t)stubs[i].code, expected, len) != 0) {
			printf("%s: wrong code\n", stubs[i].name);
			wrong++;
		}
	}
	printf("%zu calls, %d wrong\n", sizeof(stubs) / sizeof(stubs[0]), wrong);
	return wrong != 0;
}
