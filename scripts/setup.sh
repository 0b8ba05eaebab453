#!/bin/sh
# Makes sure that this machine can build Kiln, and says nothing where it can.
#
#     sh scripts/setup.sh [--test]
#
# Needed: cargo, a C compiler (rustc links through it), pkg-config, and HDF5 with its headers. The last three are
# installed with the system's package manager, as root or through sudo, without questions. cargo is never installed:
# we only say how. --test also asks for what `make test` runs, rustfmt and clippy, and installs a software Vulkan where
# there is no Vulkan and it can, a C++ compiler, and Chromium: the tests of the wgpu backend, of the CUDA kernels on their
# emulator and of reports in a browser need them, and are skipped, with a word, where they are not.

set -eu

here=$(cd "$(dirname "$0")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

# --- What is missing -------------------------------------------------------------------------------------------------

has_compiler() {
  # On macOS /usr/bin/cc exists before the tools behind it do.
  has cc && cc --version >/dev/null 2>&1
}

has_headers() { [ -f "$1/H5pubconf.h" ] || [ -f "$1/H5pubconf-64.h" ]; }

# The places where the build of the `hdf5-metno-sys` crate looks, in its order.
has_hdf5() {
  if [ -n "${HDF5_DIR:-}" ]; then
    has_headers "$HDF5_DIR/include" || fail "HDF5_DIR is $HDF5_DIR, but $HDF5_DIR/include holds no HDF5 headers: \
correct or unset it"
    return 0
  fi
  if has pkg-config && pkg-config --exists hdf5; then return 0; fi
  if [ "$system" = Darwin ]; then
    has brew && prefix=$(brew --prefix hdf5 2>/dev/null) && has_headers "$prefix/include"
  else
    has_headers /usr/include/hdf5/serial || has_headers /usr/include
  fi
}

# A loader, and a driver for it to load. Metal and DirectX come with their systems.
has_vulkan() {
  [ "$system" = Linux ] || return 0
  loader=
  for file in /usr/lib*/libvulkan.so.1 /usr/lib*/*/libvulkan.so.1 /usr/local/lib*/libvulkan.so.1; do
    if [ -e "$file" ]; then loader=$file; fi
  done
  [ -n "$loader" ] || return 1
  for driver in /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json /usr/local/share/vulkan/icd.d/*.json; do
    if [ -f "$driver" ]; then return 0; fi
  done
  return 1
}

# The names under which the tests look for it; macOS keeps its browsers elsewhere, and CHROMIUM names one.
has_chromium() {
  [ -z "${CHROMIUM:-}" ] || return 0
  for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do
    if has "$name"; then return 0; fi
  done
  return 1
}

# Sets `missing`, words out of: compiler pkg-config hdf5.
look() {
  missing=
  has_compiler || missing="$missing compiler"
  has pkg-config || missing="$missing pkg-config"
  has_hdf5 || missing="$missing hdf5"
  missing=${missing# }
}

# --- How to get it ---------------------------------------------------------------------------------------------------

find_manager() {
  if [ "$system" = Darwin ]; then
    if has brew; then echo brew; else echo none; fi
    return
  fi
  for manager in apt-get dnf pacman zypper apk brew; do
    if has "$manager"; then echo "$manager"; return; fi
  done
  echo none
}

# The packages that hold one missing thing: package MANAGER THING
package() {
  case "$1:$2" in
    apt-get:compiler) echo gcc libc6-dev ;;
    apt-get:pkg-config) echo pkg-config ;;
    apt-get:hdf5) echo libhdf5-dev ;;
    apt-get:vulkan) echo libvulkan1 mesa-vulkan-drivers ;;
    apt-get:g++) echo g++ ;;
    apt-get:chromium) echo chromium ;;
    dnf:compiler) echo gcc ;;
    dnf:pkg-config) echo pkgconf-pkg-config ;;
    dnf:hdf5) echo hdf5-devel ;;
    dnf:vulkan) echo vulkan-loader mesa-vulkan-drivers ;;
    dnf:g++) echo gcc-c++ ;;
    dnf:chromium) echo chromium ;;
    pacman:compiler) echo gcc ;;
    pacman:pkg-config) echo pkgconf ;;
    pacman:hdf5) echo hdf5 ;;
    pacman:vulkan) echo vulkan-icd-loader vulkan-swrast ;;
    pacman:g++) echo gcc ;;
    pacman:chromium) echo chromium ;;
    zypper:compiler) echo gcc ;;
    zypper:pkg-config) echo pkg-config ;;
    zypper:hdf5) echo hdf5-devel ;;
    zypper:vulkan) echo libvulkan1 libvulkan_lvp ;;
    zypper:g++) echo gcc-c++ ;;
    zypper:chromium) echo chromium ;;
    apk:compiler) echo gcc musl-dev ;;
    apk:pkg-config) echo pkgconf ;;
    apk:hdf5) echo hdf5-dev ;;
    apk:vulkan) echo vulkan-loader mesa-vulkan-swrast ;;
    apk:g++) echo g++ ;;
    apk:chromium) echo chromium ;;
    brew:compiler) if [ "$system" != Darwin ]; then echo gcc; fi ;;
    brew:pkg-config) echo pkgconf ;;
    brew:hdf5) echo hdf5 ;;
  esac
}

# The command lines that install, one a line: commands MANAGER PACKAGE...
commands() {
  manager=$1
  shift
  case "$manager" in
    apt-get)
      echo "apt-get update -qq"
      echo "env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $*"
      ;;
    dnf) echo "dnf install -y -q $*" ;;
    pacman)
      # A fresh system has no package lists; one that has them must not be upgraded by halves.
      refresh=
      ls /var/lib/pacman/sync/*.db >/dev/null 2>&1 || refresh=y
      echo "pacman -S$refresh --noconfirm --needed $*"
      ;;
    zypper) echo "zypper --non-interactive --quiet install $*" ;;
    apk) echo "apk add --quiet --no-progress $*" ;;
    brew) echo "brew install --quiet $*" ;;
  esac
}

# Who runs them: nothing for root and for brew, which refuses root; else sudo, asking for a password only on a terminal.
become_root() {
  if [ "$1" = brew ] || [ "$(id -u)" = 0 ]; then
    echo
  elif ! has sudo; then
    return 1
  elif [ -t 0 ]; then
    echo sudo
  elif sudo -n true 2>/dev/null; then
    echo sudo -n
  else
    return 1
  fi
}

install_missing() {
  manager=$(find_manager)
  [ "$manager" != none ] || fail "missing: $missing; and there is no package manager that this script knows. \
Install a C compiler, pkg-config and HDF5 with its headers (set HDF5_DIR where they are hard to find), then try again"

  packages=
  for thing in $missing; do
    names=$(package "$manager" "$thing")
    [ -n "$names" ] || fail "there is no C compiler: install it with  xcode-select --install  and try again"
    packages="$packages $names"
  done
  packages=${packages# }

  # shellcheck disable=SC2086  # a list of words
  lines=$(commands "$manager" $packages)
  say "Missing: $missing. Installing with $manager: $packages"
  root=$(become_root "$manager") || fail "this needs root, and sudo is missing or wants a password. As root, run:
$(printf '%s\n' "$lines" | sed 's/^/    /')"

  printf '%s\n' "$lines" | while IFS= read -r line; do
    say "+ ${root:+$root }$line"
    # shellcheck disable=SC2086  # command lines, made of words without spaces
    $root $line </dev/null >&2 || fail "that failed: see above. To do it by hand${root:+, as root}:
$(printf '%s\n' "$lines" | sed 's/^/    /')"
  done || exit 1

  look
  case "$missing" in
    '') ;;
    *hdf5) fail "$manager installed $packages, yet HDF5 is not found: set HDF5_DIR to where its include and lib are" ;;
    *) fail "$manager installed $packages, and still missing: $missing" ;;
  esac
}

# Not having it is no failure: install_optional THING WHAT USE
install_optional() {
  manager=$(find_manager)
  packages=
  [ "$manager" = none ] || packages=$(package "$manager" "$1")
  if [ -n "$packages" ] && root=$(become_root "$manager"); then
    say "There is no $2, $3. Installing with $manager: $packages"
    # shellcheck disable=SC2086  # a list of words
    commands "$manager" $packages | while IFS= read -r line; do
      say "+ ${root:+$root }$line"
      # shellcheck disable=SC2086  # command lines, made of words without spaces
      $root $line </dev/null >&2 || exit 1
    done && return
  fi
  say "SKIPPED: there is no $2, $3${packages:+ (wanted: $packages)}"
}

# --- Rust ------------------------------------------------------------------------------------------------------------

rust_hint="Get Rust from https://rustup.rs (no root needed), open a new shell, and try again"

check_rust() {
  has cargo || PATH="$PATH:${HOME:-}/.cargo/bin"
  has cargo || fail "there is no cargo. $rust_hint"
  version=$(cargo --version 2>/dev/null | cut -d ' ' -f 2)
  [ -n "$version" ] || fail "cargo does not run:
$(cargo --version 2>&1 | sed 's/^/    /')
$rust_hint"

  wanted=$(sed -n 's/^rust-version = "\([0-9.]*\)".*/\1/p' "$here/Cargo.toml")
  is_at_least "$version" "${wanted:-0.0}" || fail "cargo is $version, and Kiln needs Rust $wanted or newer. With rustup: \
rustup update stable. Without it: $rust_hint"

  [ "$1" = --test ] || return 0
  for component in rustfmt clippy; do
    case $component in rustfmt) tool=fmt ;; *) tool=clippy ;; esac
    cargo "$tool" --version >/dev/null 2>&1 || fail "there is no cargo $tool. With rustup: \
rustup component add $component. Without it: install your system's package for $component"
  done
}

# is_at_least 1.95.0 1.88: compares the first two numbers.
is_at_least() {
  major=${1%%.*} rest=${1#*.} minor=${rest%%.*}
  wanted_major=${2%%.*} wanted_rest=${2#*.} wanted_minor=${wanted_rest%%.*}
  [ "$major" -gt "$wanted_major" ] || { [ "$major" -eq "$wanted_major" ] && [ "$minor" -ge "$wanted_minor" ]; }
}

# ---------------------------------------------------------------------------------------------------------------------

case "${1:-}" in
  '' | --test) ;;
  *) say "usage: sh scripts/setup.sh [--test]"; exit 2 ;;
esac

system=$(uname -s)
# Rust first: without it nothing is worth installing.
check_rust "${1:-}"
look
[ -z "$missing" ] || install_missing
if [ "${1:-}" = --test ]; then
  has_vulkan || install_optional vulkan Vulkan "on which the wgpu backend is tested"
  has g++ || install_optional g++ "C++ compiler" "with which CUDA kernels are tested on their emulator"
  has_chromium || install_optional chromium Chromium "in which reports are opened by a test"
fi
