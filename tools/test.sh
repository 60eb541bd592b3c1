#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test this machine can run; says what it skipped
# and why. The argument is a preset: release (default), cpu, asan or tsan. Further arguments go to
# CMake.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/setup.sh

preset=${1:-release}
shift $(($# > 0))
case $preset in
  release | cpu | asan | tsan) ;;
  *) die "usage: tools/test.sh [release|cpu|asan|tsan [CMAKE FLAG...]]" ;;
esac
build=build/$preset

# may_hold_tests FOLDER: whether it has 2 GiB, and programs in it may be started. In containers
# /dev/shm often lacks the one or the other.
may_hold_tests() {
  local probe free status=0
  [[ -w $1 ]] || return 1
  free=$(df -k --output=avail "$1" | tail -1)
  ((free > 2 << 20)) || return 1
  probe=$(mktemp -d -p "$1")
  printf '#!/bin/sh\n' > "$probe/script"
  chmod +x "$probe/script"
  "$probe/script" 2> /dev/null || status=$?
  rm -r "$probe"
  return $status
}

heading "Packages"
SECONDS=0
install "${build_packages[@]}" "${plot_packages[@]}" "${test_packages[@]}"
installing=$SECONDS

heading "Build ($preset)"
SECONDS=0
configure "$preset" "$@"
cmake --build --preset "$preset"
building=$SECONDS

heading "Tests"
SECONDS=0
# Runs are made to reach the disk, and the tests start hundreds; their files are deleted soon.
[[ -n ${TMPDIR:-} ]] || ! may_hold_tests /dev/shm || export TMPDIR=/dev/shm
report=$(mktemp)
trap 'rm "$report"' EXIT
status=0
# Some tests wait more than they compute.
ctest --preset "$preset" -j "$(($(nproc) + 2))" 2>&1 | tee "$report" || status=$?
testing=$SECONDS

skipped=$(grep -a '^skipped: ' "$build/Testing/Temporary/LastTest.log" |
  sed 's/^skipped: /  /' | sort || true)
heading "Skipped: $(grep -c . <<< "$skipped" || true) test cases"
[[ -z $skipped ]] || say "$skipped"
has_cuda || say "  everything of CUDA: $built_for"

heading "Result: installation $(duration $installing), build $(duration $building)," \
  "tests $(duration $testing)"
grep ' tests failed out of ' "$report" || true
exit $status
