#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test this machine can run; says what it skipped and why.
# The argument is a preset: release (default), cpu, asan or tsan. Further arguments go to CMake.
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
install "${build_packages[@]}" "${test_packages[@]}"
installing=$SECONDS

heading "Build ($preset)"
SECONDS=0
configure "$preset" "$@"
cmake --build --preset "$preset" >&2
building=$SECONDS

heading "Tests"
SECONDS=0
report=$(mktemp)
trap 'rm "$report"' EXIT
status=0
ctest --preset "$preset" -j "$(nproc)" > "$report" 2>&1 || status=$?
testing=$SECONDS
# The closing lines come last, after what the test programs and CTest skipped.
sed '/ tests passed, /,$d' "$report" >&2

log=$build/Testing/Temporary/LastTest.log
skipped=$(grep -a '^skipped: ' "$log" | sed 's/^skipped: /  /' | sort || true)
count=$(printf '%s' "$skipped" | grep -c . || true)
heading "Skipped: $count checks"
[[ -z $skipped ]] || say "$skipped"
has_cuda || say "(nothing of CUDA was compiled or tested: $built_for)"

heading "Result: installation $(duration $installing), build $(duration $building), tests $(duration $testing)"
sed -n '/ tests passed, /,$p' "$report" >&2
exit $status
