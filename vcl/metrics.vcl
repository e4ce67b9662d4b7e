vcl 4.1;

# GET /metrics for Prometheus. It has no backend and does not load alone: include it in a VCL, before
# its own vcl_recv and vcl_synth.

import tinykvm;

# Who may ask. Figures tell names of programs and how busy they are.
acl tinykvm_metrics {
	"localhost";
}

sub vcl_recv {
	if (req.url == "/metrics") {
		# What a program of this machine asks for has the second field.
		if (client.ip !~ tinykvm_metrics || req.http.X-TinyKVM-Depth) {
			return (synth(403));
		}
		return (synth(200));
	}
}

sub vcl_synth {
	if (req.url == "/metrics" && resp.status == 200) {
		set resp.http.Content-Type = "text/plain; version=0.0.4; charset=utf-8";
		set resp.http.Cache-Control = "no-store";
		set resp.body = tinykvm.metrics();
		return (deliver);
	}
}
