"""``python -m recipes.embedded STEP ...``, from the root of the checkout."""

from __future__ import annotations

import importlib
import sys

STEPS = {
    "make": "train and export the checkpoint",
    "windows": "train it on what the tracker sees through windows",
    "calibrate": "make the object score a calibrated logit",
    "judge": "fit the judgement of masks by appearance",
    "quantise": "measure the limits of the image encoder's inputs for int8",
    "teacher": "find objects in photographs without labels",
    "mobilesam": "write MobileSAM's checkpoint as one of ours, to compare with",
    "ablate": "measure a checkpoint with one setting changed at a time",
}


def main(argv: list[str]) -> None:
    """Runs a step.

    Raises:
        SystemExit: there is no such step.
    """
    if not argv or argv[0] not in STEPS:
        steps = "\n".join(f"  {name:10} {text}" for name, text in STEPS.items())
        sys.exit(
            f"usage: python -m recipes.embedded STEP ...\n\n{steps}\n\nHelp: python -m recipes.embedded STEP --help"
        )
    importlib.import_module(f"recipes.embedded.{argv[0]}").main(argv[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
