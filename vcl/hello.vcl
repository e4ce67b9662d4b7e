vcl 4.1;

# A program as a backend. `make demo` runs this file.

import tinykvm;

backend default none;

# Who may see /stats, which tells names of programs and how busy they are.
acl observers {
	"localhost";
}

sub vcl_init {
	# $PWD is varnishd's working directory: varnishd -n. Put the program there, or write where it is.
	if (!tinykvm.configure("hello", """{
		"filename": "$PWD/hello",
		"concurrency": 4
	}""")) {
		return (fail("tinykvm.configure() refused the program: see above, or varnishlog -g raw"));
	}
}

sub vcl_recv {
	if (req.url == "/stats") {
		# What a program of this machine asks for has the second field.
		if (client.ip !~ observers || req.http.X-TinyKVM-Depth) {
			return (synth(403));
		}
		return (synth(200));
	}
}

sub vcl_backend_fetch {
	# What the guest gets as url and as argument.
	set bereq.backend = tinykvm.program("hello", bereq.url, "from VCL");
}

sub vcl_backend_response {
	set beresp.ttl = 10s;
}

sub vcl_synth {
	if (req.url == "/stats" && resp.status == 200) {
		set resp.http.Content-Type = "application/json";
		set resp.body = tinykvm.stats("", 2);
		return (deliver);
	}
}
