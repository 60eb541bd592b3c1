#!/usr/bin/env bash
# From a clone to a trained network that predicts: installs packages, builds, draws an image set and
# trains on it. Each part says beforehand how long it takes here. EfficientNet-B3 starts from
# ImageNet weights, which are fetched where the network allows it. With --data DIR it is trained on
# those images instead of drawn ones.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/tools/setup.sh"

usage() {
  cat <<'END'
usage: tools/quickstart.sh [--data DIR] [--weights FILE|none] [--out DIR]
  --data DIR           train EfficientNet-B3 on DIR/train/CLASS/… and DIR/val/CLASS/… instead of
                       drawn images
  --weights FILE|none  what EfficientNet-B3 starts from: a file (.pth or .safetensors), or nothing
                       (default: ImageNet weights, fetched where the network allows it)
  --out DIR            where images and runs go (default: runs/quickstart-DATE-TIME)
END
  exit "$1"
}

data='' weights=imagenet out=runs/quickstart-$(date +%Y%m%d-%H%M%S)
while (($#)); do
  case $1 in
    --data | --weights | --out)
      (($# > 1)) || usage 2 >&2
      value=$2
      [[ $1 == --weights && $2 == none ]] || value=$(realpath -m -- "$2")
      printf -v "${1#--}" %s "$value"
      shift 2
      ;;
    -h | --help) usage 0 ;;
    *) say "unknown flag $1" >&2; usage 2 >&2 ;;
  esac
done
[[ -z $data || -d $data/train ]] || die "--data $data: no folder $data/train"
[[ $weights == imagenet || $weights == none || -f $weights ]] ||
  die "--weights $weights: no such file"
[[ ! -e $out ]] || die "--out $out exists"
cd "$root"
cores=$(nproc)

heading "Packages: a minute or two where some are missing"
SECONDS=0
install "${build_packages[@]}" "${plot_packages[@]}"
installing=$SECONDS

heading "Build"
SECONDS=0
configure release
targets=(engine)
if has_cuda; then targets+=(engine_cuda); else explain_gpu; fi
# Files that are not there yet: about 20 s of a core for one of C++, which has several sources, and
# 30 s for one of CUDA; less where ccache knows them.
missing() {
  ninja -C build/release -t commands "${targets[@]}" |
    sed -nE "s/.* -o ([^ ]+\.$1\.o)( .*)?$/\1/p" |
    while read -r object; do [[ -e build/release/$object ]] || echo "$object"; done | wc -l
}
say "building takes about" "$(duration $((($(missing 'c(pp|xx)') * 20 + $(missing cu) * 30) /
  cores)))" "on $cores cores"
cmake --build --preset release --target "${targets[@]}"
building=$SECONDS
engine=build/release/bin/engine
"$engine" version

# train RUN FLAG...: says how long it will take, by a few of its steps, and trains. $top1 is then
# what the best epoch got right of the validation images.
train() {
  local run=$1
  shift
  say "training takes about" \
    "$("$engine" train "$@" --dry-run | sed -n 's/^time .* per epoch, \(.*\) in all.*/\1/p')"
  "$engine" train "$@" --out "$run"
  top1=$(cut -d , -f 4 "$run/results.csv" | tail -n +2 | sort -g | tail -n 1)
}

# learned NAME: whether $top1 is that of a model that works.
learned() {
  awk -v top1="$top1" 'BEGIN { exit !(top1 >= 0.9) }' ||
    die "$1 got $top1 of the validation images right only, not 0.9"
  say "$1: validation top-1 $top1"
}

SECONDS=0
mkdir -p "$out"
if [[ -z $data ]]; then
  heading "Digits, drawn: mnist_cnn from random values"
  run=$out/mnist_cnn set=$out/digits
  "$engine" draw digits --out "$set" --train 600 --val 100
  train "$run" --data "$set" --model mnist_cnn --augment none --schedule constant --epochs 4
  learned mnist_cnn
fi

if [[ $weights == imagenet ]]; then
  heading "ImageNet weights of EfficientNet-B3: 47 MiB where they are not here yet"
  code=0
  "$engine" weights fetch efficientnet_b3 || code=$?
  ((code == 0 || code == 9)) || die "fetching the weights failed"
  if ((code == 9)); then
    say "Without a network EfficientNet-B3 would start from random values, which takes more" \
      "images and time than this; --weights FILE starts from a file of yours."
    weights=none
  fi
fi

b3=(--model efficientnet_b3)
[[ $weights == none ]] || b3+=(--weights "$weights")
if [[ -n $data ]]; then
  heading "EfficientNet-B3 on $data, from ${weights/none/random values}"
  run=$out/efficientnet_b3 set=$data
  train "$run" --data "$set" "${b3[@]}" --image-size 224 --batch-size 32 --epochs 3
  say "efficientnet_b3: validation top-1 $top1"
elif [[ $weights != none ]]; then
  heading "Objects, drawn, at 64 pixels: EfficientNet-B3 from $weights"
  run=$out/efficientnet_b3 set=$out/objects
  "$engine" draw objects --out "$set" --train 250 --val 20
  train "$run" --data "$set" "${b3[@]}" --image-size 64 --batch-size 32 --epochs 4 \
    --schedule one-cycle
  learned efficientnet_b3
fi

heading "Evaluate, predict and report from the best weights: less than a minute"
best=$run/weights/best.safetensors
"$engine" eval --data "$set" --weights "$best"
mapfile -t images < <(for class in "$set"/val/*/; do find "$class" -type f | sort | head -n 1; done)
"$engine" predict --weights "$best" "${images[@]}"
right=$("$engine" predict --csv --weights "$best" "${images[@]}" 2> /dev/null |
  awk -F , '{ n = split($1, part, "/"); right += part[n - 1] == $2 } END { print right + 0 }')
say "predict: $right of ${#images[@]} right"
[[ -n $data ]] || ((10 * right >= 9 * ${#images[@]})) || die "predict is wrong too often"
report=$("$engine" report "$run")
demo=$SECONDS

heading "Done: installation $(duration $installing), build $(duration $building)," \
  "demo $(duration $demo)"
cat <<END
built for        $built_for
run directory    $run
metrics          $run/metrics.jsonl, $run/results.csv
weights          $best
report           $(realpath "$report")
model card       $run/model_card.md

Your own images, one folder per class (DIR/train/CLASS/*, DIR/val/CLASS/*):
  $engine train --data DIR --model efficientnet_b3 --weights imagenet --out runs/mine
END
