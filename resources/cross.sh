#!/bin/bash
# cross.sh [ARCH]: what it takes to build for another architecture (aarch64) on this host: the cross compiler,
# for its linker and C library, and Rust's standard library. Prints the settings that cargo needs:
#   eval "$(resources/cross.sh)"
#   cargo build --release --target aarch64-unknown-linux-gnu
#   cargo test --target aarch64-unknown-linux-gnu      # runs the tests by resources/on-kvm.sh
# On a host of that architecture there is nothing to do, and nothing is printed.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$HERE/common.sh"

ARCH=${1:-aarch64}
RECIPE=1 # raise it when a change below changes the result
[ "$ARCH" != "$HOST_ARCH" ] || exit 0
[ "$HOST_ARCH-$ARCH" = x86_64-aarch64 ] || die "cross.sh knows how to build for aarch64 on x86_64, and not for $ARCH on $HOST_ARCH"
triple=$ARCH-unknown-linux-gnu

need_rust
need_packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross

# has_std RUSTC: whether this compiler has the standard library for the target.
has_std() { [ -d "$("$1" --print sysroot)/lib/rustlib/$triple/lib" ]; }

# add_target: what rustup is asked for. It may have no way to its server.
add_target() {
  command -v rustup >/dev/null || return 1
  say "rustup target add $triple (27 MB)"
  timeout 300 rustup --quiet target add "$triple" >&2 || { say "rustup couldn't: taking Debian's Rust instead"; return 1; }
  has_std rustc
}

# needs PACKAGE PREFIX: the package that one needs whose name begins so.
needs() { foreign_apt "$HOST_ARCH" apt-cache depends "$1" | sed -n "s/.*Depends: \($2.*\)$/\1/p" | head -1; }

# debian_rust DIR: Debian's current Rust, unpacked, with the standard libraries of both.
debian_rust() {
  local dir=$1 library llvm tool
  library=$(needs libstd-rust-web-dev libstd-rust-web-)
  [ -n "$library" ] || die "there is no Rust library for $triple: \`rustup target add $triple\` adds one where rustup can reach" \
    "its server; Debian 12's security suite has one too (libstd-rust-web-dev), but this host's apt doesn't know that"
  llvm=$(needs "$library" libllvm)
  # shellcheck disable=SC2086 # there may be no such package
  foreign_packages "$HOST_ARCH" "$dir" rustc-web "$library" libstd-rust-web-dev $llvm
  foreign_packages "$ARCH" "$dir" libstd-rust-web-dev
  rm -rf "${dir:?}/usr/share"
  mkdir "$dir/bin"
  for tool in rustc rustdoc; do
    cat >"$dir/bin/$tool" <<WRAPPER
#!/bin/sh
root=\$(dirname "\$(dirname "\$(readlink -f "\$0")")")
export LD_LIBRARY_PATH="\$root/usr/lib/$HOST_ARCH-linux-gnu\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
exec "\$root/usr/bin/$tool" "\$@"
WRAPPER
    chmod 755 "$dir/bin/$tool"
  done
}

set_rustc=
if ! has_std "${RUSTC:-rustc}"; then
  unpacked=$MOTE_CACHE_DIR/rust/$ARCH-$RECIPE
  [ -d "$unpacked" ] || lock "rust-$ARCH" # another process may make it while this one waits
  if [ ! -d "$unpacked" ] && ! has_std rustc && ! add_target; then
    work_dir
    debian_rust "$WORK/out"
    has_std "$WORK/out/bin/rustc" || die "Debian's Rust came without the library for $triple"
    into_cache "$WORK/out" "$unpacked"
    rm -rf "$WORK"
    say "Rust for $triple is ready: $unpacked"
  fi
  has_std "${RUSTC:-rustc}" || set_rustc=$unpacked/bin
fi
prefix=CARGO_TARGET_$(tr a-z- A-Z_ <<<"$triple")
cat <<END
export ${prefix}_LINKER=aarch64-linux-gnu-gcc
export ${prefix}_RUNNER='$HERE/on-kvm.sh -a $ARCH --'
END
[ -z "$set_rustc" ] || printf "export RUSTC='%s/rustc' RUSTDOC='%s/rustdoc'\n" "$set_rustc" "$set_rustc"
