#!/bin/bash
# deny.sh: checks the crates that mote is made of, by deny.toml: their licences, that none is there twice or from
#   anywhere but crates.io, and, where the database of advisories can be fetched, that none of them is about one.
#   It takes cargo-deny from PATH; where there is none it compiles one, once (3 minutes on two cores), into
#   CACHE/cargo-deny-VERSION.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$HERE/common.sh"
cd "$HERE/.."

VERSION=0.20.2
need_rust
PATH=$PATH:$MOTE_CACHE_DIR/cargo-deny-$VERSION/bin
if ! command -v cargo-deny >/dev/null; then
  lock cargo-deny
  work_dir
  log=$MOTE_CACHE_DIR/cargo-deny.log
  say "compiling cargo-deny $VERSION, once (3 minutes on two cores; log: $log)"
  # In a folder of its own, so that this project's settings for cargo (static binaries) don't apply.
  (
    cd "$WORK"
    unset CARGO_BUILD_TARGET CARGO_BUILD_RUSTFLAGS CARGO_ENCODED_RUSTFLAGS RUSTFLAGS
    CARGO_TARGET_DIR=$WORK/target exec nice cargo install --color never --locked --no-track --root "$WORK/out" \
      --version "=$VERSION" cargo-deny
  ) >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    die "cargo-deny did not compile; the whole log is in $log"
  }
  into_cache "$WORK/out" "$MOTE_CACHE_DIR/cargo-deny-$VERSION"
fi

# deny CHECKS...: the crates of all but the shim by deny.toml, the shim's by its own.
deny() {
  cargo deny --workspace --exclude mote-shim --locked check "$@" || result=$?
  cargo deny --manifest-path shim/Cargo.toml --config shim/deny.toml --locked check "$@" || result=$?
}

result=0
deny licenses bans sources
# The database is a git repository, which isn't within reach everywhere.
if why=$(timeout 120 cargo deny fetch db 2>&1); then
  deny --disable-fetch advisories
else
  why=$(sed -n 's/^fatal: //p' <<<"$why" | head -n 1)
  printf 'NOT RUN (kind advisories): cargo deny check advisories: the database could not be fetched: %s\n' \
    "${why:-git failed}" >&2
fi
exit $result
