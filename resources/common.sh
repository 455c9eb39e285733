# shellcheck shell=bash
# Sourced by the scripts in resources/: progress lines, the cache, Debian packages, locks.
# A script that sources it has `set -euo pipefail` on.

# Where everything that is made once per machine lives. `mote` looks for its default guest here too.
MOTE_CACHE_DIR=${MOTE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mote}

# mke2fs, debugfs and depmod live in sbin, which isn't in every user's PATH.
PATH=$PATH:/usr/sbin:/sbin

# This host's architecture, and the guest's (x86_64 or aarch64).
HOST_ARCH=$(uname -m)
MOTE_ARCH=${MOTE_ARCH:-$HOST_ARCH}

# The folder in which cargo puts what it builds for this host: .cargo/config.toml names the target.
host_triple() { rustc -vV | sed -n 's/^host: //p'; }

# One clock, whichever script calls which.
export MOTE_STARTED=${MOTE_STARTED:-$(date +%s)}
SECONDS=$(($(date +%s) - MOTE_STARTED))

# guest_tools: sets `tools`, the prefix of the compiler and the like that build for MOTE_ARCH, and the array
# `tool_packages`, the Debian packages that they are in.
guest_tools() {
  # shellcheck disable=SC2034 # used by whoever calls this
  if [ "$MOTE_ARCH" = "$HOST_ARCH" ]; then
    tools='' tool_packages=(gcc libc6-dev)
  else
    tools=$MOTE_ARCH-linux-gnu-
    tool_packages=("gcc-${MOTE_ARCH/_/-}-linux-gnu" "libc6-dev-$(debian_arch "$MOTE_ARCH")-cross")
  fi
}

# say TEXT: one progress line, with the seconds since it all began.
say() { printf 'mote [%3d s] %s\n' "$SECONDS" "$*" >&2; }

# die TEXT: the reason, in one line, and the end.
die() {
  printf 'mote: %s\n' "$*" >&2
  exit 1
}

# hash_of FILE|STRING...: 16 hex digits that change when a file's content or a string does.
hash_of() {
  local arg
  for arg; do
    if [ -f "$arg" ]; then sha256sum <"$arg"; else printf '%s\n' "$arg"; fi
  done | sha256sum | cut -c1-16
}

# package_version PACKAGE: the installed version, or nothing.
package_version() {
  # shellcheck disable=SC2016 # ${...} is dpkg-query's own syntax
  dpkg-query -W -f '${db:Status-Status} ${Version}\n' "$1" 2>/dev/null | sed -n 's/^installed //p' || true
}

# have_root: whether as_root can work at all.
have_root() { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }

# as_root COMMAND...: through sudo if that's what it takes.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# apt_update: refreshes the package lists, at most once per run (of all scripts), and only where something needs it.
apt_update() {
  [ -z "${MOTE_APT_UPDATED:-}" ] || return 0
  have_root || die "fresh package lists are needed, and there is no sudo. Run as root: apt-get update"
  export MOTE_APT_UPDATED=1
  say "apt-get update (the package lists: up to half a minute)"
  as_root apt-get -qq -o DPkg::Lock::Timeout=300 update
}

# What the scripts together install where everything is missing, but for Rust: for a user who can't
# install packages, so that they needn't ask for them one script at a time.
ALL_PACKAGES=(ca-certificates make gcc g++ libc6-dev linux-source-6.12 libelf-dev flex bison bc lz4 xz-utils
  busybox-static cpio e2fsprogs fakeroot kmod zstd qemu-system-x86
  qemu-utils iproute2 iperf3 socat ethtool erofs-utils xfsprogs libcap-ng-dev libseccomp-dev device-tree-compiler
  strace util-linux curl python3-venv npm debian-archive-keyring gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-system-arm)

# missing_of PACKAGE...: sets the array `missing` to those that aren't installed.
missing_of() {
  local package
  missing=()
  for package; do
    [ -n "$(package_version "$package")" ] || missing+=("$package")
  done
}

