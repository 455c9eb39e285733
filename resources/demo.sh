#!/bin/bash
# demo.sh [shell]: from a fresh clone to a booted guest. Builds what is missing, then boots the default
# guest with its root on virtio-blk: to its greeting, with the timings, or (shell) to its prompt.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$HERE/common.sh"
cd "$HERE/.."

if [ ! -e "$MOTE_CACHE_DIR/guest/x86_64/vmlinux" ]; then
  say "the first time takes 6 to 10 minutes, most of it for compiling a Linux kernel; later ones a few seconds"
fi
need_rust
guest=$("$HERE/guest.sh")
say "building mote (cargo build --release: a minute the first time; downloads some crates)"
cargo build --release --quiet
mote=target/$(host_triple)/release/mote

run=(run --rootfs "$guest/rootfs.ext4,ro")
if [ "${1:-}" = shell ]; then
  say "booting the default guest; Ctrl-A x leaves it at any time"
  exec "$HERE/on-kvm.sh" -- "$mote" "${run[@]}"
fi
say "booting the default guest: mote ${run[*]} --cmdline mote.demo --timings"
exec "$HERE/on-kvm.sh" -t 120 -- "$mote" "${run[@]}" --cmdline mote.demo --timings
