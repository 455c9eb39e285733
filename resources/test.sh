#!/bin/bash
# test.sh: every test there is, in several parts, for both architectures. Ends with cargo's own summary of the
# last part; fails if any part fails, or if a whole kind of test could not run at all (MOTE_REQUIRE).
#   MOTE_ARCHES="x86_64 aarch64"   what to test (an AArch64 host can only do the latter)
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$HERE/common.sh"
cd "$HERE/.."

case $HOST_ARCH in
  x86_64) MOTE_ARCHES=${MOTE_ARCHES:-x86_64 aarch64} ;;
  *) MOTE_ARCHES=${MOTE_ARCHES:-$HOST_ARCH} ;;
esac
for arch in $MOTE_ARCHES; do
  debian_arch "$arch" >/dev/null
  [ "$arch-$HOST_ARCH" != x86_64-aarch64 ] || die "MOTE_ARCHES: x86_64 can't be tested on an AArch64 host"
  [ -e "$MOTE_CACHE_DIR/guest/$arch/rootfs.ext4" ] ||
    say "the first time takes about 25 minutes for each architecture, two fifths of it for compiling two Linux kernels for guests"
done
need_rust
# The tests make disks, and look into them, and into device trees; into what VMs do, and have networks of their own;
# and pack layers of images.
need_packages e2fsprogs device-tree-compiler strace iproute2 util-linux zstd

tmp=$(mktemp -d)
log=$tmp/log lanes=()
touch "$log"
# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
  local pid
  for pid in "${lanes[@]}"; do kill -- "-$pid" 2>/dev/null || true; done
  wait || true
  rm -rf "$tmp"
}
trap finish EXIT
trap 'exit 143' TERM HUP
trap 'exit 130' INT

# part NAME COMMAND...: runs one part and notes how long it took. What it says is also kept in $log. In a
# lane it is shown when the part ends. An emulated machine may stall by a fault of QEMU's; what comes after that
# is told, and has one more try.
part() {
  local name="$arch: $1" begin=$SECONDS result=0 out=$tmp/$arch.part
  shift
  say "$name: $*"
  if [ -z "$lane" ]; then
    "$@" 2>&1 | tee -a "$log" || result=$?
  else
    echo "$name" >"$tmp/$arch.name"
    "$@" >"$out" 2>&1 || result=$?
    if [ $result != 0 ] && grep -q '^mote: stalled: ' "$out"; then
      mv "$out" "$out.stalled"
      say "$name STALLED, and is run once more. The end of what it said:"
      tail -n 100 "$out.stalled" >&2
      result=0
      "$@" >"$out" 2>&1 || result=$?
    fi
    # shellcheck disable=SC2016 # of the inner shell
    flock "$log" sh -c 'echo "--- $1 ---"; tee -a "$2" <"$3"' - "$name" "$log" "$out"
  fi
  [ $result = 0 ] || echo "$name" >>"$tmp/failed"
  echo "$name: $((SECONDS - begin)) s" >>"$tmp/times"
  return $result
}

# use ARCH: what cargo and the scripts do next is for this architecture.
use() {
  local settings
  arch=$1 target=()
  export MOTE_ARCH=$arch
  if [ "$arch" != "$HOST_ARCH" ]; then
    settings=$("$HERE/cross.sh" "$arch")
    eval "$settings"
    # Where the processor is emulated, tests take half the time by it.
    export CARGO_PROFILE_DEV_OPT_LEVEL=1
    target=(--target "$arch-unknown-linux-gnu")
  fi
  runner=CARGO_TARGET_$(tr a-z- A-Z_ <<<"${target[1]:-$(host_triple)}")_RUNNER
}

# The tests with tiny guests; those with Linux are for the release binary.
tests=()
for file in tests/*.rs tests/*/main.rs; do
  name=${file%/main.rs}
  name=$(basename "$name" .rs)
  if [ -e "$file" ] && [ "$name" != linux ]; then tests+=(--test "$name"); fi
done

# What runs in guests of container images; its tests are for ordinary processes, in namespaces where they can have them.
agent=(-p mote-agent -p mote-agent-protocol --tests)

# prepare ARCH: what takes all of the processors, and what can run right here.
prepare() {
  use "$1"
  if [ "$arch" = "$HOST_ARCH" ]; then
    # Tiny hand-assembled guests need a /dev/kvm, but not a processor's support: they run here if they can.
    if can_open_kvm; then here=(env); else here=(env "$runner=$HERE/on-kvm.sh"); fi
    part "examples, which the tests run" cargo build --examples
    part "unit tests" env MOTE_REQUIRE=dtc cargo test --lib --bins --examples
    part "the agent and its protocol" cargo test "${agent[@]}"
    part "containerd's shim, by itself" cargo test -p mote-shim --bins
    part "building its tests" cargo test -p mote-shim --test containerd --no-run
    part "clients of the API" "$HERE/api-clients.sh"
    part "tiny guests on KVM" "${here[@]}" MOTE_REQUIRE=kvm,halts,strace,clients cargo test "${tests[@]}"
    part "examples in the documentation" cargo test --doc
    part "fuzz targets" "$HERE/fuzz.sh" build
    part "fuzzing, 3 s each" "$HERE/fuzz.sh" run -t 3
  else
    part "building the tests" cargo test "${target[@]}" --lib --bins --examples "${tests[@]}" --no-run
    part "building the agent's tests" cargo test "${target[@]}" "${agent[@]}" --no-run
    part "examples, which the tests run" cargo build "${target[@]}" --examples
  fi
  # The kernel for containers takes as long to make as the default one. What of it is the architecture's own is little.
  if [ "$arch" = "$HOST_ARCH" ]; then
    part "guests for the tests" "$HERE/guest.sh" containers
    part "containerd for the tests" "$HERE/containerd.sh"
  else
    part "guest for the tests" "$HERE/guest.sh"
  fi
  part "stock Debian kernel for the tests" "$HERE/debian-kernel.sh"
  part "guest with programs for the tests" "$HERE/rootfs/test-rootfs.sh"
  part "real peers for the tests" "$HERE/peers.sh"
  part "building the tests with Linux guests" cargo test "${target[@]}" --release --test linux --no-run
}

