# A program that remembers: examples/counter.
#
#   gcc -static -O2 -I guest/c/include -o counter examples/counter/counter.c
#
# Its counters are in a VM of their own, which is never reset. They survive live updates by the program's own
# callbacks, and restarts of Varnish in the file counter.state.
vcl 4.1;
import tinykvm;
backend default none;

sub vcl_init {
	tinykvm.configure("counter", """{
		"filename": "$PWD/counter",
		"storage": true,
		"max_storage_time": 1
	}""");
}

sub vcl_recv {
	if (req.url == "/stats") {
		return (synth(200));
	}
	return (pass);
}

sub vcl_backend_fetch {
	set bereq.backend = tinykvm.program("counter", bereq.url);
}

sub vcl_synth {
	set resp.http.content-type = "application/json";
	set resp.body = tinykvm.stats("counter", 2);
	return (deliver);
}
