#!/bin/bash
# api-clients.sh: clients of the API that nobody here wrote, for the tests (tests/api/clients.rs, openapi.rs).
#   CACHE/peers/ARCH/api-clients/python          firecracker-python from PyPI, and what checks OpenAPI, in a venv
#   CACHE/peers/ARCH/api-clients/bin/api-client  a program of tests/clients/rust with the crate `firecracker`, which
#                                                takes Node's npx to compile (4-6 minutes on two cores, once)
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$HERE/common.sh"

clients=$MOTE_CACHE_DIR/peers/$HOST_ARCH/api-clients
from=$HERE/../tests/clients
packages=(firecracker-python==0.0.5 setuptools==80.9.0 jsonschema==4.26.0 openapi-spec-validator==0.9.0 PyYAML==6.0.3)
recipe=$(hash_of "$from/rust/Cargo.lock" "$from/rust/src/main.rs" "${packages[*]}")

[ "$(cat "$clients/recipe" 2>/dev/null || true)" != "$recipe" ] || exit 0
lock api-clients # another process may make them while this one waits
[ "$(cat "$clients/recipe" 2>/dev/null || true)" != "$recipe" ] || exit 0
mkdir -p "$clients/bin"
need_rust
python3 -c 'import ensurepip, venv' 2>/dev/null || need_packages python3-venv
command -v npx >/dev/null || need_packages npm

say "getting the API's clients from PyPI and crates.io, once (log: $clients/log)"
if ! { python3 -m venv "$clients/python" && "$clients/python/bin/pip" -q install "${packages[@]}"; } >"$clients/log" 2>&1
then
  say "no Python client: $(tail -1 "$clients/log")"
  exit 0 # the tests say that they weren't run
fi
work_dir
# Without this project's settings for cargo (static binaries).
if (
  cp -r "$from/rust" "$WORK/rust"
  cd "$WORK/rust"
  unset CARGO_BUILD_TARGET CARGO_BUILD_RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
  npm_config_yes=true CARGO_TARGET_DIR=$WORK/target nice cargo build --locked --color never
) >>"$clients/log" 2>&1; then
  cp "$WORK/target/debug/api-client" "$clients/bin/"
  echo "$recipe" >"$clients/recipe"
  say "the API's clients are ready: $clients"
else
  say "no client of crates.io: see $clients/log" # the same
fi
