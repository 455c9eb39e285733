#!/bin/bash
# test.sh: every test there is, in several parts. Ends with cargo's own summary of the last part; fails if
# any part fails, or if a whole kind of test could not run at all (MOTE_REQUIRE).
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$HERE/common.sh"
cd "$HERE/.."

[ -e "$MOTE_CACHE_DIR/guest/x86_64/vmlinux" ] ||
  say "the first time takes about 20 minutes, a quarter of it for compiling a guest's Linux kernel; later ones 10 to 12"
need_rust
need_packages e2fsprogs # the tests make disks, and look into them
triple=$(host_triple)
runner=CARGO_TARGET_$(tr a-z- A-Z_ <<<"$triple")_RUNNER

times=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# part NAME COMMAND...: runs one part and notes how long it took. What it says is also kept in $log.
part() {
  local name=$1 begin=$SECONDS
  shift
  say "$name: $*"
  "$@" 2>&1 | tee -a "$log"
  times+=("$name: $((SECONDS - begin)) s")
}

# Tiny hand-assembled guests need a /dev/kvm, but not a processor's support: they run here if they can.
if can_open_kvm; then here=(env); else here=(env "$runner=$HERE/on-kvm.sh"); fi
tests=()
for file in tests/*.rs; do
  name=$(basename "$file" .rs)
  if [ -e "$file" ] && [ "$name" != linux ]; then tests+=(--test "$name"); fi
done
part "unit tests" cargo test --lib --bins --examples
part "tiny guests on KVM" "${here[@]}" MOTE_REQUIRE=kvm cargo test "${tests[@]}"
part "examples in the documentation" cargo test --doc

part "guest for the tests" "$HERE/guest.sh"
part "stock Debian kernel for the tests" "$HERE/debian-kernel.sh"
part "guest with programs for the tests" "$HERE/rootfs/test-rootfs.sh"
part "real peers for the tests" "$HERE/peers.sh"

# Real Linux guests, run by the release binary.
part "building the tests with Linux guests" cargo test --release --test linux --no-run
summary=$(printf '%s, ' "${times[@]}")
say "so far: ${summary%, }"
# The emulated machine has all that a test can ask for; another host may lack some of it.
kinds=linux,peers
if ! can_open_kvm || ! grep -qwE 'vmx|svm' /proc/cpuinfo; then kinds+=,tap,vhost,io_uring,o_direct,mount,cc,realtime,huge-pages,pass-through; fi
# One CPU: with more, the emulated machine's kernel may trip over code that it patches while another CPU
# runs it (see on-kvm.sh).
part "tests with Linux guests (seven or eight minutes where the machine is emulated)" \
  env "$runner=$HERE/on-kvm.sh -t 2700 -m 3072 --" MOTE_REQUIRE=$kinds \
  cargo test --release --test linux -- --test-threads 2
# Some of what a KVM does only shows where there is hardware behind it.
part "tiny guests on a KVM with hardware" \
  env "$runner=$HERE/on-kvm.sh" MOTE_REQUIRE=kvm,hardware cargo test --test kvm_dax --test kvm_idle

# A test that could not run has said so; none is passed over in silence.
say "tests that said they could not run here: $(grep -c '^NOT RUN' "$log" || true)"
grep '^NOT RUN' "$log" >&2 || true
grep '^test result: ' "$log" | tail -n 1
