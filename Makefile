# The commands of the project. Each installs what it needs first (scripts/setup.sh: nothing to do
# takes a moment), so that a fresh Debian 12 machine with a Rust toolchain needs no other step.
.PHONY: help setup build man install uninstall demo test test-all test-hw check soak bench clean

help:
	@echo 'make demo      build, start varnishd with an example guest, ask it over HTTP'
	@echo 'make test      all tests, on this machine'"'"'s /dev/kvm'
	@echo 'make test-hw   the KVM and .vtc tests in a QEMU machine with AMD SVM'
	@echo 'make build     target/release/libvmod_tinykvm.so, and its manual page'
	@echo 'make install   module, manual page, header and examples (DESTDIR, PREFIX, VMODDIR); make uninstall'
	@echo '               VARNISH=7.7 (or 9.0: Vinyl Cache): make build and make test for that version,'
	@echo '               in a Debian of its own under target/roots; make test-all: for all of them'
	@echo 'make check     format, lints, licences'
	@echo 'make soak      1,000 VCLs come and go under load: nothing may grow (half an hour)'
	@echo 'make bench     figures against varnishd without a backend, and against nginx'
	@echo 'make setup     install what the others need; make clean: remove target/'

setup:
	@scripts/setup.sh build

# Empty for the installed Varnish.
with := $(if $(VARNISH),scripts/with-varnish.sh $(VARNISH))

build: setup
	@$(with) scripts/build.sh

# The manual page comes with the module.
man: build

# Not built here: installing is done by root, who may have no Rust toolchain.
install uninstall:
	@scripts/install.sh $@

demo:
	@scripts/demo.sh

# Only the .vtc files have to do with the version of Varnish.
test: setup
	@$(with) scripts/test.sh $(if $(VARNISH),--test vtc)

test-all: test
	@$(MAKE) --no-print-directory test VARNISH=7.7
	@$(MAKE) --no-print-directory test VARNISH=9.0

test-hw:
	@scripts/setup.sh build hw
	@scripts/test-hw.sh

check: setup
	@scripts/check.sh

# 1,000 VCLs, half an hour or so.
soak: setup
	@scripts/soak.sh

bench:
	@scripts/setup.sh build bench
	@scripts/bench.sh

clean:
	cargo clean
