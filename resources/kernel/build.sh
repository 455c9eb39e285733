#!/bin/bash
# build.sh [PROFILE]: a guest's kernel, from Debian's linux-source and ARCH.config.
# Built once per machine (4-5 minutes on two cores) and kept in the cache; later calls return at once.
#   CACHE/guest/ARCH/   what mote and the tests boot (links into the hashed folder):
#     x86_64: vmlinux, bzImage
#     aarch64: Image, Image.gz; and vmlinux, which no one boots, for its symbols
# MOTE_ARCH is the guest's architecture; by default it is this host's.
# With a PROFILE, PROFILE.config or ARCH-PROFILE.config goes over it (docs/kernel.md):
#   containers   CACHE/guest/ARCH-containers/, the same files
#   record       CACHE/guest/x86_64-record/vmlinux, bzImage; for x86_64 only
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../common.sh
. "$HERE/../common.sh"
# shellcheck source-path=SCRIPTDIR source=tree.sh
. "$HERE/tree.sh"

NAME=$MOTE_ARCH${1:+-$1} # of the folder in the cache
CONFIGS=("$HERE/$MOTE_ARCH.config")
if [ -n "${1:-}" ]; then
  CONFIGS+=("$HERE/$1.config")
  [ -f "${CONFIGS[-1]}" ] || CONFIGS[-1]=$HERE/$NAME.config # one of this architecture's own
fi
[ -f "${CONFIGS[-1]}" ] || die "there is no profile '$1' for $MOTE_ARCH: neither $1.config nor $NAME.config is there"
RECIPE=1 # raise it when a change below changes the result
case $NAME in
  x86_64*) IMAGES=(bzImage) BOOTED=vmlinux ;;
  aarch64*) IMAGES=(Image Image.gz) BOOTED=Image ;;
esac
case $NAME in # files to compile, for the progress line
  x86_64) ESTIMATE=1034 ;;
  x86_64-record) ESTIMATE=620 ;;
  x86_64-containers) ESTIMATE=1095 ;;
  aarch64) ESTIMATE=926 ;;
  *) ESTIMATE=1000 ;;
esac

guest=$MOTE_CACHE_DIR/guest
inputs=$(hash_of "$(cat "${CONFIGS[@]}" | grep -E '^(# )?CONFIG_')" "$RECIPE") # not its comments

# The newest kernel in the cache that was made of this configuration, from whichever package version.
cached() { find "$guest" -maxdepth 1 -name "kernel-$NAME-${1:-*}-$inputs" 2>/dev/null | sort -V | tail -1 || true; }

use() {
  local file
  for file in vmlinux "${IMAGES[@]}"; do point "$guest/$NAME/$file" "../$(basename "$1")/$file"; done
}

version=$(package_version "$SOURCE")
kernel=$(cached "$version")
if [ -n "$kernel" ]; then
  use "$kernel"
  exit
fi

say "the guest kernel isn't in the cache yet: building it, once (4-5 minutes on two cores;" \
  "downloads 155 MB of kernel source and some build tools where they are missing)"
need_kernel_tools
version=$(package_version "$SOURCE")
lock "kernel-$NAME"
kernel=$(cached "$version") # another process may have built it while this one waited
if [ -n "$kernel" ]; then
  use "$kernel"
  exit
fi
work_dir

say "unpacking $SOURCE $version"
cd "$WORK"
unpack_kernel
configure_kernel "${CONFIGS[@]}"
check_config "${CONFIGS[@]}"

# The log outlives the build folder, in case someone has to read it.
log=$MOTE_CACHE_DIR/kernel-$NAME.log
say "compiling Linux $version (log: $log)"
make_command
"${make[@]}" vmlinux "${IMAGES[@]}" >"$log" 2>&1 &
build=$!
trap 'kill $build 2>/dev/null || true; wait || true; rm -rf "$WORK"' EXIT
step=10 end='\n'
if [ -t 2 ]; then step=1 end='\r'; fi
while kill -0 $build 2>/dev/null; do
  for _ in $(seq $((step * 2))); do # half a second at a time, so as to end soon after the compiler
    kill -0 $build 2>/dev/null || break
    sleep 0.5
  done
  files=$(grep -cE '^  (CC|AS) ' "$log" || true)
  percent=$((files * 100 / ESTIMATE))
  # shellcheck disable=SC2059 # $end is part of the format
  printf "mote [%3d s] %4d files compiled, about %d %%$end" $SECONDS "$files" $((percent > 99 ? 99 : percent)) >&2
done
if ! wait $build; then
  tail -n 20 "$log" >&2
  die "the kernel did not compile; the whole log is in $log"
fi

# The symbol table stays: it isn't loaded into the guest, and it names the addresses of an oops.
mkdir out
"${tools}objcopy" --strip-debug vmlinux out/vmlinux
cp "${IMAGES[@]/#/arch/$KERNEL_ARCH/boot/}" .config out/
mv out/.config out/config
kernel=$guest/kernel-$NAME-$version-$inputs
into_cache out "$kernel"
use "$kernel"
say "the guest kernel is ready: $(du -h --apparent-size "$kernel/$BOOTED" | cut -f1) in $kernel"
