"""Every parameter of the node, declared once: name, default, meaning, accepted values, and when it may change.

``python -m sam2_ros.ros.parameters`` prints ``config/tracker.yaml``.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import TypeAlias

from sam2_ros.inference.detections import DetectionSettings
from sam2_ros.remote.endpoints import endpoints_for
from sam2_ros.tracking.config import CLICK_CANDIDATES, FIXED, TrackerConfig
from sam2_ros.tracking.policies import POLICIES

Value: TypeAlias = bool | int | float | str | list[str]


class Change(Enum):
    """When a parameter may be set."""

    AT_START = "only at start"  # read-only to ROS
    UNCONFIGURED = "while the node is unconfigured"  # used by configure
    ANY_TIME = "at any time"


@dataclass(frozen=True)
class Parameter:
    """One parameter; its type is that of ``default``."""

    name: str
    default: Value
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    change: Change = Change.UNCONFIGURED

    @property
    def accepted(self) -> str:
        """What :meth:`check` accepts, in words."""
        if self.choices:
            return ", ".join(self.choices)
        if self.low is not None and self.high is not None:
            return f"{_number(self.low)} to {_number(self.high)}"
        return _ACCEPTED[type(self.default)]

    def check(self, value: object) -> None:
        """
        Raises:
            ValueError: wrong type or outside what is accepted, with what is.
        """
        fits = type(value) is type(self.default) and (not self.choices or value in self.choices)
        if fits and isinstance(value, list):
            names = [name for name in value if name]
            fits = len(set(names)) == len(names) and all(_NAME.fullmatch(str(name)) for name in names)
        if fits and self.low is not None and self.high is not None and isinstance(value, (int, float)):
            fits = math.isfinite(value) and self.low <= value <= self.high
        if not fits:
            raise ValueError(f"{self.name} is {_literal(value)}; accepted: {self.accepted}")


_TEXT = "text"
_NAMES = 'a list of different names of letters, digits and _, each beginning with a letter; [""] = none'
_ACCEPTED = {bool: "true or false", int: "a whole number", float: "a number", str: _TEXT, list: _NAMES}
NO_NAMES = [""]  # ROS has no way to write an empty list of strings
_NAME = re.compile("[A-Za-z][A-Za-z0-9_]*")
_DEFAULTS = TrackerConfig()
_DETECTIONS = DetectionSettings()

PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        "cameras",
        NO_NAMES,
        "Names of the cameras that the node serves with one network. Each has its own objects, and its name stands "
        'before those of all its topics and services (left/image, ~/left/tracks); [""] = one camera without a name.',
        change=Change.AT_START,
    ),
    Parameter(
        "model.name",
        "embedded",
        "The network: embedded; tiny, small, base_plus, large (downloaded before); or the path of a checkpoint. 'null' "
        "tracks nothing (prompts stay where they are), needs no PyTorch, and shows what the node itself costs.",
    ),
    Parameter(
        "model.device",
        "auto",
        "Where the network runs: cpu, cuda, cuda:1, ...; auto takes CUDA where there is one.",
    ),
    Parameter(
        "model.dtype",
        "auto",
        "Number format of the network; auto takes bfloat16 where the hardware computes in it, else float32.",
        choices=("auto", "float32", "bfloat16"),
    ),
    Parameter(
        "model.image_size",
        0,
        "Side of the square that the network sees, in pixels; 0 = what the model was trained with.",
        0,
        4096,
    ),
    Parameter(
        "model.threads",
        0,
        "CPU threads of the network; 0 = as many as PyTorch chooses.",
        0,
        1024,
    ),
    Parameter(
        "model.compile",
        False,
        "Runs the image encoder by torch.compile, on a GPU decoder and memory encoder too. Configuring takes a minute "
        "or more longer then, and on a CPU needs a C++ compiler; no frame waits for it.",
    ),
    Parameter(
        "model.encode_ahead",
        False,
        "On a CPU, encodes an image while the one before it is tracked, each with half of the threads: more images a "
        "second, each of them older. A GPU is driven as without.",
    ),
    Parameter(
        "inference.endpoint",
        "",
        "Where 'sam2_ros serve' tracks in place of this process, which needs no PyTorch then and no model.*: "
        "tcp://HOST:PORT or ipc:///PATH, several separated by commas (the next takes over where one is lost); for "
        "cameras of their own 'left=tcp://a:5555; right=tcp://b:5555'. Empty = here.",
    ),
    Parameter(
        "inference.timeout",
        5.0,
        "Seconds that the server may take for an answer; a frame without one is dropped and counted.",
        0.05,
        600.0,
    ),
    Parameter(
        "inference.return_after",
        10.0,
        "Seconds for which a server must have answered before a camera goes back to it from one after it in the list; "
        "then at the next image with no object hidden. 0 = it stays until the server that it has is lost.",
        0.0,
        86400.0,
    ),
    Parameter(
        "inference.pixels",
        "auto",
        "How images go to the server: raw, jpeg (smaller, not exact), shm (shared memory on one machine); auto takes "
        "shared memory where it can be had, else raw.",
        choices=("auto", "raw", "jpeg", "shm"),
    ),
    Parameter(
        "inference.jpeg_quality",
        90,
        "Quality of JPEG images for the server.",
        1,
        100,
    ),
    Parameter(
        "inference.key_file",
        "",
        "This node's keys (NAME.key_secret, from 'sam2_ros keys new'), for a server that asks for them; empty = none.",
    ),
    Parameter(
        "inference.server_key_file",
        "",
        "The server's public key (NAME.key); empty = none.",
    ),
    Parameter(
        "tracker.max_objects",
        _DEFAULTS.max_objects,
        "Objects that can be tracked at a time; the memory bank for them is allocated at configure.",
        1,
        1024,
    ),
    Parameter(
        "tracker.prompted_slots",
        _DEFAULTS.prompted_slots,
        "Prompted frames kept per object; the first never goes.",
        1,
        64,
    ),
    Parameter(
        "tracker.recent_slots",
        _DEFAULTS.recent_slots,
        "Recent frames attended to; SAM 2 was trained with 6.",
        1,
        6,
    ),
    Parameter(
        "tracker.max_pointer_age",
        _DEFAULTS.max_pointer_age,
        "Age in frames beyond which an object pointer's age is given as this; training saw no older ones.",
        1,
        15,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.lost_after",
        _DEFAULTS.lost_after,
        "Frames without the object until OCCLUDED becomes LOST.",
        1,
        1_000_000,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.visible_after",
        _DEFAULTS.visible_after,
        "Frames in a row on which a hidden object must be seen until it is VISIBLE again.",
        1,
        100,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.occluded_after",
        _DEFAULTS.occluded_after,
        "Frames in a row on which a VISIBLE object must not be seen until it is OCCLUDED; up to then the mask that is "
        "drawn all the same is published.",
        1,
        100,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.search_every",
        _DEFAULTS.search_every,
        "A LOST object is looked for on every so many frames, and costs nothing on the others.",
        1,
        1000,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.drop_after",
        _DEFAULTS.drop_after,
        "Frames without the object until a LOST one is dropped, with an event; 0 = never.",
        0,
        1_000_000,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.explosion_factor",
        _DEFAULTS.explosion_factor,
        "A mask that grows to more than so many times its area, while its predicted IoU is below explosion_iou, is not "
        "believed: not VISIBLE, not remembered; 0 = off.",
        0.0,
        1000.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.explosion_iou",
        _DEFAULTS.explosion_iou,
        "Predicted IoU from which on a mask may grow as it likes.",
        0.0,
        1.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.explosion_frames",
        _DEFAULTS.explosion_frames,
        "Frames with the object back to which its area is compared for explosion_factor.",
        1,
        100,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.reject_strays",
        _DEFAULTS.reject_strays,
        "Leave out the parts of a mask that lie far from where the object was heading, or outside of the box that it "
        "was prompted with (memory_policy quality and distractor_aware do the first in any case).",
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.recognition",
        _DEFAULTS.recognition,
        "Judge each mask by whether it looks like what was prompted, and look for objects that are not seen where the "
        "image does. For models that can (the embedded one); others go by the object score.",
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.max_area",
        _DEFAULTS.max_area,
        "A mask of more than this share of the frame is not believed, unless the object's prompt was one; 1 = off.",
        0.0,
        1.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.history",
        _DEFAULTS.history,
        "Frames before the newest that are stored, so that a prompt with their stamp is applied to them; 0 = none.",
        0,
        256,
    ),
    Parameter(
        "tracker.deadline",
        _DEFAULTS.deadline,
        "Seconds that the engine may take for a frame; where it takes longer, lost objects are looked for less often, "
        "then fewer memory frames are attended to, then the input is made smaller, and diagnostics say so. 0 = never.",
        0.0,
        60.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.history_tolerance",
        _DEFAULTS.history_tolerance,
        "Seconds that the stamp of a prompt may be away from that of the stored frame to which it is applied.",
        0.0,
        60.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.hole_area",
        _DEFAULTS.hole_area,
        "Fill background holes up to this many pixels of the low-resolution mask; 0 = off.",
        0,
        4096,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.non_overlap",
        _DEFAULTS.non_overlap,
        "Give every pixel to one object at most.",
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.stability_fallback",
        _DEFAULTS.stability_fallback,
        "An unstable single mask gives way to the best of the three candidates.",
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.click_candidate",
        _DEFAULTS.click_candidate,
        "Which of its three candidates a single click means until the caller chooses another: best (of the highest "
        "predicted IoU, as SAM 2), stable (changes least with the threshold), largest or smallest (of those predicted "
        "nearly as good as the best).",
        choices=CLICK_CANDIDATES,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.binarize_prompted_memory",
        _DEFAULTS.binarize_prompted_memory,
        "Remember prompted frames with a binary mask instead of a soft one.",
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.memory_policy",
        _DEFAULTS.memory_policy,
        "How objects are remembered: recent (as SAM 2), quality (only good frames, and a motion prior), "
        "distractor_aware (also keeps frames on which a look-alike was told apart; three more slots an object, so it "
        "can't be changed to or from while the node is configured).",
        choices=tuple(POLICIES),
        change=Change.ANY_TIME,
    ),
    Parameter(
        "tracker.reference_policy",
        _DEFAULTS.reference_policy,
        "Do what the official video predictor does, for comparison.",
    ),
    Parameter(
        "input.transport",
        "raw",
        "raw: sensor_msgs/Image on 'image'; compressed: sensor_msgs/CompressedImage on 'image/compressed'.",
        choices=("raw", "compressed"),
    ),
    Parameter(
        "input.reliability",
        "auto",
        "QoS of the image subscription; auto follows the publisher (reliable where every publisher offers it).",
        choices=("auto", "reliable", "best_effort"),
        change=Change.ANY_TIME,
    ),
    Parameter(
        "input.timeout",
        2.0,
        "Seconds without an image after which /diagnostics says why none may arrive.",
        0.1,
        3600.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "input.every_frame",
        False,
        "For replays: every image is processed, one after another, and the same bag gives the same results; frames of "
        "several cameras are not encoded in batches. A live camera would lag ever further behind.",
    ),
    Parameter(
        "input.queue",
        300,
        "Images that may wait with input.every_frame; what comes when so many wait is lost, and /diagnostics says so.",
        1,
        100_000,
    ),
    Parameter(
        "input.jump_back",
        1.0,
        "An image stamped more than so many seconds before the last one starts anew: a bag loops, a simulation was "
        "reset. Every object is forgotten, with a warning; 0 = never.",
        0.0,
        1_000_000.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "depth.enabled",
        False,
        "Subscribe to 'depth/image' and 'camera_info', and give every object its position in space.",
    ),
    Parameter(
        "depth.slop",
        0.05,
        "Seconds that a depth image's stamp may be away from the image's; the nearest one is taken.",
        0.0,
        10.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "depth.queue",
        10,
        "Depth images kept to choose from; together they should reach back as far as the engine takes for a frame.",
        1,
        1000,
    ),
    Parameter(
        "depth.wait",
        0.0,
        "Seconds that a frame's results may wait for a depth image (and a transform) as new as the frame, while depth "
        "images arrive at all; 0 = never.",
        0.0,
        1.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "depth.min_points",
        30,
        "Valid depth pixels under a mask below which an object gets no position.",
        1,
        1_000_000,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "depth.target_frame",
        "",
        "Frame of the positions, through tf2 at the image's time; empty = the camera's optical frame.",
    ),
    Parameter(
        "depth.rectified",
        False,
        "The images are rectified: camera_info's P is used instead of K and D.",
        change=Change.ANY_TIME,
    ),
    Parameter(
        "detections.enabled",
        False,
        "Subscribe to 'detections' (vision_msgs/Detection2DArray), stamped with the image that the detector saw, and "
        "prompt with its boxes.",
    ),
    Parameter(
        "detections.min_score",
        _DETECTIONS.min_score,
        "Detections of a lower score are ignored.",
        0.0,
        1.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "detections.labels",
        NO_NAMES,
        'Class ids that are not ignored; [""] = all.',
        change=Change.ANY_TIME,
    ),
    Parameter(
        "detections.match_iou",
        _DETECTIONS.match_iou,
        "Overlap of two boxes (intersection over union) from which on a detection may be a tracked object.",
        0.01,
        1.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "detections.new_after",
        _DETECTIONS.new_after,
        "Images in which something new must be detected until it becomes an object.",
        1,
        1000,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "detections.max_objects",
        _DETECTIONS.max_objects,
        "Living objects from which on detections make no new ones; 0 = tracker.max_objects alone decides.",
        0,
        1024,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "detections.correct_below",
        _DETECTIONS.correct_below,
        "Quality of an object below which a matching detection corrects it: the smaller of its predicted IoU and its "
        "box's IoU with the detection; 0 = never.",
        0.0,
        1.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "detections.correct_every",
        _DETECTIONS.correct_every,
        "Frames between two such corrections of an object, at least.",
        1,
        1_000_000,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "detections.lost_distance",
        _DETECTIONS.lost_distance,
        "How far from where an object was seen last a detection may be it again, in diagonals of its box; 0 = never.",
        0.0,
        100.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "output.mask_encoding",
        "mono8",
        "Masks in messages: mono8 (a byte per pixel of the crop) or rle (run lengths, smaller).",
        choices=("mono8", "rle"),
        change=Change.ANY_TIME,
    ),
    Parameter(
        "prompts.wait",
        2.0,
        "Seconds that a prompt may wait for its frame before it is refused with NO_FRAME.",
        0.0,
        60.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "prompts_file",
        "",
        "JSON file with prompts that are applied to the first frame after configure (as for `sam2_ros track`, frame 0 "
        "only); empty = none. With several cameras {camera} in it stands for a camera's name.",
    ),
    Parameter(
        "diagnostics.period",
        1.0,
        "Seconds between messages on /diagnostics.",
        0.05,
        3600.0,
        change=Change.AT_START,
    ),
)

BY_NAME: dict[str, Parameter] = {parameter.name: parameter for parameter in PARAMETERS}


_WHY_FIXED = {
    "model": "the network is loaded with it",
    "inference": "the connection to the server is made with it",
    "input": "the subscription is made with it",
    "depth": "its subscriptions are made with it",
    "detections": "its subscription is made with it",
    "prompts_file": "it is read then",
}


def why_fixed(name: str) -> str:
    """Why a parameter that configure uses can't change afterwards, and what to do."""
    group, _, setting = name.partition(".")
    reason = FIXED[setting] if group == "tracker" else _WHY_FIXED[group]
    return f"{name} may be set while the node is unconfigured, since {reason}; clean it up first"


