#!/bin/bash
# build.sh ARCH: makes the emulated machine that on-kvm.sh uses where the host's own KVM can't run Linux.
# Its kernel is Debian's, ready made; only the initramfs is ours. Prints the initramfs's path. In the
# same folder:
#   kernel          the kernel, unpacked (unpacking is slow in an emulated CPU)
#   lib/modules     modules that are loaded on demand, once the host's files can be seen
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../common.sh
. "$HERE/../common.sh"
ARCH=$1

# The generic flavour: the cloud one has no 9p.
META=linux-image-6.12-$(debian_arch "$ARCH")
EARLY=(virtio_mmio 9pnet_virtio 9p overlay)
[ "$ARCH" != x86_64 ] || EARLY+=(kvm-amd) # built in elsewhere
RECIPE=2 # raise it when a change below changes the kernel's folder

# Any version of the kernel will do: a newer one in Debian is no reason to fetch 107 MB again.
cached() { find "$MOTE_CACHE_DIR/kvm-host" -maxdepth 1 -name "[0-9]*-$(debian_arch "$ARCH")-$RECIPE" 2>/dev/null | sort -V | tail -1 || true; }

host=$(cached)
if [ -z "$host" ]; then
  say "the emulated machine isn't in the cache yet: making it, once (20 s; downloads a kernel package of 100 MB)"
  need_packages cpio kmod xz-utils zstd
  lock "kvm-host-$ARCH"
  host=$(cached)
fi
if [ -z "$host" ]; then
  work_dir
  package=$(foreign_apt "$ARCH" newest_package "$META")
  [ -n "$package" ] || die "apt knows no $META: Debian 12 has it in its security suite, Debian 13 in main"
  foreign_packages "$ARCH" "$WORK/package" "$package" busybox-static
  version=${package#linux-image-}
  mkdir -p "$WORK/out/lib/modules" "$WORK/out/bin"
  mv "$WORK/package/bin/busybox" "$WORK/out/bin/"

  image=$WORK/package/boot/vmlinuz-$version
  if [ "$ARCH" = x86_64 ]; then
    # The kernel proper inside the bzImage: its place stands in the setup header
    # (Documentation/arch/x86/boot.rst: setup_sects 0x1f1, payload_offset 0x248, payload_length 0x24c);
    # the last four bytes are its unpacked size.
    number() { od -An "-tu$2" -j"$1" -N"$2" "$image" | tr -d ' '; }
    start=$((($(number 0x1f1 1) + 1) * 512 + $(number 0x248 4)))
    dd if="$image" iflag=skip_bytes,count_bytes skip=$start count=$(($(number 0x24c 4) - 4)) bs=1M status=none |
      zstd -dc >"$WORK/out/kernel"
  else
    mv "$image" "$WORK/out/kernel" # an Image, which isn't compressed
  fi

  # Modules: what no virtual machine has the hardware for stays behind.
  modules=$(find "$WORK/package" -type d -path "*/modules/$version")
  rm -rf "$modules"/kernel/{sound,drivers/{gpu,media,staging,infiniband,scsi,usb,iio,hwmon,input,hid,mtd,platform}} \
    "$modules"/kernel/drivers/net/{ethernet,wireless,can,usb}
  mv "$modules" "$WORK/out/lib/modules/"
  depmod -b "$WORK/out" "$version"

  host=$MOTE_CACHE_DIR/kvm-host/$version-$RECIPE # a version ends in the architecture
  into_cache "$WORK/out" "$host"
  rm -rf "$WORK"
fi

initrd=$host/initrd-$(hash_of "$HERE/init" "$HERE/build.sh")
if [ ! -e "$initrd" ]; then
  need_packages cpio kmod xz-utils
  work_dir
  version=$(ls "$host/lib/modules")
  mkdir -p "$WORK/tree"/{bin,dev,mnt,proc,sys}
  copy_modules "$host" "$version" "$WORK/tree/lib" "${EARLY[@]}"
  for module in "$WORK"/tree/lib/*.ko; do
    # Checking the signature takes the emulated CPU longer than all else in loading a module. It is
    # appended: its length (big-endian) stands before a 28-byte marker.
    size=$(stat -c %s "$module")
    signature=$(od -An -tu4 --endian=big -j$((size - 32)) -N4 "$module")
    truncate -s $((size - 40 - signature)) "$module"
  done
  cp "$host/bin/busybox" "$WORK/tree/bin/busybox"
  install -m 755 "$HERE/init" "$WORK/tree/init"
  cpio_of "$WORK/tree" >"$WORK/initrd"
  mv "$WORK/initrd" "$initrd"
  say "the emulated machine is ready: $initrd"
fi
echo "$initrd"
