#!/usr/bin/env bash
# Installs Debian's SLURM and shellcheck for the tests, where root may and they are absent; starts none of its services.
set -euo pipefail
PACKAGES=(slurmctld slurmd slurm-client munge iproute2 shellcheck)
for program in slurmctld slurmd sbatch munged ip shellcheck; do
  command -v "$program" >/dev/null || missing=1
done
[ -n "${missing:-}" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "no SLURM here, and only root on Debian can install it: its tests are skipped" >&2
  exit 0
fi
policy=/usr/sbin/policy-rc.d # the packages' own scripts would start daemons with the system's configuration
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}" >/dev/null
