# shellcheck shell=bash
# Sourced by build.sh and cost.sh: the source tree of the guest's kernel, and its configuration.

SOURCE=linux-source-6.12
guest_tools
case $MOTE_ARCH in # the kernel's own name for it
  x86_64) KERNEL_ARCH=x86 ;;
  aarch64) KERNEL_ARCH=arm64 ;;
  *) die "MOTE_ARCH: '$MOTE_ARCH' is unknown (x86_64 or aarch64)" ;;
esac
KERNEL_MAKE=(make "ARCH=$KERNEL_ARCH" "CROSS_COMPILE=$tools")

need_kernel_tools() {
  # The kernel's build compiles programs for this host, too.
  local packages=("$SOURCE" make gcc libc6-dev "${tool_packages[@]}" flex bison bc xz-utils)
  [ "$MOTE_ARCH" != x86_64 ] || packages+=(libelf-dev lz4)
  need_packages "${packages[@]}"
}

# unpack_kernel: into the current folder. Left out: sources that a guest's configuration never compiles,
# two thirds of the tree.
unpack_kernel() {
  local part skip=()
  for part in arch/{arm,arm64,mips,powerpc,x86} drivers/{gpu,infiniband,media,staging,usb} \
    drivers/net/{ethernet,wireless} sound; do
    [ "$part" != "arch/$KERNEL_ARCH" ] || continue
    skip+=("--exclude=*/$part/*.[chS]" "--exclude=*/$part/*.dts*")
  done
  tar -xf "/usr/src/$SOURCE.tar.xz" --strip-components=1 "${skip[@]}" \
    --exclude='*/Documentation/*/*' --exclude='*/tools/testing/*'
}

# configure_kernel FRAGMENT...: tinyconfig and these over it, a later one over an earlier.
configure_kernel() {
  "${KERNEL_MAKE[@]}" -s tinyconfig >/dev/null
  scripts/kconfig/merge_config.sh -m .config "$@" >/dev/null
  # A number of an option that is off is one in an earlier fragment.
  "${KERNEL_MAKE[@]}" -s olddefconfig 2> >(grep -v "invalid for" >&2 || true)
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
  # shellcheck disable=SC2034 # used by whoever calls this
  make=(nice "${KERNEL_MAKE[@]}" "-j$(nproc)" KBUILD_BUILD_USER=mote KBUILD_BUILD_HOST=guest
    "KBUILD_BUILD_TIMESTAMP=$(date -u -r "/usr/src/$SOURCE.tar.xz")")
}
