/* A program with storage. GET /<what>?<text> does one thing and answers with what came of it; the
 * state is in the storage VM, where this same main() runs too. */
#include "kvm_api.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- In the storage VM ------------------------------------------------------------------------ */

static long counter;
static long cleaned_up;
static char kept[64][2][256];
static long ticks;
static char *large;
static size_t large_len;

static void add(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)size;
	counter += n > 0 ? atol(buffers[0].data) : 1;
	storage_return(&counter, sizeof(counter));
	cleaned_up++;
}

static void get_cleaned_up(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)buffers, (void)size;
	storage_noreturn(&cleaned_up, sizeof(cleaned_up));
}

static void put(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)size;
	for (size_t i = 0; n == 2 && i < 64; i++) {
		if (kept[i][0][0] && strncmp(kept[i][0], buffers[0].data, buffers[0].len))
			continue;
		snprintf(kept[i][0], 256, "%.*s", (int)buffers[0].len, (char *)buffers[0].data);
		snprintf(kept[i][1], 256, "%.*s", (int)buffers[1].len, (char *)buffers[1].data);
		break;
	}
	storage_return_nothing();
}

static void look_up(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)size;
	for (size_t i = 0; n == 1 && i < 64; i++)
		if (strlen(kept[i][0]) == buffers[0].len
			&& memcmp(kept[i][0], buffers[0].data, buffers[0].len) == 0)
			storage_noreturn(kept[i][1], strlen(kept[i][1]));
	storage_return_nothing();
}

static void crash(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)buffers, (void)size;
	counter = 1000000;
	*(volatile int *)16 = 1;
}

static void spin(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)buffers, (void)size;
	for (;;)
		__asm__ volatile("");
}

static void returns(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)buffers, (void)size;
}

static void spins_afterwards(size_t n, struct virtbuffer *buffers, size_t size)
{
	storage_return_nothing();
	spin(n, buffers, size);
}

static void returns_nonsense(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)buffers, (void)size;
	storage_return((void *)0x7fffffffffff, 8);
}

static void returns_too_much(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)buffers, (void)size;
	storage_return(&counter, (size_t)-1);
}

static char much[(16 << 20) + 1];

static void returns_much(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)buffers, (void)size;
	storage_return(much, sizeof(much));
	cleaned_up++;
}

static void says_http(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)buffers, (void)size;
	http_set_str(RESP, "X-A: b");
	storage_return_nothing();
}

static void calls_storage(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)buffers, (void)size;
	long result = storage_call(add, "1", 2, NULL, 0);
	storage_noreturn(&result, sizeof(result));
}

static void prints(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)size;
	printf("storage says %s\n", (char *)buffers[0].data);
	fflush(stdout);
	storage_return_nothing();
}

static void floods(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)buffers, (void)size;
	for (int i = 0; i < 1000; i++)
		sys_log("flood", 5);
	storage_return_nothing();
}

/* Sums up and sends back what it is given, so that both ways are checked. */
static void reflect(size_t n, struct virtbuffer *buffers, size_t size)
{
	size_t total = 0;
	for (size_t i = 0; i < n; i++)
		total += buffers[i].len;
	if (total > large_len) {
		large = realloc(large, total);
		large_len = total;
	}
	size_t at = 0;
	for (size_t i = 0; i < n; i++) {
		memcpy(large + at, buffers[i].data, buffers[i].len);
		at += buffers[i].len;
	}
	(void)size;
	storage_return(large, total);
}

static void tick(void *data, size_t len)
{
	if (len == sizeof(long))
		ticks += *(long *)data;
}

static void task_crashes(void *data, size_t len)
{
	crash(len, data, 0);
}

static void get_ticks(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)buffers, (void)size;
	storage_return(&ticks, sizeof(ticks));
}

static void append_state(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)size;
	int fd = open(getenv("KVM_STATE"), O_WRONLY | O_CREAT | O_APPEND, 0600);
	long written = fd < 0 ? -errno : write(fd, buffers[0].data, buffers[0].len - 1);
	if (fd >= 0)
		close(fd);
	storage_return(&written, sizeof(written));
}

