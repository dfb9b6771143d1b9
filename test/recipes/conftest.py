"""Makes ``recipes`` importable, last on the path: so no folder of the checkout hides an installed package."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
