#!/bin/bash
# test-rootfs.sh: a root file system for the tests: the default one, with Debian programs that can do
# what busybox can't (iperf3; socat, which speaks vsock; ethtool), as they are installed on this host,
# with the libraries that they load.
#   CACHE/guest/ARCH/test-rootfs.ext4   (a link into the hashed folder)
# MOTE_ARCH is the guest's architecture; by default it is this host's. Another one's programs aren't installed,
# only unpacked.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../common.sh
. "$HERE/../common.sh"

PROGRAMS=(iperf3 socat ethtool) # each is a package and a program
RECIPE=2                        # raise it when a change below changes the result

packages=(binutils e2fsprogs cpio)
[ "$(id -u)" = 0 ] || packages+=(fakeroot)
[ "$MOTE_ARCH" != "$HOST_ARCH" ] || packages+=("${PROGRAMS[@]}")
need_packages "${packages[@]}"
"$HERE/build.sh"
guest=$MOTE_CACHE_DIR/guest
base=$(readlink -f "$guest/$MOTE_ARCH/initrd.cpio.gz")
versions=() # another architecture's may be any
if [ "$MOTE_ARCH" = "$HOST_ARCH" ]; then
  for program in "${PROGRAMS[@]}" libc6; do versions+=("$(package_version "$program")"); done
fi
rootfs=$guest/test-rootfs-$MOTE_ARCH-$(hash_of "$base" "${versions[@]}" "$RECIPE")
use() { point "$guest/$MOTE_ARCH/test-rootfs.ext4" "../$(basename "$rootfs")/test-rootfs.ext4"; }
if [ -d "$rootfs" ]; then
  use
  exit
fi

say "making the root file system with the tests' programs (a few seconds)"
lock "test-rootfs-$MOTE_ARCH"
work_dir
tree=$WORK/tree
mkdir -p "$WORK/out" "$tree"
gzip -dc "$base" | (cd "$tree" && cpio --quiet -idm --no-absolute-filenames)

from= # where the programs and libraries are: below / or below an unpacked tree
if [ "$MOTE_ARCH" != "$HOST_ARCH" ]; then
  from=$WORK/packages
  foreign_tree "$MOTE_ARCH" "$from" "${PROGRAMS[@]}"
fi
# found NAME FOLDER...: the first of these folders' files of that name.
found() {
  local name=$1 folder
  shift
  for folder; do
    [ ! -e "$from$folder/$name" ] || { readlink -f "$from$folder/$name"; return; }
  done
  die "$name is installed, but in none of $*"
}
# libraries FILE: those that it names (ldd would run it). loader FILE: the program that loads them.
libraries() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }
loader() { readelf -l "$1" | sed -n 's/.*interpreter: \(.*\)\]/\1/p'; }
# copy_libraries FILE: what it loads, and what that loads, to where every program looks for it.
copy_libraries() {
  local library file
  for library in $(libraries "$1"); do
    case $library in ld-linux*) continue ;; esac
    [ ! -e "$tree/lib/$MOTE_ARCH-linux-gnu/$library" ] || continue
    file=$(found "$library" {/usr,}/lib{"/$MOTE_ARCH-linux-gnu",})
    install -D -m 755 "$file" "$tree/lib/$MOTE_ARCH-linux-gnu/$library"
    copy_libraries "$file"
  done
}
for program in "${PROGRAMS[@]}"; do
  file=$(found "$program" /usr/bin /usr/sbin)
  install -m 755 "$file" "$tree/bin/$program"
  copy_libraries "$file"
  install -D -m 755 "$(readlink -f "$from$(loader "$file")")" "$tree$(loader "$file")"
done

ext4_of "$tree" "$WORK/out/test-rootfs.ext4" 48M 2048
into_cache "$WORK/out" "$rootfs"
use
say "the root file system with the tests' programs is ready: $rootfs"
