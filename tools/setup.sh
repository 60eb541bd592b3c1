# shellcheck shell=bash disable=SC2034
# Sourced by quickstart.sh, test.sh and .ci/run: the Debian packages that the project needs, listed
# here and nowhere else, and what the three scripts share.

build_packages=(
  cmake g++ ninja-build git
  libdnnl-dev                                  # oneDNN: convolutions and matrix products on CPUs
  libopencv-core-dev libopencv-imgproc-dev     # augmentation, drawing
  libjpeg62-turbo-dev libpng-dev libgif-dev    # image files
  libtiff-dev libwebp-dev libstb-dev
  libfreetype-dev fonts-dejavu-core            # text on pictures
  zlib1g-dev libssl-dev                        # weight files and their checksums
  libcurl4-openssl-dev ca-certificates         # weight files that are fetched
  libfmt-dev nlohmann-json3-dev libyaml-cpp-dev
  doctest-dev
  libopenmpi-dev                               # CPU ranks on several machines, through MPI
)
plot_packages=(python3-matplotlib)             # tools/plots; nothing else needs it
test_packages=(                                # what our images and files are compared with
  python3-numpy python3-pil python3-torch python3-torchvision
  python3-pandas                               # the tables of the Python package
  openmpi-bin                                  # mpirun
  iproute2                                     # ip: two hosts of namespaces
)
bundle_packages=(patchelf python3)
format_packages=(clang-format)
fuzz_packages=(                                # the preset fuzz; clang 14 fails at <ranges>
  clang-16 libclang-rt-16-dev libomp-16-dev
)

# What a GPU user installs besides, from NVIDIA's repository: Debian has no such versions.
gpu_packages="cuda-toolkit-13-0 libcudnn9-dev-cuda-13 libnccl2 libnccl-dev"

# Threads that wait for each other spin for about 30 µs, not for the milliseconds of libgomp's
# default: where other processes want the cores too, the thread that is waited for could not run
# meanwhile, and a step took ten times as long.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000}

say() { printf '%s\n' "$*"; }
heading() { printf '\n== %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

# duration SECONDS: "3 min 07 s"
duration() { printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); }

# install PACKAGE...: those that are missing; calls apt-get only if one is.
install() {
  local package as_root=() missing=()
  command -v dpkg-query > /dev/null || { say "not a Debian system; needed are: $*"; return; }
  for package; do
    [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2> /dev/null) == ii* ]] ||
      missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then say "packages: all installed"; return; fi
  if ((EUID != 0)); then
    command -v sudo > /dev/null ||
      die "neither root nor sudo; as root: apt-get install --no-install-recommends ${missing[*]}"
    as_root=(sudo)
  fi
  say "packages: installing ${missing[*]}"
  # A third party's source that cannot be reached is no reason to stop: apt-get install decides.
  "${as_root[@]}" apt-get -q update || say "apt-get update failed; going on with the lists at hand"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}"
}

# configure PRESET [FLAG...]: prints what the build will have.
configure() {
  local log
  log=$(mktemp)
  if ! cmake --preset "$@" > "$log" 2>&1; then cat "$log"; rm "$log"; die "configuring failed"; fi
  built_for=$(sed -n 's/^-- engine: //p' "$log")
  rm "$log"
  say "$built_for"
}
has_cuda() { [[ $built_for == CUDA* ]]; }

explain_gpu() {
  say "For NVIDIA GPUs: nvcc (on PATH, in \$CUDA_HOME/bin or in /usr/local/cuda/bin), cuDNN and NCCL
  must be there. Debian's own CUDA packages are too old. Add NVIDIA's repository
  (https://developer.nvidia.com/cuda-downloads), then
    apt-get install $gpu_packages
  and run this script again. If the repository has no NCCL for this distribution, take those two
  packages from the one for Ubuntu 22.04, or unpack NCCL's tar archive into the CUDA folder."
}
