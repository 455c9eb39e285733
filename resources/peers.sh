#!/bin/bash
# peers.sh: the programs at the other end that the tests have devices work with; MOTE_ARCH says for which
# architecture.
#   CACHE/peers/ARCH/virtiofsd   by cargo install, compiled here, once (2-3 minutes on two cores)
#   CACHE/peers/ARCH/passt       from a newer Debian release, with that release's C library: Debian 12's
#                                doesn't speak vhost-user yet
# The others are installed, so they are in PATH: iperf3, socat, ethtool, ip, qemu-storage-daemon and
# qemu-img, mkfs.erofs, mkfs.xfs. (The emulated machine of another architecture has them anyway.)
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$HERE/common.sh"

VIRTIOFSD=1.14.0
PASST_RELEASE=trixie # Debian 13
RECIPE=1             # raise it when a change below changes the result
ARCH=$MOTE_ARCH
peers=$MOTE_CACHE_DIR/peers/$ARCH

if [ "$ARCH" = "$HOST_ARCH" ]; then
  need_packages e2fsprogs erofs-utils xfsprogs iproute2 iperf3 socat ethtool
  # Which of the two has qemu-storage-daemon differs between releases. Both must be of the same one, so
  # apt may replace the second when it installs the first.
  need_packages qemu-system-common
  need_packages qemu-utils
  command -v qemu-storage-daemon >/dev/null ||
    die "there is no qemu-storage-daemon, in spite of Debian's qemu-system-common and qemu-utils"
fi

# --- virtiofsd ---
virtiofsd=virtiofsd-$VIRTIOFSD-$RECIPE
make_virtiofsd() {
  need_rust
  work_dir
  local log=$MOTE_CACHE_DIR/virtiofsd-$ARCH.log crates triple=$ARCH-unknown-linux-gnu flags=() settings libraries
  if [ "$ARCH" = "$HOST_ARCH" ]; then
    need_packages libcap-ng-dev libseccomp-dev
    triple=$(host_triple)
  else
    settings=$("$HERE/cross.sh" "$ARCH")
    eval "$settings"
    foreign_packages "$ARCH" "$WORK/libraries" libcap-ng-dev libcap-ng0 libseccomp-dev libseccomp2
    for libraries in "$WORK"/libraries/{,usr/}lib/"$ARCH-linux-gnu"; do flags+=(-L "native=$libraries"); done
  fi
  say "compiling virtiofsd $VIRTIOFSD for $ARCH, once (2-3 minutes on two cores; log: $log)"
  # In a folder of its own, so that this project's settings for cargo (static binaries) don't apply.
  (
    cd "$WORK"
    unset CARGO_BUILD_TARGET CARGO_BUILD_RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
    RUSTFLAGS="${flags[*]}" CARGO_TARGET_DIR=$WORK/target exec nice cargo install --color never --locked \
      --no-track --target "$triple" --root "$WORK/out" --version "=$VIRTIOFSD" virtiofsd
  ) >"$log" 2>&1 &
  build=$!
  trap 'kill $build 2>/dev/null || true; wait || true; rm -rf "$WORK"' EXIT
  while kill -0 $build 2>/dev/null; do
    for _ in $(seq 40); do # half a second at a time, so as to end soon after the compiler
      kill -0 $build 2>/dev/null || break 2
      sleep 0.5
    done
    crates=$(grep -c '^ *Compiling ' "$log" || true)
    say "virtiofsd: $crates of about 94 crates"
  done
  if ! wait $build; then
    tail -n 20 "$log" >&2
    die "virtiofsd did not compile; the whole log is in $log"
  fi
  into_cache "$WORK/out" "$peers/$virtiofsd"
  rm -rf "$WORK"
  say "virtiofsd is ready: $peers/$virtiofsd"
}

# --- passt ---
passt=passt-$PASST_RELEASE-$RECIPE
make_passt() {
  work_dir
  foreign_packages "$ARCH-$PASST_RELEASE" "$WORK/out" passt libc6
  rm -rf "$WORK/out/usr/share" "$WORK/out/usr/lib/$ARCH-linux-gnu/gconv"
  # Run by its own loader, with its own C library. passt would start a faster build of itself, which it
  # looks for by the name of /proc/self/exe, unless that is one: so the loader gets a name like one.
  mv "$(readlink -f "$WORK"/out/usr/lib*/ld-linux-*.so.*)" "$WORK/out/loader.avx2"
  cat >"$WORK/out/passt" <<'WRAPPER'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")
for library in "$root"/usr/lib/*/libc.so.6; do
  exec "$root/loader.avx2" --argv0 passt --library-path "${library%/*}" "$root/usr/bin/passt" "$@"
done
WRAPPER
  chmod 755 "$WORK/out/passt"
  if [ "$ARCH" = "$HOST_ARCH" ]; then
    grep -q vhost-user <<<"$("$WORK/out/passt" --help 2>&1 || true)"
  else
    grep -q vhost-user "$WORK/out/usr/bin/passt"
  fi || die "this passt doesn't speak vhost-user, or doesn't run"
  into_cache "$WORK/out" "$peers/$passt"
  rm -rf "$WORK"
  say "passt is ready: $peers/$passt"
}

if [ ! -d "$peers/$virtiofsd" ] || [ ! -d "$peers/$passt" ]; then
  lock "peers-$ARCH" # another process may make them while this one waits
  [ -d "$peers/$passt" ] || make_passt
  [ -d "$peers/$virtiofsd" ] || make_virtiofsd
fi
point "$peers/passt" "$passt/passt"
point "$peers/virtiofsd" "$virtiofsd/bin/virtiofsd"
