#!/usr/bin/env bash
# From a clone to trained networks: installs packages, builds, draws two small image sets and trains
# on them. With --data DIR [--weights FILE], EfficientNet-B3 is trained on those images instead of
# drawn ones.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/tools/setup.sh"

usage() {
  cat <<'END'
usage: tools/quickstart.sh [--data DIR [--weights FILE]] [--out DIR]
  --data DIR      train EfficientNet-B3 on DIR/train/CLASS/… and DIR/val/CLASS/… instead of
                  drawn images
  --weights FILE  start from these weights (.pth or .safetensors)
  --out DIR       where images and runs go (default: runs/quickstart-DATE-TIME)
END
  exit "$1"
}

data='' weights='' out=runs/quickstart-$(date +%Y%m%d-%H%M%S)
while (($#)); do
  case $1 in
    --data | --weights | --out)
      (($# > 1)) || usage 2 >&2
      printf -v "${1#--}" %s "$(realpath -m -- "$2")"
      shift 2
      ;;
    -h | --help) usage 0 ;;
    *) say "unknown flag $1" >&2; usage 2 >&2 ;;
  esac
done
[[ -z $data || -d $data/train ]] || die "--data $data: no folder $data/train"
[[ -z $weights || -n $data ]] || die "--weights needs --data"
[[ -z $weights || -f $weights ]] || die "--weights $weights: no such file"
[[ ! -e $out ]] || die "--out $out exists"
cd "$root"

heading "Packages"
SECONDS=0
install "${build_packages[@]}"
installing=$SECONDS

heading "Build"
SECONDS=0
configure release
targets=(engine)
if has_cuda; then targets+=(engine_cuda); else explain_gpu; fi
cmake --build --preset release --target "${targets[@]}"
building=$SECONDS
engine=build/release/bin/engine
"$engine" version

# last_column FILE N: of the last row of a results.csv
last_column() { tail -n 1 "$1" | cut -d , -f "$2"; }

SECONDS=0
mkdir -p "$out"
if [[ -z $data ]]; then
  heading "Digits: mnist_cnn"
  "$engine" draw digits --out "$out/digits" --train 600 --val 100
  "$engine" train --data "$out/digits" --model mnist_cnn --augment none --schedule constant \
    --epochs 4 --out "$out/mnist_cnn"
  top1=$(last_column "$out/mnist_cnn/results.csv" 4)
  awk -v top1="$top1" 'BEGIN { exit !(top1 >= 0.97) }' ||
    die "mnist_cnn reached a top-1 of $top1 only, not 0.97"
  say "mnist_cnn: validation top-1 $top1"

  heading "Objects: EfficientNet-B3 at 64 pixels"
  data=$out/objects
  "$engine" draw objects --out "$data" --train 100 --val 20
  recipe=(--image-size 64 --batch-size 16 --schedule constant --epochs 10)
else
  heading "EfficientNet-B3 on $data"
  recipe=(--image-size 224 --batch-size 32 --epochs 3)
  [[ -z $weights ]] || recipe+=(--weights "$weights")
fi
run=$out/efficientnet_b3
"$engine" train --data "$data" --model efficientnet_b3 "${recipe[@]}" --out "$run"
first=$(sed -n 2p "$run/results.csv" | cut -d , -f 3)
last=$(last_column "$run/results.csv" 3)
say "efficientnet_b3: training loss $first in the first epoch, $last in the last"
awk -v first="$first" -v last="$last" 'BEGIN { exit !(last < first) }' ||
  die "the training loss did not fall"

heading "Evaluate and predict from the checkpoint"
best=$run/weights/best.safetensors
"$engine" eval --data "$data" --weights "$best"
mapfile -t images < <(find "$data/val" -type f | sort | awk 'NR % 23 == 1' | head -n 4)
"$engine" predict --weights "$best" "${images[@]}"
demo=$SECONDS

heading "Done: installation $(duration $installing), build $(duration $building)," \
  "demo $(duration $demo)"
cat <<END
built for        $built_for
run directory    $run
metrics          $run/metrics.jsonl, $run/results.csv
weights          $best

Your own images, one folder per class (DIR/train/CLASS/*, DIR/val/CLASS/*):
  $engine train --data DIR --model efficientnet_b3 --out runs/mine
with ImageNet weights (weights/README.md says where they are): add --weights FILE.
END
