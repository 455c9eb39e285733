#!/bin/bash
# build.sh: the default guest's root file system: busybox and an init, as a disk and as an initramfs.
# Made with no root rights and no mounts, in a few seconds; the same inputs give the same bytes.
#   CACHE/guest/x86_64/rootfs.ext4, initrd.cpio.gz   (links into the hashed folder)
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../common.sh
. "$HERE/../common.sh"

ARCH=x86_64
RECIPE=1 # raise it when a change below changes the result

packages=(busybox-static gcc libc6-dev e2fsprogs cpio)
[ "$(id -u)" = 0 ] || packages+=(fakeroot)
need_packages "${packages[@]}"
guest=$MOTE_CACHE_DIR/guest
rootfs=$guest/rootfs-$ARCH-$(hash_of "$HERE"/{init.c,etc/*} "$(package_version busybox-static)" "$RECIPE")
use() {
  local file
  for file in rootfs.ext4 initrd.cpio.gz; do point "$guest/$ARCH/$file" "../$(basename "$rootfs")/$file"; done
}
if [ -d "$rootfs" ]; then
  use
  exit
fi

say "making the guest's root file system (a few seconds)"
lock "rootfs-$ARCH"
work_dir
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
gcc -Os -Wall -Wextra -Werror -static -nostdlib -ffreestanding -fno-stack-protector \
  -fno-asynchronous-unwind-tables -fno-pie -no-pie \
  -Wl,--build-id=none,-z,noseparate-code,-z,norelro,-z,noexecstack,-N,--no-warn-rwx-segments -s \
  -o "$tree/sbin/init" "$HERE/init.c"

cp "$(command -v busybox)" "$tree/bin/busybox"
chmod 755 "$tree/bin/busybox"
for applet in $(busybox --list); do
  case $applet in
    busybox | init | linuxrc) ;;
    *) ln -s busybox "$tree/bin/$applet" ;;
  esac
done
ext4_of "$tree" "$WORK/out/rootfs.ext4" 32M 2048
cpio_of "$tree" | gzip -9n >"$WORK/out/initrd.cpio.gz"

into_cache "$WORK/out" "$rootfs"
use
say "the root file system is ready: $rootfs"
