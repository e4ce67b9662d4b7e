vcl 4.1;

# New builds of programs, posted by CI:
#
#	curl --fail-with-body --data-binary @build/hello \
#	    -H "X-LiveUpdate-Key: $KEY" http://varnish.example.com/live_update/hello
#
# The last part of the URL is the name of the program. The build may be an executable, or a tar
# archive of one for requests and one for storage.

import tinykvm;

backend default none;

# The machines that may post builds.
acl ci {
	"localhost";
}

sub vcl_init {
	# $PWD is varnishd's working directory: varnishd -n. Put the program there, or write where it is.
	# A build is kept in "filename", if varnishd's child may write there. Without a "key" a program has
	# no live updates.
	tinykvm.configure("hello", """{
		"filename": "$PWD/hello",
		"key": "change me"
	}""");
}

sub vcl_recv {
	if (req.url ~ "^/live_update/") {
		# What a program of this machine asks for has the second field.
		if (client.ip !~ ci || req.http.X-TinyKVM-Depth) {
			return (synth(403));
		}
		if (req.method != "POST" && req.method != "PUT") {
			return (synth(405));
		}
		# Another way would make a GET of it.
		return (pass);
	}
	# Programs do not see the key, whoever sends it.
	unset req.http.X-LiveUpdate-Key;
}

sub vcl_backend_fetch {
	if (bereq.url ~ "^/live_update/") {
		set bereq.backend = tinykvm.live_update(
		    regsub(bereq.url, "^/live_update/", ""),
		    bereq.http.X-LiveUpdate-Key,
		    max_size = 50MB);
		return (fetch);
	}
	set bereq.backend = tinykvm.program("hello", bereq.url);
}