# on_kvm ARCH: real Linux guests, run by the release binary, and whatever else needs a KVM with hardware.
on_kvm() {
  local machine=("$HERE/on-kvm.sh" -q 700 -a "$1") kinds=linux,peers,release
  use "$1"
  # The emulated machine has all that a test can ask for; another host may lack some of it.
  if [ "$("${machine[@]}" -w)" = emulated ]; then
    kinds+=,tap,vhost,cgroup2,io_uring,o_direct,mount,cc,realtime,huge-pages
    case $arch in
      x86_64) kinds+=,pass-through,containers ;;
      *) kinds+=,dtc ;;
    esac
  fi
  if [ "$arch" != "$HOST_ARCH" ]; then
    part "unit tests" env "$runner=${machine[*]} -t 1800 -m 3072 --" MOTE_REQUIRE=dtc \
      cargo test "${target[@]}" --lib --bins --examples
    part "the agent and its protocol" env "$runner=${machine[*]} --" MOTE_REQUIRE=namespaces,cgroup2 \
      cargo test "${target[@]}" "${agent[@]}"
    part "tiny guests on KVM" env "$runner=${machine[*]} -t 1500 -c 2 --" MOTE_REQUIRE=kvm,hardware,id-registers,cpus,halts \
      cargo test "${target[@]}" "${tests[@]}"
  fi
  # One CPU: with more, the emulated x86_64 machine's kernel may trip over code that it patches while another
  # CPU runs it (see on-kvm.sh), and the AArch64 one's would only take longer for the same.
  part "tests with Linux guests (eight minutes or more where the machine is emulated)" \
    env "$runner=${machine[*]} -t 3600 -m 3072 --" MOTE_REQUIRE=$kinds \
    cargo test "${target[@]}" --release --test linux -- --test-threads 2
  if [ "$arch" = "$HOST_ARCH" ]; then
    part "containers that containerd starts" env "$runner=${machine[*]} -t 2400 -m 4096 --" \
      MOTE_REQUIRE=containerd,containerd-versions,cri MOTE_TEST_MOTE="$(realpath "${CARGO_TARGET_DIR:-target}")/$(host_triple)/release/mote" \
      cargo test -p mote-shim --test containerd
  fi
  if [ "$arch" = x86_64 ]; then
    # Some of what a KVM does only shows where there is hardware behind it.
    part "tiny guests on a KVM with hardware" \
      env "$runner=${machine[*]} --" MOTE_REQUIRE=kvm,hardware,halts cargo test --test kvm_dax --test kvm_idle
  elif [ "$kinds" != linux,peers,release ]; then
    part "tiny guests with a GICv2" \
      env "$runner=${machine[*]} -g 2 --" MOTE_REQUIRE=kvm,hardware,gicv2 cargo test "${target[@]}" --test kvm
    part "Linux guests with a GICv2" \
      env "$runner=${machine[*]} -g 2 -t 1800 -m 3072 --" MOTE_REQUIRE=linux,release \
      cargo test "${target[@]}" --release --test linux -- --test-threads 2 boot:: all_cpus_come_online
  fi
}

# at_once: on_kvm for all architectures, at the same time, as an emulated machine keeps one processor busy.
# Every 30 seconds it says how far they are.
at_once() {
  local pid ticks=0 result=0 now
  for arch in $MOTE_ARCHES; do
    set -m # a process group of its own, so that all of it can be ended
    (set -e; lane=$arch; on_kvm "$arch") </dev/null &
    set +m
    lanes+=($!)
  done
  while kill -0 "${lanes[@]}" 2>/dev/null; do
    sleep 1
    ticks=$((ticks + 1))
    [ $((ticks % 30)) = 0 ] || continue
    now=
    for arch in $MOTE_ARCHES; do
      now+="; $(cat "$tmp/$arch.name" 2>/dev/null): $(grep -cs '^test .* \.\.\. ' "$tmp/$arch.part" || true) tests so far"
    done
    say "${now#; }"
  done
  for pid in "${lanes[@]}"; do wait "$pid" || result=$?; done
  lanes=()
  say "all parts: $(paste -sd, "$tmp/times" | sed 's/,/, /g')"
  [ $result = 0 ] || die "failed: $(paste -sd, "$tmp/failed" | sed 's/,/, /g'); what it said is above"
}

lane=
for arch in $MOTE_ARCHES; do (prepare "$arch"); done
say "so far: $(paste -sd, "$tmp/times" | sed 's/,/, /g')"
case $MOTE_ARCHES in
  *\ *) at_once ;;
  *) (on_kvm "$MOTE_ARCHES") ;;
esac

# A test that could not run has said so; none is passed over in silence.
# What one says may stand behind the name of another that is still running.
say "tests that said they could not run here: $(grep -c 'NOT RUN (kind' "$log" || true)"
grep -o 'NOT RUN (kind.*' "$log" >&2 || true
grep '^test result: ' "$log" | tail -n 1
