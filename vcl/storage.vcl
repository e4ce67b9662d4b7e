vcl 4.1;

# A program that remembers: examples/counter. In the repository:
#
#	gcc -static -O2 -I guest/c/include -o counter examples/counter/counter.c
#
# Where this file is installed, with counter.c beside it (PREFIX as in `make install`):
#
#	gcc -static -O2 -I /usr/local/include/tinykvm -o counter counter.c
#
# Its counters are in a VM of their own, which is never reset. They survive live updates by the
# program's own callbacks, and restarts of Varnish in a file beside the program.

import tinykvm;

backend default none;

# Who may see /stats.
acl observers {
	"localhost";
}

sub vcl_init {
	# $PWD is varnishd's working directory: varnishd -n. Put the program there, or write where it is.
	# Its state is in counter.state beside it. Where varnishd's child may not make files, make that one
	# for it: install -m 644 -o vcache /dev/null counter.state
	tinykvm.configure("counter", """{
		"filename": "$PWD/counter",
		"storage": true,
		"max_storage_time": 1
	}""");
}

sub vcl_recv {
	if (req.url == "/stats") {
		# What a program of this machine asks for has the second field.
		if (client.ip !~ observers || req.http.X-TinyKVM-Depth) {
			return (synth(403));
		}
		return (synth(200));
	}
	return (pass);
}

sub vcl_backend_fetch {
	set bereq.backend = tinykvm.program("counter", bereq.url);
}

sub vcl_synth {
	if (req.url == "/stats" && resp.status == 200) {
		set resp.http.Content-Type = "application/json";
		set resp.body = tinykvm.stats("counter", 2);
		return (deliver);
	}
}
