#!/usr/bin/env python3
"""Compares the network with the reference at its full input size and prints a table (see docs/explanation/parity.md).

The tests do the same at 256 pixels. Needs the test environment, about 6 GB of memory for large, some minutes a size.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "test" / "model"))

from parity_sensitivity import changes
from parity_stages import COMPARED, build_pair
from sam2_reference import SIZES, TOLERANCE, VERSIONS, difference


def compare(sizes: list[str], versions: list[str], image_size: int) -> bool:
    """Prints each stage's largest difference; True if all are within the tolerance."""
    print(f"| model | {' | '.join(stage.__name__ for stage in COMPARED)} | minutes |")
    print("|---" * (len(COMPARED) + 2) + "|", flush=True)
    worst = 0.0
    for version in versions:
        for size in sizes:
            start = time.monotonic()
            pair = build_pair(size, version, image_size)
            cells = []
            for stage in COMPARED:
                inputs = stage(image_size)
                with torch.no_grad():
                    expected, found = inputs.reference(pair.reference), inputs.ours(pair.model)
                largest = max(difference(found[name], expected[name]) for name in expected)
                worst = max(worst, largest)
                cells.append(f"{largest:.1e}")
            minutes = (time.monotonic() - start) / 60
            print(f"| {size} {version} | {' | '.join(cells)} | {minutes:.1f} |", flush=True)
    print(f"\nlargest difference {worst:.1e}, tolerance {TOLERANCE:.0e}")
    return worst <= TOLERANCE


def sensitivity(sizes: list[str], versions: list[str], image_size: int) -> bool:
    """Prints how little any group of weights can be disturbed unnoticed; True if none can."""
    print("| model | groups of weights | least change | by |\n|---|---|---|---|", flush=True)
    noticed = True
    for size in sizes:
        for version in versions:
            found = changes(build_pair(size, version, image_size), image_size)
            least = min(found, key=found.__getitem__)
            print(f"| {size} {version} | {len(found)} | {found[least]:.1e} | {least} |", flush=True)
            noticed = noticed and found[least] > TOLERANCE
    return noticed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", nargs="*", help=f"sizes to compare; default: {' '.join(SIZES)}")
    parser.add_argument("--version", action="append", choices=VERSIONS, help="2.1 or 2.0; default: both")
    parser.add_argument("--image-size", type=int, help="pixels; default: 1024, for --sensitivity 64")
    parser.add_argument("--sensitivity", action="store_true", help="disturb each group of weights instead")
    arguments = parser.parse_args()
    unknown = set(arguments.size) - set(SIZES)
    if unknown:
        parser.error(f"no such size: {', '.join(sorted(unknown))}; accepted: {', '.join(SIZES)}")
    sizes, versions = arguments.size or list(SIZES), arguments.version or list(VERSIONS)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {time.strftime('%Y-%m-%d')}\n")
    if arguments.sensitivity:
        return 0 if sensitivity(sizes, versions, arguments.image_size or 64) else 1
    return 0 if compare(sizes, versions, arguments.image_size or 1024) else 1


if __name__ == "__main__":
    sys.exit(main())
