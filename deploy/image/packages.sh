#!/bin/sh
# Installs Debian's packages, and leaves nothing of the way there:
#   packages.sh PACKAGE...
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "$@" >/tmp/packages.log 2>&1 || {
  tail -n 5 /tmp/packages.log >&2
  exit 1
}
rm -rf /tmp/packages.log /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb \
  /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/log/*.log /var/log/apt
