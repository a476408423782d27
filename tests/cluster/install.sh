#!/usr/bin/env bash
# Install Slurm on Debian or Ubuntu, where it is not yet.
set -euo pipefail
command -v slurmctld munged >/dev/null && exit
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install --yes -qq --no-install-recommends slurm-wlm munge >/dev/null
