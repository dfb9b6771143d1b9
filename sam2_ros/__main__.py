"""``python -m sam2_ros`` is the command line."""

import sys

from sam2_ros.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
