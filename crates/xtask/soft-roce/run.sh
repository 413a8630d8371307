#!/usr/bin/env bash
# Runs one command in a small virtual machine that has two RDMA devices in software (Soft-RoCE), and ends with its status.
# Neither an HCA nor KVM nor root is needed.
#
#   run.sh COMMAND...
#
# The guest: the kernel of this Debian under qemu; its root is this machine's file system, read-only, over 9p. Only /run is
# the guest's own (TMPDIR=/run/tmp), so what is to come back is printed. The command runs there as root, in the folder
# where run.sh was called.
#
#   v0 10.9.0.1, rxe0  ----- veth pair, MTU 9000 -----  v1 10.9.0.2, rxe1
#
# A connection to 10.9.0.2 starts at 10.9.0.1 and crosses the pair, so it leaves through rxe0 and arrives at rxe1. A bad
# network is made with `tc qdisc add dev v0 root netem loss 1%`; loss 100% cuts the cable.
#
# Environment:
#   SOFT_ROCE_CACHE     where the kernel is kept (default: target/soft-roce of this repository)
#   SOFT_ROCE_MEMORY    the guest's memory in MB (default: 3072 on a host with more than 8 GB, else 2048)
#   SOFT_ROCE_SECONDS   the guest is killed after this long (default: 570)
#   SOFT_ROCE_PASS      names of variables that the command gets as they are here
#
# Exit status: the command's; 124 when the time was over; 125 when something is missing or the guest did not come up.
set -euo pipefail

fail() {
  echo "soft-roce: $*" >&2
  exit 125
}

packages=(qemu-system-x86 busybox-static cpio kmod iproute2 ibverbs-providers)
for program in qemu-system-x86_64 busybox cpio depmod modprobe ip tc rdma; do
  PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null ||
    fail "$program is missing; as root: apt-get install --no-install-recommends ${packages[*]}"
