#!/bin/bash
# Runs a command in a QEMU machine whose CPU is emulated in software with AMD SVM, so that /dev/kvm
# in there is kvm-amd with nested paging: "host A" of docs/glossary.md, for machines that have no
# hardware virtualization to give.
#
#   scripts/svm-vm.sh COMMAND [ARGUMENT...]      (root; packages: scripts/setup.sh hw)
#
# The machine sees this one's root file system read-only (9p) under a writable overlay in memory,
# starts in the current folder as root, and this script ends with the command's exit status; 124
# says that the machine did not come to an end in time. It has no network but loopback. Boot takes
# about 15 s; everything runs 10 to 50 times slower than here, so its times mean nothing.
#
# QEMU takes turns with its CPUs on one thread. On a thread for each (SVM_THREADS=multi, twice as fast) QEMU 7.2
# ended two of three long runs: a CPU executed kernel code that had been replaced, the kernel found one of
# its own stacks overwritten.
#
#   SVM_MEM=6144 (MiB)  SVM_CPUS=2  SVM_TIMEOUT=1800 (s)  SVM_CACHE=~/.cache/tinykvm-svm-vm
set -euo pipefail

fail() { printf 'svm-vm: %s\n' "$@" >&2; exit 125; }
[ $# -gt 0 ] || fail 'usage: scripts/svm-vm.sh COMMAND [ARGUMENT...]'
[ "$(id -u)" = 0 ] || fail 'run as root: the machine reads the whole root file system.'
for tool in qemu-system-x86_64 busybox cpio; do
  command -v "$tool" >/dev/null || fail "$tool is missing; scripts/setup.sh hw installs it."
done

cache=${SVM_CACHE:-$HOME/.cache/tinykvm-svm-vm}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$cache"

# Debian's kernel and the modules that the machine needs, fetched once, by whoever comes first.
exec 9>"$cache/lock"
flock 9
if [ ! -f "$cache/vmlinuz" ]; then
  package=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
  if [ -z "$package" ]; then
    apt-get update >/dev/null || fail 'apt-get update failed.'
    package=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
  fi
  echo "svm-vm: fetching $package" >&2
  chmod 755 "$work" && mkdir "$work/fetch"
  (cd "$work/fetch" && apt-get -o APT::Sandbox::User=root download "$package" >/dev/null) ||
    fail "could not download $package (apt-get update?)"
  dpkg -x "$work"/fetch/*.deb "$work/kernel"
  rm -rf "$cache/root"
  mkdir -p "$cache/root/bin" "$cache/root/mod"
  for module in virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci netfs \
                fscache 9pnet 9pnet_virtio 9p overlay irqbypass ccp kvm kvm-amd; do
    # What is built into the kernel has no file.
    file=$(find "$work/kernel/lib/modules" -name "$module.ko" | head -n 1)
    if [ -n "$file" ]; then cp "$file" "$cache/root/mod/"; fi
  done
  cp "$(command -v busybox)" "$cache/root/bin/busybox"
  cp "$work"/kernel/boot/vmlinuz-* "$cache/vmlinuz.new"
  rm -rf "$work/fetch" "$work/kernel"
  mv "$cache/vmlinuz.new" "$cache/vmlinuz"
fi
exec 9>&-

mkdir "$work/root"
cp -r "$cache/root/." "$work/root/"
{
  echo '#!/bin/bash'
  printf 'export PATH=%q HOME=%q LC_ALL=C SVM_VM=1\n' "$PATH" "$HOME"
  printf 'cd %q || exit 125\n' "$PWD"
  printf '%q ' "$@"
  echo
} > "$work/root/command.sh"
cat > "$work/root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /host /rw /new
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for pass in 1 2 3 4; do for module in /mod/*.ko; do insmod $module 2>/dev/null; done; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /host || echo 'svm-vm: no root file system'
mount -t tmpfs -o size=80% rw /rw
mkdir -p /rw/up /rw/work
mount -t overlay -o lowerdir=/host,upperdir=/rw/up,workdir=/rw/work overlay /new
mount --move /dev /new/dev
# As on a machine that an operator has set up for varnishd's user.
chmod 0666 /new/dev/kvm
mkdir -p /new/dev/pts /new/dev/shm /new/tmp
mount -t devpts devpts /new/dev/pts
mount -t tmpfs shm /new/dev/shm
mount -t proc proc /new/proc
mount -t sysfs sys /new/sys
mount -t tmpfs run /new/run
ip link set lo up
cp /command.sh /new/run/command.sh
chroot /new /bin/bash /run/command.sh
echo "svm-vm: exit $?"
poweroff -f
INIT
chmod +x "$work/root/init"
(cd "$work/root" && find . | cpio -o -H newc 2>/dev/null | gzip -1) > "$work/initrd"
rm -rf "$work/root"

limit=${SVM_TIMEOUT:-1800}
timeout --foreground "$limit" qemu-system-x86_64 -accel "tcg,thread=${SVM_THREADS:-single}" -smp "${SVM_CPUS:-2}" -cpu max,+svm \
  -m "${SVM_MEM:-6144}" -display none -serial stdio -monitor none -nic none -no-reboot \
  -kernel "$cache/vmlinuz" -initrd "$work/initrd" -append 'console=ttyS0 quiet panic=-1' \
  -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
  </dev/null | sed -u 's/\r$//' | tee "$work/log" | \
    grep --line-buffered -v -e '^svm-vm: exit' -e 'reboot: Power down$' || true
code=$(sed -n 's/^svm-vm: exit \([0-9]*\).*/\1/p' "$work/log" | tail -n 1)
if [ -z "$code" ]; then
  echo "svm-vm: the machine did not finish within $limit s (SVM_TIMEOUT), or died" >&2
  code=124
fi
exit "$code"
