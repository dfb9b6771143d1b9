"""Curves for TensorBoard, where the package ``tensorboard`` is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Board:
    """Writes scalars as TensorBoard events into ``folder``; does nothing where the package is missing.

    ``step`` is where the training starts or goes on: events of later steps, which an interrupted run left, are hidden.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    @property
    def there(self) -> bool:
        return self._writer is not None

    def add(self, prefix: str, values: Mapping[str, float], step: int) -> None:
        """One point of each curve ``prefix/name``."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{prefix}/{name}", value, step)
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
