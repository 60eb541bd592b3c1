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