def check(values: Mapping[str, Value]) -> None:
    """Checks all parameters together.

    Raises:
        ValueError: the first that is wrong, with what is accepted.
    """
    for parameter in PARAMETERS:
        parameter.check(values[parameter.name])
    tracker_config(values)
    cameras = values["cameras"]
    for camera in cameras if isinstance(cameras, list) else [""]:
        endpoints_for(str(values["inference.endpoint"]), str(camera))


def tracker_config(values: Mapping[str, Value]) -> TrackerConfig:
    """The ``tracker.*`` parameters as the engine takes them.

    Raises:
        ValueError: a value outside its range.
    """
    settings = {field.name: values[f"tracker.{field.name}"] for field in fields(TrackerConfig)}
    return TrackerConfig(**settings)  # type: ignore[arg-type]


def to_yaml() -> str:
    """The commented parameter file that holds every default."""
    lines = [
        "# Every parameter of the node with its default; hand a changed copy to the launch file's params_file.",
        "# Unless another time is named, a parameter may be set while the node is unconfigured.",
        "# Written by `python -m sam2_ros.ros.parameters`.",
        "/**:",
        "  ros__parameters:",
    ]
    open_group = ""
    for parameter in PARAMETERS:
        group, _, name = parameter.name.rpartition(".")
        if group and group != open_group:
            lines += ["", f"    {group}:"]
        else:
            lines.append("")
        open_group, indent = group, " " * (6 if group else 4)
        comment = f"{indent}# "
        lines += textwrap.wrap(parameter.description, 110, initial_indent=comment, subsequent_indent=comment)
        when = "" if parameter.change is Change.UNCONFIGURED else f" May be set {parameter.change.value}."
        accepted = "" if parameter.accepted == _TEXT else f"Accepted: {parameter.accepted}."
        if accepted or when:
            lines += textwrap.wrap((accepted + when).strip(), 110, initial_indent=comment, subsequent_indent=comment)
        lines.append(f"{indent}{name}: {_literal(parameter.default)}")
    return "\n".join(lines) + "\n"


def _literal(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_literal(each) for each in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


if __name__ == "__main__":
    print(to_yaml(), end="")
