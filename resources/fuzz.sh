#!/bin/bash
# fuzz.sh: the fuzz targets of fuzz/, with coverage (libFuzzer) and AddressSanitizer, on a stable Rust.
#   fuzz.sh build                                    all targets
#   fuzz.sh run [-r RUNS] [-t SECONDS] [TARGET...]   each of them in turn, until it has had as many runs or seconds
#                                                    (10 s if neither is given); ends with a table, and with
#                                                    status 1 if there was a crash
#   fuzz.sh repeat TARGET FILE                       one input again
#   fuzz.sh tests [FILTER...]                        the unit tests with AddressSanitizer
#   fuzz.sh seed                                     the first inputs, into fuzz/corpus
#   fuzz.sh keep [TARGET...]                         the smallest set of what was found with the same coverage, too
# What is found is in target/fuzz/corpus, and inputs of crashes in target/fuzz/crashes.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$HERE/common.sh"
cd "$HERE/.."

need_rust
triple=$(host_triple)
work=${CARGO_TARGET_DIR:-target}/fuzz
mkdir -p "$work"
work=$(cd "$work" && pwd)
programs=$work/$triple/release

# What an input may take, at most: time and memory, and at once.
limits=(-timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=512)

targets() {
  local file
  for file in fuzz/fuzz_targets/*.rs; do basename "$file" .rs; done
}

# sanitizer: the flags for AddressSanitizer, if this Rust has it. A stable one has the runtime, and takes the flags if
# it is told that it builds a part of itself.
sanitizer() {
  local runtimes
  runtimes=$(rustc --print sysroot)/lib/rustlib/$triple/lib
  if compgen -G "$runtimes/librustc-*_rt.asan.a" >/dev/null; then
    echo "-Zsanitizer=address"
  else
    say "this Rust comes without AddressSanitizer: going on without it"
  fi
}

# flagged FLAGS COMMAND...: with RUSTFLAGS in place of those of .cargo/config.toml, as ASan can't be in a static program.
flagged() {
  local flags=$1
  shift
  env -u CARGO_ENCODED_RUSTFLAGS RUSTC_BOOTSTRAP=1 RUSTFLAGS="$flags" CARGO_TARGET_DIR="$work" "$@"
}

# The flags are those of `cargo fuzz`.
build() {
  local flags="--cfg fuzzing -Cpasses=sancov-module" flag
  for flag in -level=4 -inline-8bit-counters -pc-table -trace-compares; do
    flags+=" -Cllvm-args=-sanitizer-coverage$flag"
  done
  need_packages g++ # libFuzzer is in C++
  flags+=" $(sanitizer)"
  say "building the fuzz targets"
  flagged "$flags" cargo build --release --locked --manifest-path fuzz/Cargo.toml --target "$triple"
}

# options TARGET: what libFuzzer is told.
options() {
  local dictionary=fuzz/dictionaries/$1
  echo "${limits[@]}" "-artifact_prefix=$work/crashes/$1-" -print_final_stats=1
  if [ -e "$dictionary" ]; then echo "-dict=$dictionary"; fi
}

run() {
  local runs=-1 seconds=0 option target log begin status crashed=() table=$work/table
  while getopts r:t: option; do
    case $option in
      r) runs=$OPTARG ;;
      t) seconds=$OPTARG ;;
      *) exit 2 ;;
    esac
  done
  shift $((OPTIND - 1))
  if [ "$runs$seconds" = -10 ]; then seconds=10; fi
  [ $# -gt 0 ] || mapfile -t all < <(targets)
  mkdir -p "$work/crashes" "$work/logs"
  printf '%-12s %12s %8s %8s %8s  %s\n' target runs seconds edges inputs crashes >"$table"
  for target in "${@:-${all[@]}}"; do
    [ -x "$programs/$target" ] || die "$target: there is no such target, or it isn't built: resources/fuzz.sh build"
    mkdir -p "$work/corpus/$target"
    log=$work/logs/$target begin=$(date +%s%N) status=0
    # shellcheck disable=SC2046 # words, none of them with a space
    "$programs/$target" $(options "$target") -runs="$runs" -max_total_time="$seconds" \
      "$work/corpus/$target" "fuzz/corpus/$target" >"$log" 2>&1 || status=$?
    row "$target" "$log" "$begin" $status | tee -a "$table"
    [ $status = 0 ] || crashed+=("$target")
  done
  say "all targets"
  cat "$table"
  for target in "${crashed[@]}"; do
    say "$target crashed; the end of what it said:"
    tail -n 30 "$work/logs/$target" >&2
    grep -o 'Test unit written to .*' "$work/logs/$target" |
      sed "s,.* ,again with: resources/fuzz.sh repeat $target ,"
  done
  [ ${#crashed[@]} = 0 ]
}

# row TARGET LOG BEGIN STATUS: its line of the table.
row() {
  local runs_done crashes=0
  runs_done=$(sed -n 's/^stat::number_of_executed_units: *//p' "$2" | tail -n 1)
  [ "$4" = 0 ] || crashes=1
  printf '%-12s %12s %8s %8s %8s  %s\n' "$1" "${runs_done:--}" "$((($(date +%s%N) - $3) / 1000000000))" \
    "$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' "$2" | tail -n 1)" "$(find "$work/corpus/$1" -type f | wc -l)" $crashes
}

# keep TARGET...: the committed inputs are few and small, as each test run replays them.
keep() {
  local target fresh
  [ $# -gt 0 ] || mapfile -t all < <(targets)
  for target in "${@:-${all[@]}}"; do
    fresh=$work/kept/$target
    rm -rf "$fresh"
    mkdir -p "$fresh"
    "$programs/$target" "${limits[@]}" -merge=1 "$fresh" "fuzz/corpus/$target" "$work/corpus/$target" \
      >"$work/logs/$target.merge" 2>&1
    # The seeds stay, and of the rest those up to 1 KiB, the small ones first, up to 24 KiB in all.
    find "fuzz/corpus/$target" -type f -name '[0-9a-f]*' -regextype egrep -regex '.*/[0-9a-f]{40}' -delete
    (cd "$fresh" && ls -Sr) | {
      total=0
      while read -r file; do
        size=$(stat -c %s "$fresh/$file")
        total=$((total + size))
        if [ "$size" -gt 1024 ] || [ $total -gt 24576 ]; then break; fi
        cp "$fresh/$file" "fuzz/corpus/$target/"
      done
    }
    say "$target: $(find "fuzz/corpus/$target" -type f | wc -l) inputs"
  done
}

case ${1:-} in
  build) build ;;
  run) shift && run "$@" ;;
  repeat)
    [ $# = 3 ] || die "usage: fuzz.sh repeat TARGET FILE"
    "$programs/$2" "${limits[@]}" "$3"
    ;;
  tests)
    shift
    flagged "$(sanitizer)" env ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0:detect_stack_use_after_return=0}" cargo test --lib --target "$triple" -- "$@"
    ;;
  seed) cargo test --lib -- --ignored --exact fuzzing::seeds::write ;;
  keep) shift && keep "$@" ;;
  *) sed -n '2,/^set/{/^#/p}' "$0" | cut -c3- >&2 && exit 2 ;;
esac
