"""Makes the parameters of a running node from their declarations in :mod:`sam2_ros.ros.parameters`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import partial

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from sam2_ros.ros import parameters
from sam2_ros.ros.parameter import Change, Parameter, Value
from sam2_ros.ros.parameters import BY_NAME, PARAMETERS, tracker_config
from sam2_ros.text import printable
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.prompt_checks import MAX_TEXT

_LATER = ("qos_overrides.", "diagnostic_updater.")  # declared by ROS, with the publishers and the updater
_MOST_UNKNOWN = 20  # that are named in the log


class NodeParameters:
    """Declares the parameters, keeps their values, and refuses a wrong set as a whole.

    A wrong value at start does not end the process: the default replaces it, and :meth:`check` raises until the
    parameter is set to an accepted value.
    """

    def __init__(self, node: Node) -> None:
        self.configured = False  # True: parameters that configure has read may not change
        self.on_tracker_change: Callable[[TrackerConfig], None] = lambda config: None  # called while configured
        self._node = node
        self._values: dict[str, Value] = {}
        self._refused_at_start: dict[str, str] = {}
        for parameter in PARAMETERS:
            self._values[parameter.name] = self._declare(parameter)
        self._warn_of_unknown()
        if hasattr(node, "add_pre_set_parameters_callback"):  # not in Humble
            node.add_pre_set_parameters_callback(_as_meant)
        node.add_on_set_parameters_callback(self._on_set)

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def text(self, name: str) -> str:
        return str(self._values[name])

    def number(self, name: str) -> float:
        value = self._values[name]
        assert isinstance(value, (bool, int, float)), name
        return float(value)

    def names(self, name: str) -> list[str]:
        """The names in a list; ``[""]`` holds none."""
        value = self._values[name]
        assert isinstance(value, list), name
        return [name for name in value if name]

    @property
    def values(self) -> dict[str, Value]:
        return dict(self._values)

    def check(self) -> None:
        """
        Raises:
            ValueError: a parameter can't be used; the message says which, and what is accepted.
        """
        if self._refused_at_start:
            raise ValueError("; ".join(self._refused_at_start.values()))
        parameters.check(self._values)

    def _warn_of_unknown(self) -> None:
        """ROS ignores a misspelt parameter silently."""
        given = getattr(self._node, "_parameter_overrides", {})
        unknown = [name for name in given if not self._node.has_parameter(name) and not name.startswith(_LATER)]
        for name in unknown[:_MOST_UNKNOWN]:
            near = difflib.get_close_matches(name, BY_NAME, 1)
            advice = f"; did you mean '{near[0]}'?" if near else ""
            shown = printable(name[:MAX_TEXT])
            self._node.get_logger().warning(f"parameter '{shown}' does not exist and is ignored{advice}")
        if len(unknown) > _MOST_UNKNOWN:
            self._node.get_logger().warning(f"{len(unknown) - _MOST_UNKNOWN} more parameters do not exist")

    def _declare(self, parameter: Parameter) -> Value:
        override = getattr(self._node, "_parameter_overrides", {}).get(parameter.name)
        unset = override is not None and override.type_ is RosParameter.Type.NOT_SET  # [] in a parameter file
        meant = None if override is None else parameter.meant(override.value)
        switched = override is not None and meant != override.value
        default = meant if switched else parameter.default
        declare = partial(self._node.declare_parameter, parameter.name, default, _descriptor(parameter))
        try:
            value: Value = declare(ignore_override=unset or switched).value
            parameter.check(value)
            return value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            self._refused_at_start[parameter.name] = f"{parameter.name}: {error}; accepted: {parameter.accepted}"
            declare(ignore_override=True)
        except ValueError as error:  # an unknown choice: ROS has no range for text
            self._refused_at_start[parameter.name] = str(error)
            self._node.set_parameters([RosParameter(parameter.name, value=parameter.default)])
        return parameter.default

    def _on_set(self, changes: Sequence[RosParameter]) -> SetParametersResult:
        wanted = {change.name: change.value for change in changes if change.name in BY_NAME}
        if not wanted:  # of ROS itself, which may be declared while one of ours is wrong
            return SetParametersResult(successful=True)
        try:
            for name, value in wanted.items():
                changed = value != self._values[name]
                if self.configured and changed and BY_NAME[name].change is Change.UNCONFIGURED:
                    raise ValueError(parameters.why_fixed(name))
            parameters.check(self._values | wanted)
            before, after = tracker_config(self._values), tracker_config(self._values | wanted)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        try:
            if self.configured:
                before.check_change(after)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=f"tracker.{error}; clean the node up first")
        self._values |= wanted
        for name in wanted:
            self._refused_at_start.pop(name, None)
        if self.configured and after != before:
            self.on_tracker_change(after)
        return SetParametersResult(successful=True)


def _as_meant(given: list[RosParameter]) -> list[RosParameter]:
    return [
        RosParameter(each.name, value=BY_NAME[each.name].meant(each.value))
        if each.type_ is RosParameter.Type.BOOL and each.name in BY_NAME
        else each  # also since the type of an empty list can't be told from its value
        for each in given
    ]


def _descriptor(parameter: Parameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=parameter.description,
        additional_constraints=f"Accepted: {parameter.accepted}. May be set {parameter.change.value}.",
        read_only=parameter.change is Change.AT_START,
    )
    if parameter.low is None or parameter.high is None:
        return descriptor
    if isinstance(parameter.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=parameter.low, to_value=parameter.high)]
    else:
        low, high = int(parameter.low), int(parameter.high)
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return descriptor
