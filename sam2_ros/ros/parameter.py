"""What a parameter of the node is, and what it accepts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from sam2_ros.text import printable
from sam2_ros.tracking.prompt_checks import MAX_TEXT, text_problem
from sam2_ros.tracking.settings import Setting, settings_of

Value: TypeAlias = bool | int | float | str | list[str]


class Change(Enum):
    """When a parameter may be set."""

    AT_START = "only at start"  # read-only to ROS
    UNCONFIGURED = "while the node is unconfigured"  # used by configure
    ANY_TIME = "at any time"


@dataclass(frozen=True)
class Parameter(Setting):
    """One parameter; its type is that of ``default``."""

    change: Change = Change.UNCONFIGURED
    free_text: bool = False  # a list holds any text, not only names of cameras

    @property
    def accepted(self) -> str:
        """What :meth:`check` accepts, in words."""
        if self.choices:
            return ", ".join(self.choices)
        if self.low is not None and self.high is not None:
            return f"{_number(self.low)} to {_number(self.high)}"
        return _TEXTS if self.free_text else _ACCEPTED[type(self.default)]

    def meant(self, value: object) -> object:
        """``value``, but text for true and false where on and off are choices: ROS reads these so without quotes."""
        text = _SWITCHES[value] if isinstance(value, bool) else ""
        return text if text in self.choices else value

    def check(self, value: object) -> None:
        """
        Raises:
            ValueError: wrong type or outside what is accepted, with what is.
        """
        fits = type(value) is type(self.default) and (not self.choices or value in self.choices)
        if fits and isinstance(value, list):
            texts = [str(text) for text in value if text]
            allowed = [not text_problem(text) if self.free_text else bool(_NAME.fullmatch(text)) for text in texts]
            fits = len(set(texts)) == len(texts) and all(allowed)
        if fits and self.low is not None and self.high is not None and isinstance(value, (int, float)):
            fits = self.low <= value <= self.high  # not so for NaN
        if not fits:
            raise ValueError(f"{self.name} is {printable(literal(value))}; accepted: {self.accepted}")


TEXT = "text"
_NAMES = 'a list of different names of letters, digits and _, each beginning with a letter; [""] = none'
_TEXTS = f'a list of different texts of up to {MAX_TEXT} printable characters; [""] = none'
_ACCEPTED = {bool: "true or false", int: "a whole number", float: "a number", str: TEXT, list: _NAMES}
NO_NAMES = [""]  # ROS has no way to write an empty list of strings
_SWITCHES = {True: "on", False: "off"}
_NAME = re.compile("[A-Za-z][A-Za-z0-9_]*")


def declared(group: str, config: type) -> list[Parameter]:
    """The parameters of a class of settings (:mod:`sam2_ros.tracking.settings`)."""
    return [
        Parameter(
            **vars(each)
            | {"name": f"{group}.{each.name}", "default": NO_NAMES if each.default == () else each.default},
            change=Change.UNCONFIGURED if each.fixed else Change.ANY_TIME,
            free_text=isinstance(each.default, tuple),
        )
        for each in settings_of(config)
    ]


def literal(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(literal(each) for each in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)
