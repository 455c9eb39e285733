#!/bin/bash
# guest.sh [containers]: the default guest, kernel and root file system, made where it is missing. Prints its
# folder, which holds rootfs.ext4, initrd.cpio.gz, and vmlinux and bzImage (x86_64) or Image and Image.gz (aarch64).
#   containers   also the kernel for guests with containers in them, in the folder of that name with
#                -containers behind it: as long again, once
# MOTE_ARCH is the guest's architecture; by default it is this host's.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$HERE/common.sh"

case "$*" in
  '' | containers) ;;
  *) die "guest.sh: '$*' is unknown (containers, or nothing)" ;;
esac
"$HERE/rootfs/build.sh" # the short one first: what this host lacks shows early
"$HERE/kernel/build.sh"
[ "$#" = 0 ] || "$HERE/kernel/build.sh" "$1"
echo "$MOTE_CACHE_DIR/guest/$MOTE_ARCH"
