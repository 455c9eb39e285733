#!/bin/bash
# tree.sh ARCH: a Debian root file system for the emulated machine of another architecture than this host's:
# the programs that tests and benches call. Ready made packages, unpacked in the cache. Prints its path.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../common.sh
. "$HERE/../common.sh"

ARCH=$1
PACKAGES=(base-files base-passwd bash dash coreutils diffutils findutils grep gzip sed tar mawk hostname procps
  util-linux bsdutils mount kmod strace iproute2 iputils-ping iperf3 socat ethtool e2fsprogs erofs-utils xfsprogs
  curl gcc libc6-dev device-tree-compiler busybox-static zstd qemu-system-arm qemu-system-common qemu-utils)
RECIPE=2 # raise it when a change below changes the result

tree=$MOTE_CACHE_DIR/kvm-host/tree-$ARCH-$(hash_of "${PACKAGES[*]}" "$RECIPE")
if [ ! -d "$tree" ]; then
  lock kvm-host-tree # another process may make it while this one waits
  if [ ! -d "$tree" ]; then
    say "the emulated machine's programs for $ARCH aren't in the cache yet: making them, once (a minute)"
    work_dir
    foreign_tree "$ARCH" "$WORK/out" "${PACKAGES[@]}"
    cd "$WORK/out"
    rm -rf usr/share/{doc,man,info,locale,lintian,zoneinfo} usr/lib/*/{perl,perl-base,dri,libLLVM*} boot
    mkdir -p root tmp run var/tmp
    # What the packages' scripts would have done.
    cp usr/share/base-passwd/passwd.master etc/passwd
    cp usr/share/base-passwd/group.master etc/group
    ln -sf mawk usr/bin/awk
    ln -sf gcc usr/bin/cc
    echo mote >etc/hostname
    echo '127.0.0.1 localhost mote' >etc/hosts
    touch etc/fstab etc/resolv.conf
    into_cache "$WORK/out" "$tree"
    cd /
    rm -rf "$WORK"
    say "the emulated machine's programs are ready: $tree"
  fi
fi
echo "$tree"
