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
UUID=6d6f7465-0000-4000-8000-000000000001
export SOURCE_DATE_EPOCH=1700000000 E2FSPROGS_FAKE_TIME=1700000000

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
find "$tree" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

# The owner of every file is root, whoever builds.
owner() { if [ "$(id -u)" = 0 ]; then "$@"; else fakeroot "$@"; fi; }

# No journal: one image serves many boots, and a journal is only read and replayed at each. Directory
# hashes and the UUID are fixed, since they are random otherwise.
owner mke2fs -q -t ext4 -d "$tree" -b 4096 -N 2048 -m 0 -L mote-root -U $UUID \
  -O '^has_journal,^resize_inode,^metadata_csum_seed,^orphan_file' \
  -E "hash_seed=$UUID,root_owner=0:0,lazy_itable_init=0" "$WORK/out/rootfs.ext4" 32M >"$WORK/log" 2>&1 ||
  die "mke2fs failed: $(cat "$WORK/log")"
# It copies the times of the last change of each file's inode too, which can't be set on a file.
dumpe2fs "$WORK/out/rootfs.ext4" 2>/dev/null >"$WORK/dump"
inodes=$(($(sed -n 's/^Inode count: *//p' "$WORK/dump") - $(sed -n 's/^Free inodes: *//p' "$WORK/dump")))
for inode in $(seq 1 $inodes); do
  printf 'sif <%d> ctime @%d\nsif <%d> atime @%d\n' "$inode" $SOURCE_DATE_EPOCH "$inode" $SOURCE_DATE_EPOCH
done >"$WORK/commands"
debugfs -w -f "$WORK/commands" "$WORK/out/rootfs.ext4" >/dev/null 2>&1
cpio_of "$tree" | gzip -9n >"$WORK/out/initrd.cpio.gz"

into_cache "$WORK/out" "$rootfs"
use
say "the root file system is ready: $rootfs"
