"""Progress bars on stderr; silent where stderr is no terminal."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


def bar(total: int | None, unit: str, quiet: bool, title: str = "", **options: Any) -> tqdm[Any]:
    """A bar of ``total`` steps (None: unknown); a context manager with ``update(n)`` and ``close()``."""
    # disable=None makes tqdm draw on a terminal only.
    return tqdm(total=total, unit=unit, desc=title or None, disable=True if quiet else None, leave=False, **options)