/* Calls of the storage interface with what programs get wrong, and with anything. */
static uint64_t wild(uint64_t *state)
{
	static const uint64_t odd[] = {0, 1, 8, 16, 63, 64, 65, 4095, 4096, 1 << 20, 2 << 20,
		(2 << 20) + 1, 16 << 20, (16 << 20) + 1, (uint64_t)1 << 32, (uint64_t)1 << 47,
		(uint64_t)-1, (uint64_t)-8, (uint64_t)-4096, 0x10000, 0x1e000, 0x400000};
	static uint64_t room[512];
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	const uint64_t chosen = *state >> 33;
	switch (chosen % 5) {
	case 0:
		return *state;
	case 1:
		return (uint64_t)(uintptr_t)room + chosen % sizeof(room);
	case 2:
		return (uint64_t)(uintptr_t)look_up;
	default:
		return odd[chosen / 5 % (sizeof(odd) / sizeof(*odd))];
	}
}

static void call_wildly(uint64_t seed, long calls)
{
	static const uint64_t numbers[] = {KVM_CALL_IS_STORAGE, KVM_CALL_STORAGE_ALLOW,
		KVM_CALL_STORAGE_CALLV, KVM_CALL_STORAGE_TASK, KVM_CALL_STOP_STORAGE_TASK,
		KVM_CALL_STORAGE_RETURN};
	while (calls-- > 0) {
		uint64_t rax = numbers[(seed >> 40) % 6];
		register uint64_t rdi __asm__("rdi") = wild(&seed);
		register uint64_t rsi __asm__("rsi") = wild(&seed);
		register uint64_t rdx __asm__("rdx") = wild(&seed);
		register uint64_t rcx __asm__("rcx") = wild(&seed);
		register uint64_t r8 __asm__("r8") = wild(&seed);
		__asm__ volatile("out %%eax, $0"
			: "+a"(rax), "+r"(rdi), "+r"(rsi), "+r"(rdx), "+r"(rcx), "+r"(r8)
			:
			: "memory");
	}
}

static void goes_wild(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)size;
	call_wildly(strtoul(buffers[0].data, NULL, 10), 20);
	storage_return(&counter, sizeof(counter));
}

/* MiB that it gets. */
static void eat(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)buffers, (void)size;
	long got = 0;
	for (char *more; (more = malloc(1 << 20)) != NULL; got++)
		memset(more, 1, 1 << 20);
	storage_return(&got, sizeof(got));
}

static void forbidden(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)buffers, (void)size;
	storage_return_nothing();
}

static void schedules(size_t n, struct virtbuffer *buffers, size_t size)
{
	(void)n, (void)buffers, (void)size;
	const long one = 1;
	long result = storage_task(tick, &one, sizeof(one));
	storage_return(&result, sizeof(result));
}

/* ---- State for the next instance -------------------------------------------------------------- */

static int is_set(const char *name, const char *value)
{
	const char *set = getenv(name);
	return set != NULL && strcmp(set, value) == 0;
}

static void save(void)
{
	if (is_set("SAVE", "crash"))
		crash(0, NULL, 0);
	if (is_set("SAVE", "spin"))
		spin(0, NULL, 0);
	if (is_set("SAVE", "return"))
		return;
	if (is_set("SAVE", "wild"))
		storage_return((void *)16, 8);
	if (is_set("SAVE", "huge"))
		storage_return(&counter, (size_t)1 << 60);
	if (is_set("SAVE", "much")) {
		memset(much, 7, sizeof(much));
		storage_noreturn(much, sizeof(much));
	}
	storage_return(&counter, sizeof(counter));
	cleaned_up++;
}

static void restore(size_t len)
{
	long value = -1;
	if (is_set("RESTORE", "crash"))
		crash(0, NULL, 0);
	if (is_set("RESTORE", "return"))
		return;
	if (is_set("RESTORE", "wild"))
		storage_return((void *)16, len);
	if (is_set("RESTORE", "code"))
		storage_return((void *)restore, len);
	if (is_set("RESTORE", "much")) {
		storage_return(much, (size_t)-1);
		for (size_t i = 0; i < len; i++)
			counter += much[i] == 7;
		return;
	}
	storage_return(&value, len < sizeof(value) ? len : sizeof(value));
	if (is_set("RESTORE", "spin"))
		spin(0, NULL, 0);
	counter = value;
}

