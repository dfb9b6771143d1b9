#!/bin/sh
# Installs what the tests show things with, from Debian or Ubuntu: Chromium for the viewer's page, and OpenGL without a
# display for rendered scenes. Without them these tests skip and say so; so whatever is missing here (root, apt, the
# network) is said and is no failure.
packages="chromium fonts-dejavu-core"
for program in chromium chromium-browser google-chrome google-chrome-stable; do
  if command -v "$program" >/dev/null 2>&1; then
    packages=""
  fi
done
if ! ldconfig -p 2>/dev/null | grep -q libEGL.so.1; then
  packages="$packages libegl1 libgl1-mesa-dri"
fi
if [ -z "$packages" ]; then
  exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "Not here, and no root or apt-get to install it: $packages. The tests that need it will be skipped."
  exit 0
fi
echo "Installing for the tests: Debian packages $packages, about 100 MB, BSD-3-Clause, MIT and others"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null 2>&1
# shellcheck disable=SC2086 # a list of words
if ! apt-get install -y -qq --no-install-recommends $packages >/dev/null 2>&1; then
  echo "Could not be installed: $packages. The tests that need it will be skipped."
fi
exit 0
