#!/bin/bash
# peers.sh: the programs at the other end that the tests have devices work with.
#   CACHE/peers/virtiofsd   by cargo install, compiled here, once (2-3 minutes on two cores)
#   CACHE/peers/passt       from a newer Debian release, with that release's C library: Debian 12's
#                           doesn't speak vhost-user yet
# The others are installed, so they are in PATH: iperf3, socat, ethtool, ip, qemu-storage-daemon and
# qemu-img, mkfs.erofs, mkfs.xfs.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$HERE/common.sh"

VIRTIOFSD=1.14.0
PASST_RELEASE=trixie # Debian 13
RECIPE=1             # raise it when a change below changes the result
peers=$MOTE_CACHE_DIR/peers

need_packages e2fsprogs erofs-utils xfsprogs iproute2 iperf3 socat ethtool
# Which of the two has qemu-storage-daemon differs between releases. Both must be of the same one, so
# apt may replace the second when it installs the first.
need_packages qemu-system-common
need_packages qemu-utils
command -v qemu-storage-daemon >/dev/null ||
  die "there is no qemu-storage-daemon, in spite of Debian's qemu-system-common and qemu-utils"

# --- virtiofsd ---
virtiofsd=virtiofsd-$VIRTIOFSD-$RECIPE
make_virtiofsd() {
  need_rust
  need_packages libcap-ng-dev libseccomp-dev
  work_dir
  local log=$MOTE_CACHE_DIR/virtiofsd.log crates
  say "compiling virtiofsd $VIRTIOFSD, once (2-3 minutes on two cores; log: $log)"
  # In a folder of its own, so that this project's settings for cargo (static binaries) don't apply.
  (
    cd "$WORK"
    unset RUSTFLAGS CARGO_BUILD_TARGET CARGO_BUILD_RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
    CARGO_TARGET_DIR=$WORK/target exec nice cargo install --color never --locked --no-track \
      --root "$WORK/out" --version "=$VIRTIOFSD" virtiofsd
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
# debian_mirror: the address from which this host has Debian's packages.
debian_mirror() {
  # shellcheck disable=SC2016 # $(...) is apt's own syntax
  apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 2>/dev/null |
    sed -n '/^Debian|Debian|/{s///p;q}' || true
}

# release_apt DIR RELEASE: an apt of its own in DIR, which knows nothing but a Debian release (from the
# mirror and by the proxy that this host uses) and changes nothing outside of DIR; commands find it by
# APT_CONFIG. The system's own configuration isn't read: it may run commands after each update.
release_apt() {
  local dir=$1 release=$2 mirror mirrors keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  mirrors=$(debian_mirror)
  if [ -z "$mirrors" ]; then # a machine whose package lists were never fetched doesn't know whose they are
    apt_update
    mirrors=$(debian_mirror)
  fi
  [ -n "$mirrors" ] || die "no source of this host's apt is a Debian archive, where a passt of $release would come from"
  [ -e "$keyring" ] || need_packages debian-archive-keyring
  mkdir -p "$dir"/{state/lists/partial,cache/archives/partial}
  : >"$dir/state/status"
  {
    apt-config dump | grep '^Acquire::' | grep -vE '^Acquire::(IndexTargets|Languages|Changelogs)' || true
    cat <<CONF
Dir::State "$dir/state";
Dir::State::status "$dir/state/status";
Dir::Cache "$dir/cache";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "$dir/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User "root";
Acquire::Languages "none";
CONF
  } >"$dir/apt.conf"
  for mirror in $mirrors; do
    echo "deb [signed-by=$keyring] $mirror $release main" >"$dir/sources.list"
    ! APT_CONFIG=$dir/apt.conf apt-get -qq update || return 0
  done
  die "couldn't fetch the package lists of $release, for passt: the reason is above"
}

make_passt() {
  work_dir
  say "fetching the package lists of Debian's $PASST_RELEASE, for passt (10 MB, in the cache's own folder)"
  release_apt "$WORK/apt" "$PASST_RELEASE"
  (
    export APT_CONFIG=$WORK/apt/apt.conf
    export MOTE_APT_UPDATED=1
    fetch_package passt "$WORK/out"
    fetch_package libc6 "$WORK/out"
  )
  rm -rf "$WORK/out/usr/share" "$WORK/out/usr/lib/x86_64-linux-gnu/gconv"
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
  grep -q vhost-user <<<"$("$WORK/out/passt" --help 2>&1 || true)" || die "this passt doesn't speak vhost-user, or doesn't run"
  into_cache "$WORK/out" "$peers/$passt"
  rm -rf "$WORK"
  say "passt is ready: $peers/$passt"
}

if [ ! -d "$peers/$virtiofsd" ] || [ ! -d "$peers/$passt" ]; then
  lock peers # another process may make them while this one waits
  [ -d "$peers/$passt" ] || make_passt
  [ -d "$peers/$virtiofsd" ] || make_virtiofsd
fi
point "$peers/passt" "$passt/passt"
point "$peers/virtiofsd" "$virtiofsd/bin/virtiofsd"
