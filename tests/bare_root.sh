# shellcheck shell=bash
# Sourced: a minimal Debian root without CUDA, made by debootstrap as root. The mirror, its keys and
# the way to it are those of this machine's apt. It needs debootstrap, and tools/setup.sh sourced.
bare_suite=bookworm

# apt_targets FIELD [FILTER]: of every source of Debian's that this machine's apt reads.
apt_targets() {
  apt-get indextargets --format "\$($1)" \
    'Created-By: Packages' 'Component: main' 'Origin: Debian' "${@:2}" | sort -u
}

# make_bare_root FOLDER [PACKAGE,...]
make_bare_root() {
  local root=$1 mirror keyring file log sources keys
  [[ -n $(apt_targets SITE) ]] || apt-get -q update
  mirror=$(apt_targets SITE "Codename: $bare_suite" | head -1)
  [[ -n $mirror ]] || die "this machine's apt has no source of Debian's $bare_suite"
  mapfile -t sources < <(apt_targets SOURCESENTRY | sed 's/:[0-9]*$//' | sort -u)
  keyring=$(sed -n 's/.*[Ss]igned-[Bb]y[:=] *\([^] ]*\).*/\1/p' "${sources[@]}" | head -1)
  # The root does not outlive this machine: dpkg need not wait for the disk after every file.
  mkdir -p "$root/etc/dpkg/dpkg.cfg.d"
  echo force-unsafe-io > "$root/etc/dpkg/dpkg.cfg.d/unsafe-io"
  log=$(mktemp)
  if ! debootstrap --variant=minbase ${keyring:+"--keyring=$keyring"} ${2:+"--include=$2"} \
    "$bare_suite" "$root" "$mirror" > "$log" 2>&1; then
    tail -20 "$log"
    rm "$log"
    die "debootstrap failed"
  fi
  rm "$log"
  rm -f "$root/etc/apt/sources.list"
  apt-config dump | grep '^Acquire::' > "$root/etc/apt/apt.conf.d/90acquire" || true
  keys=(/usr/share/keyrings/* /etc/apt/keyrings/* /etc/apt/trusted.gpg.d/*)
  for file in "${sources[@]}" "${keys[@]}" /etc/resolv.conf /etc/hosts; do
    [[ ! -e $file ]] || command install -D -m 644 "$file" "$root$file"
  done
}

# enter_bare_root FOLDER [SHARED...]: mounts what programs expect, and folders of this machine.
enter_bare_root() {
  local shared root=$1
  mount --bind /dev "$root/dev"
  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys" || true
  for shared in "${@:2}"; do
    mkdir -p "$shared" "$root$shared"
    mount --bind "$shared" "$root$shared"
  done
}

# leave_bare_root FOLDER [SHARED...]
leave_bare_root() {
  local mounted root=$1
  for mounted in /dev /sys /proc "${@:2}"; do
    if mountpoint -q "$root$mounted"; then umount -l "$root$mounted"; fi
  done
}
