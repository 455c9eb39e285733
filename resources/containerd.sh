#!/bin/bash
# containerd.sh: what the tests of containerd's shim (shim/tests/containerd) run it under, unpacked in the cache. None
# of it is installed: Debian's package would start a service, and drive out another distributor's.
#   CACHE/peers/ARCH/containerd/bookworm   1.6, with runc and CNI's plugins: what most of the tests use
#   CACHE/peers/ARCH/containerd/trixie     1.7
#   CACHE/peers/ARCH/containerd/forky      2.1
#   CACHE/peers/ARCH/containerd/cri        a client of Kubernetes' interface to it, by cri-client.sh
# What the shim itself calls is installed, so it is in PATH: mkfs.erofs, mke2fs, busybox for the tests' images, and
# from peers.sh virtiofsd.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$HERE/common.sh"

RECIPE=1 # raise it when a change below changes the result
RELEASES=(bookworm trixie forky)
folder=$MOTE_CACHE_DIR/peers/$MOTE_ARCH/containerd

# packages_of RELEASE: runc and the plugins don't depend on containerd's version.
packages_of() {
  case $1 in
    bookworm) echo containerd runc containernetworking-plugins libseccomp2 ;;
    *) echo containerd ;;
  esac
}

# fetch RELEASE: its packages, without what is for people to read.
fetch() {
  local packages
  read -ra packages <<<"$(packages_of "$1")"
  work_dir
  foreign_packages "$MOTE_ARCH-$1" "$WORK/out" "${packages[@]}"
  rm -rf "$WORK/out/usr/share" "$WORK/out/lib/systemd" "$WORK/out/usr/lib/systemd"
  into_cache "$WORK/out" "$folder/$1-$RECIPE"
  rm -rf "$WORK"
}

[ "$MOTE_ARCH" != "$HOST_ARCH" ] ||
  need_packages e2fsprogs erofs-utils busybox-static iproute2 util-linux tar
missing() { for release in "${RELEASES[@]}"; do [ -d "$folder/$release-$RECIPE" ] || echo "$release"; done; }
if [ -n "$(missing)" ]; then
  lock "containerd-$MOTE_ARCH" # another process may fetch them while this one waits
  for release in $(missing); do fetch "$release"; done
fi
for release in "${RELEASES[@]}"; do point "$folder/$release" "$release-$RECIPE"; done
[ "$MOTE_ARCH" != "$HOST_ARCH" ] || "$HERE/cri-client.sh"