/* ---- In request VMs --------------------------------------------------------------------------- */

static char body[4096];
static char *blob;

static void answer(const char *text)
{
	backend_response_str(200, "text/plain", text);
}

static void answer_number(long number)
{
	snprintf(body, sizeof(body), "%ld", number);
	answer(body);
}

/* The number that a storage function answers, or "failed" and what the call said. */
static void ask(storage_func f, const char *text)
{
	long value = -1;
	long result = storage_call(f, text, strlen(text) + 1, &value, sizeof(value));
	if (result == sizeof(value))
		answer_number(value);
	snprintf(body, sizeof(body), "result %ld", result);
	answer(body);
}

static void get(const char *url, const char *arg)
{
	(void)arg;
	char what[64] = "";
	const char *text = strchr(url, '?');
	text = text != NULL ? text + 1 : "";
	sscanf(url, "/%63[^?]", what);
#define IS(name) (strcmp(what, name) == 0)
	if (IS("add"))
		ask(add, *text ? text : "1");
	if (IS("cleaned-up"))
		ask(get_cleaned_up, "");
	if (IS("crash"))
		ask(crash, "");
	if (IS("spin"))
		ask(spin, "");
	if (IS("returns"))
		ask(returns, "");
	if (IS("spins-afterwards"))
		ask(spins_afterwards, "");
	if (IS("returns-nonsense"))
		ask(returns_nonsense, "");
	if (IS("returns-too-much"))
		ask(returns_too_much, "");
	if (IS("returns-much"))
		answer_number(storage_call(returns_much, "", 0, much, sizeof(much)));
	if (IS("http"))
		ask(says_http, "");
	if (IS("calls-storage"))
		ask(calls_storage, "");
	if (IS("print"))
		ask(prints, text);
	if (IS("flood"))
		ask(floods, "");
	if (IS("ticks"))
		ask(get_ticks, "");
	if (IS("goes-wild"))
		ask(goes_wild, text);
	if (IS("wild")) {
		call_wildly(strtoul(text, NULL, 10), 20);
		answer("");
	}
	if (IS("eat"))
		ask(eat, "");
	if (IS("state"))
		ask(append_state, text);
	if (IS("forbidden"))
		ask(forbidden, "");
	if (IS("schedules"))
		ask(schedules, "");
	if (IS("put")) {
		const char *value = strchr(text, '=');
		if (value == NULL)
			value = text;
		const struct virtbuffer both[] = {
			{(void *)text, value - text}, {(void *)(value + 1), strlen(value + 1)}};
		answer_number(storage_callv(put, 2, both, NULL, 0));
	}
	if (IS("get")) {
		long len = storage_call(look_up, text, strlen(text), body, sizeof(body) - 1);
		if (len <= 0)
			backend_response_str(404, "text/plain", "");
		body[len] = 0;
		answer(body);
	}
	if (IS("reflect")) {
		/* 64 buffers, and what comes back cut to what fits. */
		size_t len = strtoul(text, NULL, 10), part = len / 64;
		blob = malloc(2 * len + 1);
		for (size_t i = 0; i < len; i++)
			blob[i] = (char)(i * 2654435761u >> 24);
		struct virtbuffer all[64];
		for (size_t i = 0; i < 64; i++)
			all[i] = (struct virtbuffer){blob + i * part, i < 63 ? part : len - 63 * part};
		long result = storage_callv(reflect, 64, all, blob + len, len);
		snprintf(body, sizeof(body), "%ld %s", result,
			result == (long)len && memcmp(blob, blob + len, len) == 0 ? "same" : "different");
		answer(body);
	}
	if (IS("length")) {
		/* Only the length of the result is wanted. */
		answer_number(storage_call(reflect, text, strlen(text), NULL, 0));
	}
	if (IS("cut")) {
		long len = storage_call(reflect, text, strlen(text), body, 3);
		body[3] = 0;
		snprintf(body + 4, 64, "%ld %s", len, body);
		answer(body + 4);
	}
	if (IS("many-buffers")) {
		struct virtbuffer buffers[65] = {{0}};
		answer_number(storage_callv(add, 65, buffers, NULL, 0));
	}
	if (IS("wrapping-result"))
		answer_number(storage_call(add, "1", 2, body, (size_t)-1));
	if (IS("wild-function"))
		answer_number(storage_call((storage_func)(uintptr_t)strtoul(text, NULL, 16), "", 0, NULL, 0));
	if (IS("wild-buffers"))
		answer_number(storage_callv(add, 3, (void *)(uintptr_t)strtoul(text, NULL, 16), NULL, 0));
	if (IS("wild-data"))
		answer_number(storage_call(add, (void *)(uintptr_t)strtoul(text, NULL, 16), 4096, NULL, 0));
	if (IS("wild-length"))
		answer_number(storage_call(add, "1", (size_t)-1, NULL, 0));
	if (IS("wild-result"))
		answer_number(storage_call(add, "1", 2, (void *)(uintptr_t)strtoul(text, NULL, 16), 8));
	if (IS("wild-task"))
		answer_number(storage_task((storage_task_func)(uintptr_t)16, NULL, 0));
	if (IS("wild-task-data"))
		answer_number(storage_task(tick, (void *)(uintptr_t)16, 8));
	if (IS("long-task-data"))
		answer_number(storage_task(tick, "", (2 << 20) + 1));
	if (IS("task")) {
		long amount = atol(text);
		answer_number(storage_task(tick, &amount, sizeof(amount)));
	}
	if (IS("task-crash"))
		answer_number(storage_task(task_crashes, NULL, 0));
	if (IS("timer")) {
		const long one = 1;
		float start = 0, period = 0;
		sscanf(text, "%f,%f", &start, &period);
		answer_number(schedule_storage_task(tick, &one, sizeof(one), start, period));
	}
	if (IS("endless-timer"))
		answer_number(sys_storage_task(tick, NULL, 0, (uint64_t)-1, (uint64_t)-1));
	if (IS("stop"))
		answer_number(stop_storage_task(atol(text)));
	if (IS("is-storage"))
		answer_number(sys_is_storage());
	if (IS("allow"))
		answer_number(STORAGE_ALLOW(add));
	if (IS("return"))
		storage_return_nothing();
	if (IS("read-state")) {
		int fd = open("state", O_RDONLY);
		long len = fd < 0 ? -errno : read(fd, body, sizeof(body) - 1);
		body[len < 0 ? 0 : len] = 0;
		answer(body);
	}
	if (IS("write-state")) {
		int fd = open("state", O_WRONLY | O_APPEND | O_CREAT, 0600);
		answer_number(fd < 0 ? -errno : fd);
	}
	backend_response_str(404, "text/plain", "no such thing");
}

