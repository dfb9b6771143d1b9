#!/bin/sh
# Prints the Python that the environment is built with: 3.11 first, which is tried most, then the others that ROS 2
# exists for as wheels. A name on the PATH is not enough (version managers leave stubs), so each one is run.
for version in 3.11 3.12 3.10 3.13; do
  if "python$version" -c "import ensurepip, sys, venv; assert sys.version.startswith('$version.')" 2>/dev/null; then
    echo "python$version"
    exit 0
  fi
done
if python3 -c "import ensurepip, sys, venv; assert (3, 10) <= sys.version_info[:2] <= (3, 13)" 2>/dev/null; then
  echo python3
  exit 0
fi
echo "no Python 3.10 to 3.13 with venv was found; install one (Debian, Ubuntu: python3-venv) or give PYTHON=/path" >&2
exit 1
