#!/bin/bash
# demo.sh [shell]: from a fresh clone to a booted guest. Builds what is missing, then boots the default
# guest with its root on virtio-blk: to its greeting, with the timings, or (shell) to its prompt.
# MOTE_ARCH=aarch64 on an x86_64 host does the same in an emulated AArch64 machine.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$HERE/common.sh"
cd "$HERE/.."

if [ ! -e "$MOTE_CACHE_DIR/guest/$MOTE_ARCH/vmlinux" ]; then
  say "the first time takes 6 to 10 minutes, most of it for compiling a Linux kernel; later ones a few seconds"
fi
need_rust
guest=$("$HERE/guest.sh")
triple=$(host_triple)
if [ "$MOTE_ARCH" != "$HOST_ARCH" ]; then
  settings=$("$HERE/cross.sh" "$MOTE_ARCH")
  eval "$settings"
  triple=$MOTE_ARCH-unknown-linux-gnu
fi
say "building mote (cargo build --release: a minute the first time; downloads some crates)"
cargo build --release --quiet --target "$triple"
mote=${CARGO_TARGET_DIR:-target}/$triple/release/mote

run=(run --rootfs "$guest/rootfs.ext4,ro")
if [ "${1:-}" = shell ]; then
  say "booting the default guest; Ctrl-A x leaves it at any time"
  exec "$HERE/on-kvm.sh" -a "$MOTE_ARCH" -- "$mote" "${run[@]}"
fi
say "booting the default guest: mote ${run[*]} --cmdline mote.demo --timings"
exec "$HERE/on-kvm.sh" -a "$MOTE_ARCH" -t 120 -- "$mote" "${run[@]}" --cmdline mote.demo --timings
