#!/bin/bash
# guest.sh: the default guest, kernel and root file system, made where it is missing. Prints its folder,
# which holds vmlinux, bzImage, rootfs.ext4 and initrd.cpio.gz.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$HERE/common.sh"

"$HERE/rootfs/build.sh" # the short one first: what this host lacks shows early
"$HERE/kernel/build.sh"
echo "$MOTE_CACHE_DIR/guest/x86_64"
