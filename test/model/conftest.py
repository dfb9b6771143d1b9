"""Makes the modules that the tests of the network share importable: the reference and the compared stages."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