int main(int argc, char **argv)
{
	(void)argc, (void)argv;
	if (IS_STORAGE() && !sys_is_storage())
		return 1;
	if (IS_STORAGE() && getenv("OPEN") == NULL) {
		const storage_func allowed[] = {add, get_cleaned_up, put, look_up, crash, spin, returns,
			spins_afterwards, returns_nonsense, returns_too_much, returns_much, says_http, calls_storage, prints,
			floods, reflect, get_ticks, append_state, schedules, eat, goes_wild};
		for (size_t i = 0; i < sizeof(allowed) / sizeof(*allowed); i++)
			STORAGE_ALLOW(allowed[i]);
		STORAGE_ALLOW(tick);
		STORAGE_ALLOW(task_crashes);
	}
	if (IS_STORAGE() && getenv("TICKS") != NULL) {
		const long one = 1;
		schedule_storage_task(tick, &one, sizeof(one), 0.001f, 0.001f);
	}
	if (!IS_STORAGE() && getenv("EARLY") != NULL)
		storage_call(add, "100", 4, NULL, 0);
	/* Callbacks may be registered where they are not called: there is one table for both VMs. */
	if (!is_set("GET_IN", "storage") || IS_STORAGE())
		set_backend_get(get);
	if (!is_set("STATE_IN", "request") || !IS_STORAGE()) {
		set_on_live_update(save);
		set_on_live_restore(restore);
	}
	wait_for_requests();
}
