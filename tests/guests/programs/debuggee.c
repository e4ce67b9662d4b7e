/* For a debugger: /break calls sys_breakpoint(), /crash writes where nothing is, /spin calls
 * sys_breakpoint() and spins until somebody changes a variable, any other URL just answers.
 */
#include "kvm_api.h"

struct order {
	int number;
	const char *article;
};

static volatile int sum = 40;
static volatile int before_main = 7;
static volatile int spinning = 1;

static __attribute__((noinline)) int add(const struct order *order, int more)
{
	int result = order->number + more;
	sum += result;
	return result;
}

static __attribute__((noinline)) void crash(volatile int *where)
{
	*where = 1;
}

static void on_get(const char *url, const char *arg)
{
	struct order order = { 2, "bread" };
	(void)arg;
	if (strcmp(url, "/break") == 0)
		sys_breakpoint();
	if (strcmp(url, "/spin") == 0) {
		sys_breakpoint();
		while (spinning)
			;
	}
	if (strcmp(url, "/crash") == 0)
		crash((volatile int *)0x10);
	int result = add(&order, 3);
	char text[100];
	int len = snprintf(text, sizeof(text), "%d %d %d", result, sum, before_main);
	backend_response(200, "text/plain", 10, text, (size_t)len);
}

int main(void)
{
	set_backend_get(on_get);
	wait_for_requests();
}