# need_packages PACKAGE...: installs the Debian packages that are missing. Runs nothing if none is.
need_packages() {
  local missing
  missing_of "$@"
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null ||
    die "these Debian packages are needed, and there is no apt-get to install them: ${missing[*]}"
  if ! have_root; then
    missing_of "$@" "${ALL_PACKAGES[@]}"
    die "Debian packages are missing, and there is no sudo. Run as root, once for all scripts:" \
      "apt-get update && apt-get install --no-install-recommends" \
      "$(printf '%s\n' "${missing[@]}" | awk '!seen[$0]++' | paste -sd ' ')"
  fi
  apt_update
  say "installing Debian packages: ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get -qq -o DPkg::Lock::Timeout=300 \
    install -y --no-install-recommends "${missing[@]}" >/dev/null ||
    die "couldn't install them; try: apt-get install ${missing[*]}"
}

# need_rust: cargo and a C linker. A Rust that is there already is taken as it is, unless it is too old.
need_rust() {
  local packages=(gcc libc6-dev) rust=(cargo-web rustc-web rustfmt-web rust-web-clippy) wanted version
  [ -e /etc/ssl/certs/ca-certificates.crt ] || packages+=(ca-certificates) # cargo downloads by https
  need_packages "${packages[@]}"
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../Cargo.toml")
  if ! command -v cargo >/dev/null; then
    apt-cache show cargo-web >/dev/null 2>&1 || ! have_root || apt_update
    apt-cache show cargo-web >/dev/null 2>&1 ||
      die "there is no cargo: install Rust $wanted or newer, with rustup" \
        "or, on Debian 12, as root: apt-get update && apt-get install ${rust[*]}"
    need_packages "${rust[@]}" # a current Rust for Debian 12
  fi
  version=$(cargo --version) || die "cargo is there but doesn't run"
  version=${version#cargo } version=${version%% *}
  printf '%s\n' "$wanted" "$version" | sort -V -C ||
    die "Rust $wanted or newer is needed, and cargo is $version: update it (rustup update)," \
      "or, on Debian 12, have current packages in place of the old: apt-get install ${rust[*]}"
}

# can_open_kvm: looked at before it is opened, as opening makes a file where there is none.
can_open_kvm() { [ -c /dev/kvm ] && { true <>/dev/kvm; } 2>/dev/null; }

# newest_package META: the package that Debian's meta package META now stands for,
# e.g. linux-image-6.12-amd64 -> linux-image-6.12.<n>+deb<m>-amd64.
newest_package() {
  local meta=$1
  apt-cache show "$meta" >/dev/null 2>&1 || apt_update
  apt-cache depends "$meta" 2>/dev/null | sed -n '0,/Depends: linux-image-/s/^ *Depends: \(linux-image-[^ ]*\).*/\1/p' || true
}

# newest_version PACKAGE: the version that fetch_package fetches.
newest_version() { apt-cache policy "$1" | sed -n 's/^ *Candidate: //p'; }

# fetch_package PACKAGE DIR: downloads a Debian package and unpacks it into DIR; it isn't installed.
fetch_package() {
  local package=$1 dir=$2 deb size
  size=$(apt-cache show "$package" | awk '/^Size:/ && !size { size = $2 } END { print size + 0 }')
  say "downloading $package ($((size / 1000000)) MB; not installed, only unpacked in the cache)"
  mkdir -p "$dir"
  # The list may name a version that the archive no longer has: then a fresh list helps.
  (cd "$dir" && apt-get -qq -o APT::Sandbox::User=root download "$package") ||
    { apt_update && (cd "$dir" && apt-get -qq -o APT::Sandbox::User=root download "$package"); }
  for deb in "$dir"/*.deb; do
    dpkg -x "$deb" "$dir"
    rm "$deb"
  done
}

# debian_sources: where this host has Debian's packages from: lines of an address and a release.
debian_sources() {
  # shellcheck disable=SC2016 # $(...) is apt's own syntax
  apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(RELEASE)' 'Created-By: Packages' 2>/dev/null |
    sed -n 's/^Debian //p' | awk '!seen[$0]++' || true
}

# private_apt DIR ARCH [RELEASE]: an apt of its own in DIR, which knows nothing but Debian for ARCH, of this
# host's release or another (from the mirrors and by the proxy that this host uses), and changes nothing
# outside of DIR; commands find it by APT_CONFIG=DIR/apt.conf. The system's own configuration isn't read:
# it may run commands after each update. Lists that are less than a day old aren't fetched again.
private_apt() {
  local dir=$1 arch release=${3:-} sources keyring=/usr/share/keyrings/debian-archive-keyring.gpg url suite
  arch=$(debian_arch "$2")
  [ -z "$(find "$dir/fresh" -mtime -1 2>/dev/null)" ] || return 0
  sources=$(debian_sources)
  if [ -z "$sources" ]; then # a machine whose package lists were never fetched doesn't know whose they are
    apt_update
    sources=$(debian_sources)
  fi
  [ -n "$sources" ] || die "no source of this host's apt is a Debian archive, and packages for $arch are needed from there"
  [ -e "$keyring" ] || need_packages debian-archive-keyring
  mkdir -p "$dir"/{state/lists/partial,cache/archives/partial}
  : >"$dir/state/status"
  {
    apt-config dump | grep '^Acquire::' | grep -vE '^Acquire::(IndexTargets|Languages|Changelogs)' || true
    cat <<CONF
Dir::State "$dir/state";
Dir::State::status "$dir/state/status";
Dir::Cache "$dir/cache";
Dir::Cache::srcpkgcache "";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "$dir/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::GzipIndexes "true";
Debug::NoLocking "true";
CONF
  } >"$dir/apt.conf"
  # Another release is looked for on each mirror: the one with the security updates doesn't have it.
  while read -r url suite; do
    echo "deb [signed-by=$keyring] $url ${release:-$suite} main"
  done <<<"$sources" | awk '!seen[$0]++' >"$dir/all.list"
  if [ -z "$release" ]; then
    mv "$dir/all.list" "$dir/sources.list"
    say "fetching Debian's package lists for $arch (10 MB, in the cache's own folder)"
    APT_CONFIG=$dir/apt.conf apt-get -qq update || die "couldn't fetch Debian's package lists for $arch: the reason is above"
  else
    say "fetching the package lists of Debian's $release for $arch (10 MB, in the cache's own folder)"
    while read -r url; do
      echo "$url" >"$dir/sources.list"
      ! APT_CONFIG=$dir/apt.conf apt-get -qq update || break
      url=
    done <"$dir/all.list"
    rm "$dir/all.list"
    [ -n "$url" ] || die "couldn't fetch the package lists of $release: the reason is above"
  fi
  touch "$dir/fresh"
}

# debian_arch ARCH: Debian's name for it.
debian_arch() {
  case $1 in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) die "MOTE_ARCH: '$1' is unknown (x86_64 or aarch64)" ;;
  esac
}

# foreign_apt ARCH[-RELEASE] COMMAND...: runs a command or a function (newest_package, fetch_package,
# apt-cache, ...) on Debian's packages for ARCH, in this host's release or another. The system's apt stays as
# it is, and isn't used.
foreign_apt() {
  local arch=$1 dir=$MOTE_CACHE_DIR/apt/$1
  shift
  if [ "$arch" = "$HOST_ARCH" ]; then # the system's own will do
    [ -n "$(debian_sources)" ] || apt_update
    "$@"
    return
  fi
  (
    mkdir -p "$dir"
    exec {apt_fd}>"$dir/.lock"
    flock "$apt_fd"
    case $arch in
      *-*) private_apt "$dir" "${arch%%-*}" "${arch#*-}" ;;
      *) private_apt "$dir" "$arch" ;;
    esac
    exec {apt_fd}>&-
    export APT_CONFIG=$dir/apt.conf MOTE_APT_UPDATED=1
    "$@"
  )
}

# foreign_packages ARCH[-RELEASE] DIR PACKAGE...: downloads Debian packages for ARCH and unpacks them into DIR.
foreign_packages() {
  local arch=$1 dir=$2 package
  shift 2
  for package; do foreign_apt "$arch" fetch_package "$package" "$dir"; done
}

# foreign_tree ARCH[-RELEASE] DIR PACKAGE...: the same with all that they depend on, as a root file system's tree
# (with /bin, /lib and /sbin in /usr). No package's scripts are run.
foreign_tree() {
  local arch=$1 dir=$2
  shift 2
  foreign_apt "$arch" unpack_tree "$dir" "$@"
}
unpack_tree() {
  local dir=$1 name deb all
  shift
  for name in bin sbin lib; do
    mkdir -p "$dir/usr/$name"
    ln -sfn "usr/$name" "$dir/$name"
  done
  mkdir -p "$dir/.debs/partial"
  all=(-o "Dir::Cache::archives=$(cd "$dir" && pwd)/.debs" install -y --no-install-recommends "$@")
  say "downloading Debian packages, with all that they need ($(apt-get "${all[@]}" --print-uris |
    awk '/^.http/ { n++; size += $3 } END { printf "%d of them, %d MB", n, size / 1000000 }'); only unpacked in the cache)"
  apt-get -qq "${all[@]}" --download-only >/dev/null
  for deb in "$dir"/.debs/*.deb; do # dpkg -x would put folders in place of the links
    dpkg --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$dir"
  done
  rm -r "$dir/.debs"
}

# copy_modules ROOT VERSION DIR MODULE...: takes kernel modules, with all that they depend on, out of an
# unpacked kernel package into DIR, unpacked; DIR/order lists them in the order in which to load them.
copy_modules() {
  local root=$1 version=$2 dir=$3 module name
  shift 3
  depmod -b "$root" "$version"
  mkdir -p "$dir"
  modprobe -d "$root" -S "$version" --show-depends -a "$@" |
    sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' | while read -r module; do
    name=$(basename "$module" .ko.xz)
    xz -dc "$module" >"$dir/$name.ko"
    echo "$name" >>"$dir/order"
  done
}

# cpio_of DIR: an initramfs archive of DIR on stdout; the same content gives the same bytes.
cpio_of() { (cd "$1" && find . | LC_ALL=C sort | cpio --quiet --reproducible -o -H newc -R 0:0); }

# as_owner COMMAND...: with every file owned by root, whoever builds.
as_owner() { if [ "$(id -u)" = 0 ]; then "$@"; else fakeroot "$@"; fi; }

# ext4_of TREE IMAGE SIZE INODES: a file system of a folder's content, made with no root rights and no
# mounts; the same content gives the same bytes. Needs e2fsprogs, and fakeroot for whoever isn't root.
ext4_of() {
  local tree=$1 image=$2 size=$3 inodes=$4 uuid=6d6f7465-0000-4000-8000-000000000001 date=1700000000 log
  find "$tree" -exec touch --no-dereference --date="@$date" {} +
  # No journal: one image serves many boots, and a journal is only read and replayed at each. Directory
  # hashes and the UUID are fixed, since they are random otherwise.
  log=$(E2FSPROGS_FAKE_TIME=$date SOURCE_DATE_EPOCH=$date as_owner mke2fs -q -t ext4 -d "$tree" -b 4096 \
    -N "$inodes" -m 0 -L mote-root -U $uuid -O '^has_journal,^resize_inode,^metadata_csum_seed,^orphan_file' \
    -E "hash_seed=$uuid,root_owner=0:0,lazy_itable_init=0" "$image" "$size" 2>&1) || die "mke2fs failed: $log"
  # It copies the times of the last change of each file's inode too, which can't be set on a file.
  inodes=$(dumpe2fs "$image" 2>/dev/null |
    awk -F: '/^Inode count:/ { all = $2 } /^Free inodes:/ { free = $2 } END { print all - free }')
  seq 1 "$inodes" | sed "s/.*/sif <&> ctime @$date\nsif <&> atime @$date/" |
    E2FSPROGS_FAKE_TIME=$date debugfs -w -f - "$image" >/dev/null 2>&1
}

# lock NAME: waits until no other process builds the same thing. Held until the script ends.
lock() {
  mkdir -p "$MOTE_CACHE_DIR"
  exec {lock_fd}>"$MOTE_CACHE_DIR/.lock-$1"
  flock --nonblock "$lock_fd" && return
  say "another process is building the same thing ($1): waiting for it"
  flock "$lock_fd"
}

# work_dir: a fresh folder in the cache, so that a rename out of it is atomic; removed at the end.
work_dir() {
  mkdir -p "$MOTE_CACHE_DIR"
  WORK=$(mktemp -d "$MOTE_CACHE_DIR/.build.XXXXXX")
  trap 'rm -rf "$WORK"' EXIT
}

# into_cache NEW FINAL: puts a finished folder in its place, whole or not at all.
into_cache() {
  mkdir -p "$(dirname "$2")"
  mv -T "$1" "$2" 2>/dev/null || [ -d "$2" ] # another process was first: the same content
}

# point LINK TARGET: makes or replaces a symbolic link in one step (nobody sees it missing).
point() {
  mkdir -p "$(dirname "$1")"
  ln -sfn "$2" "$1.$$"
  mv -T "$1.$$" "$1"
}
