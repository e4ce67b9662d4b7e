/* What ordinary programs ask of their C library, and the library of the kernel. One line per
 * subject, the same natively and as a guest. argv[1] is a folder with the file `text` (ten digits)
 * and nothing else. No line asks for two things at once: C may ask in any order. */
#define _GNU_SOURCE
#include "kvm_api.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <locale.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char text[16384];
static size_t used;
static char folder[PATH_MAX];
static int kept = -1;

__attribute__((format(printf, 1, 2)))
static void say(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	used += (size_t)vsnprintf(text + used, sizeof(text) - used, format, args);
	va_end(args);
}

static const char *in_folder(const char *name)
{
	static char path[PATH_MAX + 64];
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

static void files(void)
{
	char buffer[64] = "";
	FILE *file = fopen(in_folder("text"), "r");
	say("fopen=%d\n", file != NULL);
	if (file != NULL) {
		say("fgets=%d", fgets(buffer, 5, file) != NULL);
		say(" %s", buffer);
		say(" fseek=%d", fseek(file, -2, SEEK_END));
		say(" fread=%zu", fread(buffer, 1, 10, file));
		say(" %.2s eof=%d\n", buffer, feof(file) != 0);
		fclose(file);
	}
	struct stat status;
	say("stat=%d", stat(in_folder("text"), &status));
	say(" size=%ld regular=%d\n", (long)status.st_size, S_ISREG(status.st_mode));
	say("missing=%d", open(in_folder("missing"), O_RDONLY));
	say(" %s\n", strerror(errno));
	char resolved[PATH_MAX];
	say("realpath=%d\n", realpath(in_folder(".//."), resolved) != NULL && strcmp(resolved, folder) == 0);
	DIR *directory = opendir(folder);
	int names = 0, found = 0;
	for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL; names++)
		found += strcmp(entry->d_name, "text") == 0;
	say("readdir=%d text=%d\n", names, found);
	if (directory != NULL)
		closedir(directory);
	say("chdir=%d", chdir(folder));
	say(" getcwd=%d", getcwd(resolved, sizeof(resolved)) != NULL && strcmp(resolved, folder) == 0);
	say(" relative=%d access=%d\n", open("text", O_RDONLY) > 2, access("text", R_OK));
	if (chdir("/") != 0)
		say("cannot go back\n");
	say("kept=%zd", pread(kept, buffer, 4, 3));
	say(" %.4s at=%ld", buffer, (long)lseek(kept, 0, SEEK_CUR));
	say(" read=%zd", read(kept, buffer, 3));
	say(" at=%ld\n", (long)lseek(kept, 0, SEEK_CUR));
	char *map = mmap(NULL, 10, PROT_READ, MAP_PRIVATE, kept, 0);
	say("mmap=%d %.3s\n", map != MAP_FAILED, map != MAP_FAILED ? map + 7 : "");
	if (map != MAP_FAILED)
		munmap(map, 10);
}

static void memory(void)
{
	char *large = malloc(32 << 20);
	say("malloc=%d", large != NULL);
	if (large != NULL) {
		memset(large, 7, 32 << 20);
		large = realloc(large, 48 << 20);
		say(" realloc=%d %d", large != NULL, large != NULL && large[(32 << 20) - 1] == 7);
		free(large);
	}
	void *aligned = NULL;
	say(" posix_memalign=%d\n", posix_memalign(&aligned, 65536, 100000));
	free(aligned);
	unsigned char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	page[0] = page[4096] = 1;
	say("mprotect=%d", mprotect(page, 4096, PROT_READ));
	say(" madvise=%d", madvise(page + 4096, 4096, MADV_DONTNEED));
	say(" %d %d", page[0], page[4096]);
	say(" munmap=%d\n", munmap(page, 8192));
	errno = 0;
	say("huge=%d", malloc((size_t)1 << 46) == NULL);
	say(" %d\n", errno == ENOMEM);
}

