# Sourced by shell blocks of .vtc files that look at varnishd's cache child from outside. `n` is the
# name of the varnishd (${v1_name}), `url` where it listens, if it does.
url=${url:-}

admin() { varnishadm -t 60 -n "$n" "$@"; }

child() { admin pid | awk '$1 == "Worker:" { print $2 }'; }

# What the child holds of the module's: VMs, their virtual CPUs, images in memory, threads.
holds() {
	child=$(child)
	# Descriptors of connections may go while they are listed.
	links=$(ls -l "/proc/$child/fd" 2>/dev/null) || true
	count() { echo "$links" | grep -c -- "$1"; }
	echo "$(count kvm-vm) vms, $(count kvm-vcpu) vcpus, $(count memfd:) images," \
		"$(cat /proc/"$child"/task/*/comm 2>/dev/null | grep -c tinykvm) threads"
}

# Ends happen shortly after they are announced, when varnishd has something to do: waits until the
# child holds what PATTERN says. A thread that waits for connections may hold a VCL until one comes.
holds_in_the_end() { # PATTERN
	for _ in $(seq 200); do
		now=$(holds)
		case $now in $1) return 0 ;; esac
		admin vcl.list >/dev/null
		[ -z "$url" ] || curl -s -o /dev/null --max-time 60 "$url" || true
		sleep 0.05
	done
	echo "expected: $1; holds: $now"
	return 1
}

# How often a line of the module is in the log so far.
logged() {
	varnishlog -n "$n" -d -g raw -i VCL_Log,Error | grep -c -- "$1"
}

# Asks URL again and again until stop_asking, several at a time; each answer's status is a line in FILE.
ask_all_the_time() { # FILE URL
	for _ in 1 2 3; do
		(
			while [ ! -e "$1.stop" ]; do
				curl -s -o /dev/null --max-time 60 -w '%{http_code}\n' "$2" >>"$1" || true
			done
			echo done >>"$1.stopped"
		) &
	done
}

stop_asking() { # FILE
	touch "$1.stop"
	wait
	[ "$(wc -l <"$1.stopped")" = 3 ]
}
