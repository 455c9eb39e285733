# shellcheck shell=bash
# Sourced by build.sh and cost.sh: the source tree of the guest's kernel, and its configuration.

SOURCE=linux-source-6.12

need_kernel_tools() { need_packages "$SOURCE" make gcc libc6-dev libelf-dev flex bison bc lz4 xz-utils; }

# unpack_kernel: into the current folder. Left out: sources that a guest's configuration never compiles,
# two thirds of the tree.
unpack_kernel() {
  local part skip=()
  for part in arch/{arm,arm64,mips,powerpc} drivers/{gpu,infiniband,media,staging,usb} \
    drivers/net/{ethernet,wireless} sound; do
    skip+=("--exclude=*/$part/*.[chS]" "--exclude=*/$part/*.dts*")
  done
  tar -xf "/usr/src/$SOURCE.tar.xz" --strip-components=1 "${skip[@]}" \
    --exclude='*/Documentation/*/*' --exclude='*/tools/testing/*'
}

# configure_kernel FRAGMENT...: tinyconfig and these over it, a later one over an earlier.
configure_kernel() {
  make -s tinyconfig >/dev/null
  scripts/kconfig/merge_config.sh -m .config "$@" >/dev/null
  # A number of an option that is off is one in an earlier fragment.
  make -s olddefconfig 2> >(grep -v "invalid for" >&2 || true)
}

# check_config FRAGMENT...: Kconfig drops silently what it can't satisfy. Here that is a mistake in a fragment.
check_config() {
  local wanted lost
  # The last word on each option, of all fragments.
  wanted=$(cat "$@" | sed -nE 's/^# (CONFIG_[A-Z0-9_]+) is not set$/\1=n/; /^CONFIG_/p' |
    tac | awk -F= '!seen[$1]++')
  lost=$(grep -v '=n$' <<<"$wanted" | grep -vxFf .config || true)
  lost+=$(sed -n 's/=n$/=y/p' <<<"$wanted" | grep -xFf .config || true)
  [ -z "$lost" ] || die "these options of $(basename -a "$@" | paste -sd ' ') did not take effect: $lost"
}

# make_command: sets the array `make` to the command before the targets. The same inputs give the same bytes.
make_command() {
  make=(nice make "-j$(nproc)" KBUILD_BUILD_USER=mote KBUILD_BUILD_HOST=guest
    "KBUILD_BUILD_TIMESTAMP=$(date -u -r "/usr/src/$SOURCE.tar.xz")")
}
