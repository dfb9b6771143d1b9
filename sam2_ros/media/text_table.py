"""Tables as aligned text."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence


def align(lines: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """Columns of one width, two spaces apart; those whose index is in ``left`` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def number(value: float | None, digits: int = 1, scale: float = 1.0) -> str:
    """``scale * value`` with ``digits`` decimals; "-" for None and NaN."""
    return "-" if value is None or math.isnan(value) else f"{scale * value:.{digits}f}"
