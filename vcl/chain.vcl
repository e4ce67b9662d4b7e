vcl 4.1;

# Programs one after the other, a program that VCL asks, and a program that makes error pages.

import tinykvm;

backend default none;

sub vcl_init {
	# $PWD is varnishd's working directory: varnishd -n. Put the program there, or write where it is.
	tinykvm.configure("hello", """{ "filename": "$PWD/hello", "concurrency": 4 }""");
}

sub vcl_backend_fetch {
	if (bereq.url ~ "^/error") {
		return (error(500));
	}
	# What the first program answers is the request body of the second one. An answer of the first
	# whose status is 400 or more goes to the client as it is.
	tinykvm.chain("hello", bereq.url, "first");
	set bereq.backend = tinykvm.program("hello", bereq.url, "second");
}

sub vcl_backend_error {
	# With the status that is there already, and the body and type of the program.
	tinykvm.synth(beresp.status, "hello", "/error-page", beresp.reason);
	return (deliver);
}

sub vcl_deliver {
	# A text from a program, in one line as header fields are; "none" if it does not answer.
	set resp.http.X-Note = regsuball(tinykvm.to_string("hello", "/note", on_error="none"), "\s+", " ");
}
