"""What tests of several files of weights share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the loader logs. pytest's own fixture sees nothing of loggers that ROS 2's launch has made."""
    lines: list[str] = []
    handler, logger = logging.Handler(), logging.getLogger("sam2_ros.model.checkpoint")
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
