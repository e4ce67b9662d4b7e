/* Answers as the URL asks, for the tests of the VMOD:
 *
 *   /echo       the request body, with its Content-Type
 *   /size/N     N bytes of a pattern
 *   /headers    the fields of the request
 *   other       "METHOD URL ARGUMENT LENGTH-OF-BODY"
 *
 * Parameters, any number: status=N, h=Name:_value (_ is a space), ttl=TTL,GRACE,KEEP, uncacheable,
 * type=T ("type=" for none).
 */
#include "kvm_api.h"

static char text[1 << 16];

static void on_request(const struct kvm_request *request)
{
	const char *type = "text/plain";
	const void *body = text;
	size_t len;
	int status = 200;
	char url[8192];

	snprintf(url, sizeof(url), "%s", request->url);
	char *parameters = strchr(url, '?');
	if (parameters != NULL)
		*parameters++ = 0;
	for (char *p = parameters != NULL ? strtok(parameters, "&") : NULL; p != NULL;
		p = strtok(NULL, "&")) {
		double ttl, grace, keep;
		if (strncmp(p, "status=", 7) == 0) {
			status = atoi(p + 7);
		} else if (strncmp(p, "type=", 5) == 0) {
			type = p + 5;
		} else if (strcmp(p, "uncacheable") == 0) {
			set_cacheable(false, 0, 0, 0);
		} else if (sscanf(p, "ttl=%lf,%lf,%lf", &ttl, &grace, &keep) == 3) {
			set_cacheable(true, (float)ttl, (float)grace, (float)keep);
		} else if (strncmp(p, "h=", 2) == 0) {
			for (char *at = p; *at != 0; at++)
				if (*at == '_')
					*at = ' ';
			http_append_str(BERESP, p + 2);
		}
	}

	if (strcmp(url, "/echo") == 0) {
		type = request->content_type;
		body = request->content;
		len = request->content_len;
	} else if (strncmp(url, "/size/", 6) == 0) {
		len = strtoul(url + 6, NULL, 10);
		char *pattern = malloc(len + 1);
		for (size_t i = 0; i < len; i++)
			pattern[i] = (char)('a' + i % 26);
		body = pattern;
	} else if (strcmp(url, "/headers") == 0) {
		len = 0;
		for (unsigned i = 0; i < request->num_headers && len < sizeof(text) / 2; i++)
			len += (size_t)snprintf(text + len, sizeof(text) / 2, "%s\n", request->headers[i].field);
	} else {
		len = (size_t)snprintf(text, sizeof(text), "%s %s %s %zu", request->method, request->url,
			request->arg, request->content_len);
	}
	backend_response(status, type, strlen(type), body, len);
}

int main(void)
{
	set_backend_request(on_request);
	wait_for_requests();
}
