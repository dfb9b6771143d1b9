"""Declares a setting once: a dataclass field with its default, meaning, accepted values and when it may change.

The checks here, the node's parameters, ``config/tracker.yaml`` and the reference pages are made from these fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Setting:
    """What :func:`setting` declares about one field."""

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    fixed: str = ""  # why it can't change while objects are tracked; empty: it can

    def check(self, value: Any) -> None:
        """
        Raises:
            ValueError: ``value`` is not accepted; the message says what is.
        """
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} is {value!r}; accepted: {', '.join(self.choices)}")
        if self.low is not None and self.high is not None and not self.low <= value <= self.high:
            raise ValueError(f"{self.name} is {value}; accepted: {self.low} to {self.high}")


def setting(default: Any, description: str, low: float | None = None, high: float | None = None, **more: Any) -> Any:
    """A dataclass field; the arguments are those of :class:`Setting`."""
    return field(default=default, metadata={"description": description, "low": low, "high": high, **more})


def settings_of(config: Any) -> list[Setting]:
    return [Setting(each.name, each.default, **each.metadata) for each in fields(config)]


def check_settings(config: Any) -> None:
    """
    Raises:
        ValueError: a setting of ``config`` has a value that is not accepted.
    """
    for each in settings_of(config):
        each.check(getattr(config, each.name))
