#!/bin/sh
# Every target at once, a process each: all.sh FUZZ SEEDS SECONDS ROUND OUT
# FUZZ is the program, SEEDS the folder of seeds. Rounds try other changes: round N begins at change
# N * 200,000,000. A target that ends with a fault goes on 10,000,000 changes later. OUT gets a log
# per target and the input of every fault; the summary comes last. Ends with 1 if there was a fault.
set -u
[ $# = 5 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
fuzz=$(realpath "$1") seeds=$(realpath "$2") seconds=$3 round=$4
mkdir -p "$5" && out=$(realpath "$5") || exit 2
end=$(($(date +%s) + seconds))

# One target until the end, in a folder of its own, because a fault leaves its input where it is.
run_target() {
  target=$1 first=$((round * 200000000)) faults=0
  work=$(mktemp -d) && cd "$work" || return
  while left=$((end - $(date +%s))); [ "$left" -gt 0 ] && [ "$faults" -lt 18 ]; do
    nice "$fuzz" --seconds "$left" --first "$first" --seeds "$seeds" "$target" \
      >>"$out/$target.log" 2>&1 && break
    faults=$((faults + 1)) first=$((first + 10000000))
    echo "$target: fault $faults" >>"$out/faults.log"
    [ -f "$target-crash" ] && mv "$target-crash" "$out/$target-crash-$round-$faults"
  done
  rm -r "$work"
}

for folder in "$seeds"/*/; do
  run_target "$(basename "$folder")" &
done
wait
grep -h ' changes from ' "$out"/*.log
if [ -s "$out/faults.log" ]; then
  cat "$out/faults.log"
  exit 1
fi
echo "no fault"
