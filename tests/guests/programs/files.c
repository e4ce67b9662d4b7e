/* Tells what it may do with files. main() writes "by main" to its last argument, if it has one. The URL of a
 * request is the path it reads, behind /write the one it writes, behind /link the one it asks readlink() for.
 * The answer is the content, or -errno; the path / is about the arguments, the environment and the working
 * directory. */
#include "kvm_api.h"
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

extern char **environ;
static int count;
static char **arguments;
static char text[8192];

static void on_get(const char *url, const char *arg)
{
	char content[1024] = {0};
	long result;
	(void)arg;

	if (strcmp(url, "/") == 0) {
		size_t at = 0;
		for (int i = 1; i < count; i++)
			at += (size_t)sprintf(text + at, "%s|", arguments[i]);
		for (char **next = environ; *next != NULL; next++)
			at += (size_t)sprintf(text + at, "%s|", *next);
		at += (size_t)sprintf(text + at, "%s", getcwd(content, sizeof(content)));
		backend_response(200, "text/plain", 10, text, at);
	}
	if (strncmp(url, "/link", 5) == 0) {
		result = readlink(url + 5, content, sizeof(content) - 1);
	} else if (strncmp(url, "/write", 6) == 0) {
		const int fd = open(url + 6, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		result = fd < 0 ? -1 : write(fd, "by request", 10);
	} else {
		const int fd = open(url, O_RDONLY);
		result = fd < 0 ? -1 : read(fd, content, sizeof(content) - 1);
	}
	const int len = result < 0 ? sprintf(text, "%d", -errno) : sprintf(text, "%s", content);
	backend_response(200, "text/plain", 10, text, (size_t)len);
}

int main(int argc, char **argv)
{
	count = argc;
	arguments = argv;
	printf("started with %d arguments\n", argc - 1);
	fflush(stdout);
	if (argc > 1) {
		const int fd = open(argv[argc - 1], O_WRONLY | O_CREAT | O_TRUNC, 0600);
		if (fd < 0 || write(fd, "by main", 7) != 7)
			return 1;
		close(fd);
	}
	set_backend_get(on_get);
	wait_for_requests();
}
