#!/bin/bash
# test-rootfs.sh: a root file system for the tests: the default one, with Debian programs that can do
# what busybox can't (iperf3; socat, which speaks vsock; ethtool), as they are installed on this host,
# with the libraries that they load.
#   CACHE/guest/x86_64/test-rootfs.ext4   (a link into the hashed folder)
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../common.sh
. "$HERE/../common.sh"

ARCH=x86_64
PROGRAMS=(iperf3 socat ethtool) # each is a package and a program
RECIPE=1                        # raise it when a change below changes the result

packages=("${PROGRAMS[@]}" libc-bin e2fsprogs cpio)
[ "$(id -u)" = 0 ] || packages+=(fakeroot)
need_packages "${packages[@]}"
"$HERE/build.sh"
guest=$MOTE_CACHE_DIR/guest
base=$(readlink -f "$guest/$ARCH/initrd.cpio.gz")
versions=()
for program in "${PROGRAMS[@]}" libc6; do versions+=("$(package_version "$program")"); done
rootfs=$guest/test-rootfs-$ARCH-$(hash_of "$base" "${versions[@]}" "$RECIPE")
use() { point "$guest/$ARCH/test-rootfs.ext4" "../$(basename "$rootfs")/test-rootfs.ext4"; }
if [ -d "$rootfs" ]; then
  use
  exit
fi

say "making the root file system with the tests' programs (a few seconds)"
lock "test-rootfs-$ARCH"
work_dir
tree=$WORK/tree
mkdir -p "$WORK/out" "$tree"
gzip -dc "$base" | (cd "$tree" && cpio --quiet -idm --no-absolute-filenames)

# copy FILE...: to where it is here, following links (ldd names a library by its link).
copy() {
  local file
  for file; do install -D -m 755 "$(readlink -f "$file")" "$tree$file"; done
}
for program in "${PROGRAMS[@]}"; do
  file=$(command -v "$program") || die "$program is installed, but isn't in PATH"
  install -m 755 "$(readlink -f "$file")" "$tree/bin/$program"
  # "libssl.so.3 => /lib/x86_64-linux-gnu/libssl.so.3 (0x...)", "/lib64/ld-linux-x86-64.so.2 (0x...)"
  libraries=$(ldd "$file") || die "ldd can't tell what $file loads"
  case $libraries in *"not found"*) die "$file lacks a library on this host: $libraries" ;; esac
  # shellcheck disable=SC2046 # a list of paths without spaces
  copy $(grep -o '/[^ ]*' <<<"$libraries")
done

ext4_of "$tree" "$WORK/out/test-rootfs.ext4" 48M 2048
into_cache "$WORK/out" "$rootfs"
use
say "the root file system with the tests' programs is ready: $rootfs"