done
[[ -e /etc/libibverbs.d/rxe.driver ]] || fail "the library for Soft-RoCE is missing; as root: apt-get install ibverbs-providers"
[[ $# -gt 0 ]] || fail "usage: run.sh COMMAND..."

here=$(pwd)
repository=$(cd "$(dirname "$0")/../../.." && pwd)
cache=${SOFT_ROCE_CACHE:-$repository/target/soft-roce}
seconds=${SOFT_ROCE_SECONDS:-570}
host_kib=$(awk '/^MemTotal/{print $2}' /proc/meminfo)
memory=${SOFT_ROCE_MEMORY:-$((host_kib > 8 * 1024 * 1024 ? 3072 : 2048))}
cores=$(nproc)
export PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
work=$(mktemp -d "$cache/run.XXXXXX")
trap 'rm -rf "$work"' EXIT

# The kernel package is unpacked, not installed: nothing outside the cache changes.
kernel_package() { apt-cache depends linux-image-amd64 2>/dev/null | awk '$1 == "Depends:" {print $2; exit}'; }
if ! compgen -G "$cache/kernel/boot/vmlinuz-*" >/dev/null; then
  package=$(kernel_package)
  if [[ -z $package && $(id -u) -eq 0 ]]; then
    apt-get -qq update || true
    package=$(kernel_package)
  fi
  [[ -n $package ]] || fail "no package linux-image-amd64 is known here; as root: apt-get update"
  echo "soft-roce: unpacking $package into $cache" >&2
  (cd "$work" && apt-get -qq download "$package" 2>"$work/apt") ||
    fail "$package cannot be downloaded: $(tail -n 1 "$work/apt"); as root: apt-get update"
  dpkg-deb -x "$work"/linux-image-*.deb "$work/kernel"
  rm -rf "$work"/*.deb "$cache/kernel"
  mv "$work/kernel" "$cache/kernel"
fi
kernel=$(compgen -G "$cache/kernel/boot/vmlinuz-*" | head -n 1)
version=${kernel##*/vmlinuz-}
[[ -f $cache/kernel/lib/modules/$version/modules.dep ]] || depmod -b "$cache/kernel" "$version"

# The first file system: busybox, the modules in the order of their dependencies, and the way to the real root.
initrd=$work/initrd
mkdir -p "$initrd"/{bin,modules,proc,sys,dev,host}
cp "$(command -v busybox)" "$initrd/bin/"
for module in crc32_generic crc32c_generic virtio_pci 9pnet_virtio 9p veth ib_uverbs rdma_ucm rdma_rxe \
  sch_netem sch_ingress cls_u32 act_gact; do
  files=$(modprobe -d "$cache/kernel" -S "$version" --show-depends "$module") || fail "kernel $version has no module $module"
  while read -r action file _; do
    name=${file##*/}
    [[ $action == insmod && ! -e $initrd/modules/$name ]] || continue
    cp "$file" "$initrd/modules/"
    echo "$name" >>"$initrd/modules/order"
  done <<<"$files"
done

cat >"$initrd/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do $b insmod /modules/$module; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose host /host
$b mount -t proc proc /host/proc
$b mount -t sysfs sys /host/sys
$b mount --move /dev /host/dev
$b mount -t tmpfs tmp /host/run
$b mkdir /host/run/tmp
$b cp /command /host/run/command
$b chroot /host /bin/bash /run/command
echo "soft-roce: the command ended with $?"
echo o >/proc/sysrq-trigger
$b sleep 30
INIT
chmod +x "$initrd/init"

cat >"$initrd/command" <<'GUEST'
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/run/tmp
(
  set -e
  echo # after the line that the firmware has left open
  echo guest >/proc/sys/kernel/hostname # Open MPI wants one
  mkdir -p /dev/shm /dev/pts
  mount -t tmpfs shm /dev/shm
  mount -t devpts pts /dev/pts
  ip link set lo up
  ip link add v0 mtu 9000 type veth peer name v1 mtu 9000
  ip addr add 10.9.0.1/24 dev v0
  ip addr add 10.9.0.2/24 dev v1
  ip link set v0 up
  ip link set v1 up
  # Both addresses are this machine's, so the kernel would deliver between them through lo. Instead what goes to one of
  # them leaves through the other's device (rule 2), and only what has come in from there is local (rule 1).
  for device in all v0 v1; do
    echo 1 >/proc/sys/net/ipv4/conf/$device/accept_local
    echo 0 >/proc/sys/net/ipv4/conf/$device/rp_filter
  done
  ip rule add pref 1 iif v0 lookup local
  ip rule add pref 1 iif v1 lookup local
  ip route add 10.9.0.2 dev v0 src 10.9.0.1 table 100
  ip route add 10.9.0.1 dev v1 src 10.9.0.2 table 100
  ip rule add pref 2 to 10.9.0.0/24 lookup 100
  ip rule add pref 3 lookup local
  ip rule del pref 0
  rdma link add rxe0 type rxe netdev v0
  rdma link add rxe1 type rxe netdev v1
  sleep 0.5
) || exit 125
ulimit -l unlimited
GUEST
{
  for name in ${SOFT_ROCE_PASS:-}; do
    [[ -z ${!name+set} ]] || printf 'export %s=%q\n' "$name" "${!name}"
  done
  printf 'cd %q || exit 125\n' "$here"
  printf '%q ' "$@"
  echo
} >>"$initrd/command"
(cd "$initrd" && find . | cpio --quiet -o -H newc | gzip -1 >"$work/initrd.gz")

# Why not KVM where there is one: the check is to behave alike everywhere, and KVM inside another virtual machine often fails.
set +e
timeout --kill-after 5 "$seconds" qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max -smp $((cores < 4 ? cores : 4)) \
  -m "$memory" -nographic -no-reboot -net none -kernel "$kernel" -initrd "$work/initrd.gz" \
  -append "console=ttyS0 quiet panic=-1" \
  -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap </dev/null 2>&1 |
  tr -d '\r' | tee "$work/log" |
  sed -u -e 's/\x1bc//g; s/\x1b\[[?0-9;]*[A-Za-z]//g' \
    -e '/^soft-roce: the command ended with/d; /SeaBIOS/d; /Booting from ROM/d; /sysrq: Power Off/d; /reboot: Power down/d'
ended=${PIPESTATUS[0]}
set -e
status=$(sed -n 's/.*soft-roce: the command ended with \([0-9]*\).*/\1/p' "$work/log" | tail -n 1)
[[ -z $status ]] || exit "$status"
if [[ $ended -eq 124 || $ended -eq 137 ]]; then
  echo "soft-roce: the guest was killed after $seconds s" >&2
  exit 124
fi
fail "the guest ended without an answer (qemu: $ended)"