static void descriptors(void)
{
	int ends[2] = {-1, -1};
	char buffer[16] = "";
	say("pipe=%d", pipe(ends));
	struct iovec parts[2] = {{"ab", 2}, {"cde", 3}};
	say(" writev=%zd", writev(ends[1], parts, 2));
	say(" read=%zd", read(ends[0], buffer, sizeof(buffer)));
	say(" %s\n", buffer);
	struct pollfd polled[2] = {{ends[0], POLLIN, 0}, {ends[1], POLLOUT, 0}};
	say("poll=%d", poll(polled, 2, 10));
	say(" %d %d", polled[0].revents, polled[1].revents);
	fd_set set;
	FD_ZERO(&set);
	FD_SET(ends[0], &set);
	struct timeval none = {0, 1000};
	say(" select=%d\n", select(ends[0] + 1, &set, NULL, NULL, &none));
	const int event = eventfd(3, EFD_NONBLOCK), epoll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event wanted = {.events = EPOLLIN, .data.u64 = 99}, got = {0};
	say("epoll_ctl=%d", epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wanted));
	say(" epoll_wait=%d", epoll_wait(epoll, &got, 1, 1000));
	eventfd_t value = 0;
	say(" %d", (int)got.data.u64);
	say(" eventfd=%d", eventfd_read(event, &value));
	say(" %d", (int)value);
	say(" again=%d\n", eventfd_read(event, &value));
	const int twin = fcntl(ends[0], F_DUPFD_CLOEXEC, 100);
	say("dup=%d cloexec=%d", twin >= 100, fcntl(twin, F_GETFD));
	say(" close=%d", close(ends[0]));
	say(" %d", close(twin));
	say(" %d", close(twin));
	signal(SIGPIPE, SIG_IGN);
	say(" write=%zd", write(ends[1], "x", 1));
	say(" %s\n", strerror(errno));
	close(ends[1]);
	close(event);
	close(epoll);
}

static void process(void)
{
	struct utsname name;
	say("uname=%d", uname(&name));
	say(" %s %s\n", name.sysname, name.machine);
	struct rlimit limit;
	say("stack=%d", getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur >= 1 << 20);
	say(" nofile=%d\n", getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur >= 256);
	sigset_t mask, pending;
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	say("sigprocmask=%d", sigprocmask(SIG_BLOCK, &mask, NULL));
	say(" raise=%d", raise(SIGUSR1));
	say(" sigpending=%d", sigpending(&pending));
	say(" %d", sigismember(&pending, SIGUSR1));
	say(" sigwait=%d", sigwaitinfo(&mask, NULL) == SIGUSR1);
	say(" unblock=%d\n", sigprocmask(SIG_UNBLOCK, &mask, NULL));
	say("wait=%d", (int)wait(NULL));
	say(" %s\n", strerror(errno));
	say("same=%d cpu=%d yield=%d\n", getpid() == getpid(), sched_getcpu() >= 0, sched_yield());
	unsigned char one[3000] = {0}, two[3000] = {0};
	say("getrandom=%zd", getrandom(one, sizeof(one), 0));
	say(" %zd", getrandom(two, sizeof(two), 0));
	say(" %d\n", memcmp(one, two, sizeof(one)) != 0);
}

static void times(void)
{
	const struct timespec pause = {0, 3000000};
	struct timespec before, after;
	clock_gettime(CLOCK_MONOTONIC, &before);
	say("nanosleep=%d", nanosleep(&pause, NULL));
	clock_gettime(CLOCK_MONOTONIC, &after);
	say(" %d", (after.tv_sec - before.tv_sec) * 1000000000LL + after.tv_nsec - before.tv_nsec >= 3000000);
	after.tv_nsec = after.tv_nsec / 2;
	say(" absolute=%d", clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &after, NULL));
	const time_t now = time(NULL);
	struct tm *parts = gmtime(&now);
	say(" year=%d cpu=%d\n", parts->tm_year > 120, clock() != (clock_t)-1);
	say("locale=%s", setlocale(LC_ALL, "C"));
	say(" %.2f\n", strtod("3.25", NULL));
}

static void all(void)
{
	used = 0;
	files();
	memory();
	descriptors();
	process();
	times();
}

static void on_get(const char *url, const char *arg)
{
	(void)url;
	(void)arg;
	all();
	backend_response(200, "text/plain", 10, text, used);
}

int main(int argc, char **argv)
{
	if (argc > 1)
		snprintf(folder, sizeof(folder), "%s", argv[1]);
	kept = open(in_folder("text"), O_RDONLY);
	if (IS_LINUX_MAIN()) {
		alarm(30);
		all();
		fputs(text, stdout);
		return 0;
	}
	set_backend_get(on_get);
	wait_for_requests();
}
