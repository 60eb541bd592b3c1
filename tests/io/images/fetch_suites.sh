#!/usr/bin/env bash
# Fetches the images that Pillow and libjpeg-turbo test themselves with, from Debian's sources, and
# stb's from its repository, into FOLDER: fetch_suites.sh FOLDER. Then, with a recent Pillow,
#   ENGINE_IMAGE_SUITES=FOLDER ENGINE_PYTHON=PYTHON build/cpu/bin/test_images -tc='the suites*'
set -euo pipefail
(($# == 1)) || { echo "usage: $0 FOLDER" >&2; exit 2; }
folder=$(realpath -m "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' | head -1)
echo "deb-src $mirror bookworm main" > "$work/sources.list"
mkdir -p "$work/lists/partial" "$folder"
apt=(apt-get -q -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=-
  -o "Dir::State::lists=$work/lists" -o APT::Sandbox::User=root)
"${apt[@]}" update
(cd "$work" && "${apt[@]}" source --download-only pillow libjpeg-turbo)

# unpack PACKAGE PATTERN: those files of its source into FOLDER/PACKAGE.
unpack() {
  mkdir -p "$folder/$1"
  tar -xf "$work/$1"_*.orig.tar.* -C "$folder/$1" --strip-components 1 --wildcards "$2"
}
unpack pillow '*/Tests/images/*'
unpack libjpeg-turbo '*/testimages/*'
git clone -q --depth 1 https://github.com/nothings/stb "$work/stb" &&
  cp -r "$work/stb/tests" "$folder/stb" ||
  echo "stb's repository cannot be reached; its images are left out" >&2
find "$folder" -type f | wc -l
