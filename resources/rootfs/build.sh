#!/bin/bash
# build.sh: the default guest's root file system: busybox and an init, as a disk and as an initramfs.
# Made with no root rights and no mounts, in a few seconds; the same inputs give the same bytes.
#   CACHE/guest/ARCH/rootfs.ext4, initrd.cpio.gz   (links into the hashed folder)
# MOTE_ARCH is the guest's architecture; by default it is this host's.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../common.sh
. "$HERE/../common.sh"

RECIPE=2 # raise it when a change below changes the result

guest_tools
packages=(busybox-static "${tool_packages[@]}" e2fsprogs cpio)
[ "$(id -u)" = 0 ] || packages+=(fakeroot)
need_packages "${packages[@]}"
guest=$MOTE_CACHE_DIR/guest
inputs=$(hash_of "$HERE"/{init.c,etc/*} "$RECIPE")
# The newest one in the cache that was made of these files, with whichever version of busybox.
cached() { find "$guest" -maxdepth 1 -name "rootfs-$MOTE_ARCH-${1:-*}-$inputs" 2>/dev/null | sort -V | tail -1 || true; }
use() {
  local file
  for file in rootfs.ext4 initrd.cpio.gz; do point "$guest/$MOTE_ARCH/$file" "../$(basename "$1")/$file"; done
}
# Another architecture's busybox isn't installed: any version is as good, and needs no look at package lists.
version=
[ "$MOTE_ARCH" != "$HOST_ARCH" ] || version=$(package_version busybox-static)
rootfs=$(cached "${version#*:}") # without the epoch, whose colon has a meaning in lists of paths
if [ -z "$rootfs" ]; then
  lock "rootfs-$MOTE_ARCH"
  rootfs=$(cached "${version#*:}")
fi
if [ -n "$rootfs" ]; then
  use "$rootfs"
  exit
fi

say "making the guest's root file system (a few seconds)"
work_dir
if [ "$MOTE_ARCH" = "$HOST_ARCH" ]; then
  busybox=$(command -v busybox)
else
  foreign_packages "$MOTE_ARCH" "$WORK/package" busybox-static
  busybox=$(find "$WORK/package" -name busybox -type f -perm -100)
  version=$(foreign_apt "$MOTE_ARCH" newest_version busybox-static)
fi
tree=$WORK/tree
mkdir -p "$WORK/out" "$tree"/{bin,sbin,dev,etc,home,mnt,proc,root,run,sys,tmp,usr,var/log}
chmod 1777 "$tree/tmp"
ln -s ../bin "$tree/usr/bin"
ln -s ../sbin "$tree/usr/sbin"
ln -s ../run "$tree/var/run"
ln -s ../tmp "$tree/var/tmp"
ln -s ../run/resolv.conf "$tree/etc/resolv.conf" # the root is usually read-only
ln -s ../proc/mounts "$tree/etc/mtab"
ln -s sbin/init "$tree/init" # where an initramfs has it
install -m 644 "$HERE"/etc/* "$tree/etc/"

# No C library, and everything in one segment: two pages to read.
"${tools}gcc" -Os -Wall -Wextra -Werror -static -nostdlib -ffreestanding -fno-stack-protector \
  -fno-asynchronous-unwind-tables -fno-pie -no-pie \
  -Wl,--build-id=none,-z,noseparate-code,-z,norelro,-z,noexecstack,-N,--no-warn-rwx-segments -s \
  -o "$tree/sbin/init" "$HERE/init.c"

cp "$busybox" "$tree/bin/busybox"
chmod 755 "$tree/bin/busybox"
# This host's own tells what is in it, as another architecture's can't be run: they are of one release of Debian.
for applet in $(busybox --list); do
  case $applet in
    busybox | init | linuxrc) ;;
    *) ln -s busybox "$tree/bin/$applet" ;;
  esac
done
ext4_of "$tree" "$WORK/out/rootfs.ext4" 32M 2048
cpio_of "$tree" | gzip -9n >"$WORK/out/initrd.cpio.gz"

rootfs=$guest/rootfs-$MOTE_ARCH-${version#*:}-$inputs
into_cache "$WORK/out" "$rootfs"
use "$rootfs"
say "the root file system is ready: $rootfs"
