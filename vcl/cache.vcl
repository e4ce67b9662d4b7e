vcl 4.1;

# A program behind the cache: who decides about lifetimes, and what happens when it fails.

import tinykvm;

backend default none;

sub vcl_init {
	# $PWD is varnishd's working directory: varnishd -n. Put the program there, or write where it is.
	tinykvm.configure("hello", """{
		"filename": "$PWD/hello",
		"concurrency": 4,
		"max_request_time": 2.0
	}""");
	# Do not let the first visitor wait.
	tinykvm.start("hello");
}

sub vcl_backend_fetch {
	set bereq.backend = tinykvm.program("hello", bereq.url);
}

sub vcl_backend_response {
	if (beresp.status >= 500) {
		# Not for long, and not instead of an answer that is still good.
		if (bereq.is_bgfetch) {
			return (abandon);
		}
		set beresp.ttl = 1s;
		return (deliver);
	}
	# A lifetime that the program has set is in beresp.ttl. Whatever it is, an old answer is better
	# than a visitor who waits.
	set beresp.grace = 1h;
}
