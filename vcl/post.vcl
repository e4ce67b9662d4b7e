vcl 4.1;

# Request bodies: passed on as they come, or kept to be sent again. The program is examples/hello,
# which answers a POST with its body:
#
#	gcc -static -O2 -I guest/c/include -o hello examples/hello/hello.c

import std;
import tinykvm;

backend default none;

sub vcl_init {
	# $PWD is varnishd's working directory: varnishd -n. Put the program there, or write where it is.
	tinykvm.configure("hello", """{ "filename": "$PWD/hello" }""");
}

sub vcl_recv {
	if (req.method == "POST" && req.url ~ "^/again") {
		# With a copy of the body a failed fetch can be tried again.
		if (!std.cache_req_body(1MB)) {
			return (synth(413));
		}
	}
	if (req.method != "GET" && req.method != "HEAD") {
		return (pass);
	}
}

sub vcl_backend_fetch {
	set bereq.backend = tinykvm.program("hello", bereq.url, "attempt " + bereq.retries);
}

sub vcl_backend_response {
	if (beresp.status == 500 && bereq.url ~ "^/again" && bereq.retries < 2) {
		return (retry);
	}
}
