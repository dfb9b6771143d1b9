#!/bin/sh
# Installs Debian's or Ubuntu's Chromium, which the tests of the viewer drive. Without it they skip and say so; so
# whatever is missing here (root, apt, the network) is said and is no failure.
for program in chromium chromium-browser google-chrome google-chrome-stable; do
  if command -v "$program" >/dev/null 2>&1; then
    exit 0
  fi
done
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "No Chromium here, and no root or apt-get to install it: the tests of the viewer's page will be skipped."
  exit 0
fi
echo "Installing Chromium for the tests of the viewer: Debian package chromium, about 100 MB, BSD-3-Clause and others"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null 2>&1
if ! apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null 2>&1; then
  echo "Chromium could not be installed: the tests of the viewer's page will be skipped."
fi
exit 0
