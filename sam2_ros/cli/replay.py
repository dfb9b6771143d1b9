"""``sam2_ros replay``: tracks a recording again, the same images and prompts, and compares."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sam2_ros.media.errors import UserError

DIFFERENT = 1  # exit code: the tracks are not the same


def register(subparsers: Any) -> None:
    """Adds the verb to the command line."""
    parser = subparsers.add_parser(
        "replay",
        help="track a recording again and compare",
        description="Feeds the images that the tracker processed, and the prompts as they were applied, to the engine "
        "once more, and compares every mask with the recorded one. Exit code 1 where they differ.",
    )
    parser.add_argument("file", type=Path, help="what 'sam2_ros record' wrote")
    parser.add_argument("--model", help="another model (default: the recorded one)")
    parser.add_argument("--device", default="auto", help="default: auto")
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the verb; returns the exit code.

    Raises:
        UserError: the file is no recording of a tracker, or the model can't be loaded.
    """
    if not args.file.is_file():
        raise UserError(f"{args.file}: no such file")
    try:
        import mcap  # noqa: F401
        import rclpy  # noqa: F401
    except ImportError as error:
        raise UserError(f"this verb needs ROS 2 and the library mcap ({error}): python3 -m pip install mcap") from None
    from sam2_ros.inference import make_backend
    from sam2_ros.media.progress import bar
    from sam2_ros.ros.parameters import tracker_config

    recording = read(args.file)
    values = recording.parameters
    settings = (args.model or values["model.name"], args.device, values["model.dtype"], tracker_config(values))
    try:
        backend = make_backend(*settings, image_size=values["model.image_size"], threads=values["model.threads"])
    except (ImportError, RuntimeError, ValueError, OSError) as error:
        raise UserError(str(error)) from error
    with closing(backend), bar(len(recording.frames), "frame", args.quiet) as progress:
        outcome = Outcome()
        for masks, recorded in replayed(recording, backend):
            outcome.compare(masks, recorded)
            progress.update()
    print(outcome)
    return 0 if outcome.masks and outcome.same == outcome.masks else DIFFERENT


@dataclass
class Frame:
    """An image that the tracker processed, its tracks, and the calls that came after it."""

    stamp: int
    image: Any
    tracks: Any = None  # the last that were published for it
    calls: list[tuple[str, Any, Any]] = field(default_factory=list)  # service, request, response


@dataclass
class Recording:
    """What a file holds, in the order in which it happened."""

    parameters: dict[str, Any]
    frames: list[Frame]


@dataclass
class Outcome:
    """How the masks of a replay compare with the recorded ones."""

    frames: int = 0
    masks: int = 0
    same: int = 0
    lowest: float = 1.0  # IoU

    def compare(self, masks: dict[int, Any], recorded: dict[int, Any]) -> None:
        """Two sets of full masks by the recorded id; one that is missing counts as empty."""
        self.frames += 1
        for object_id in masks.keys() | recorded.keys():
            pair = masks.get(object_id), recorded.get(object_id)
            self.masks += 1
            if pair[0] is None or pair[1] is None:
                self.lowest = 0.0
                continue
            union = int((pair[0] | pair[1]).sum())
            iou = int((pair[0] & pair[1]).sum()) / union if union else 1.0
            self.same += iou == 1.0
            self.lowest = min(self.lowest, iou)

    def __str__(self) -> str:
        same = f"{self.same} of {self.masks} masks in {self.frames} frames are the same, pixel for pixel"
        return same if self.same == self.masks else f"{same}; the lowest IoU is {self.lowest:.4f}"


def read(file: Path) -> Recording:
    """
    Raises:
        UserError: the file is no recording of a tracker.
    """
    from mcap.exceptions import McapError
    from mcap.reader import make_reader

    from sam2_ros.cli.record import METADATA

    with file.open("rb") as stream:
        try:
            reader = make_reader(stream)
            about = next((each.metadata for each in reader.iter_metadata() if each.name == METADATA), None)
            if about is None:
                raise UserError(f"{file} does not say which tracker it is of; accepted: what 'sam2_ros record' wrote")
            frames = _frames(reader.iter_messages(log_time_order=True), about)
        except McapError as error:
            raise UserError(f"{file} can't be read as MCAP ({type(error).__name__}: {error})") from None
    if not frames:
        raise UserError(f"{file} holds no image with its tracks")
    return Recording(json.loads(about["parameters"]), frames)


def _frames(messages: Any, about: dict[str, str]) -> list[Frame]:
    from rclpy.serialization import deserialize_message
    from sensor_msgs.msg import CompressedImage, Image

    from sam2_ros import srv
    from sam2_ros.msg import TrackedObjectArray
    from sam2_ros.ros.messages import to_stamp

    images: dict[int, Any] = {}
    frames: dict[int, Frame] = {}
    asked: dict[tuple[str, bytes, int], Any] = {}
    calls: list[tuple[int, str, Any, Any]] = []  # newest stamp when it was answered
    for schema, channel, message in messages:
        if channel.topic == about["image"]:
            kind = CompressedImage if schema.name.endswith("CompressedImage") else Image
            image = deserialize_message(message.data, kind)
            images[to_stamp(image.header.stamp)] = image
        elif channel.topic == f"{about['prefix']}/tracks":
            tracks = deserialize_message(message.data, TrackedObjectArray)
            stamp = to_stamp(tracks.header.stamp)
            if stamp in images or stamp in frames:
                frames.setdefault(stamp, Frame(stamp, images.get(stamp))).tracks = tracks
        elif schema.name.endswith("_Event"):
            name = schema.name.rpartition("/")[2].removesuffix("_Event")
            event = deserialize_message(message.data, getattr(srv, name).Event)
            key = (name, bytes(event.info.client_gid), event.info.sequence_number)
            if event.info.event_type == event.info.REQUEST_RECEIVED and event.request:
                asked[key] = event.request[0]
            elif event.info.event_type == event.info.RESPONSE_SENT and event.response and key in asked:
                newest = max(frames, default=0)
                calls.append((_applied_after(event.response[0], newest), name, asked.pop(key), event.response[0]))
    ordered = [frames[stamp] for stamp in sorted(frames)]
    for after, *call in calls:
        frame = next((each for each in reversed(ordered) if each.stamp <= after), None)
        if frame is None:
            print(f"sam2_ros: a call of {call[0]} came before the first recorded image; left out", file=sys.stderr)
        else:
            frame.calls.append((call[0], call[1], call[2]))
    return ordered


def _applied_after(response: Any, newest: int) -> int:
    """The stamp of the frame that was the newest when a call was carried out."""
    from sam2_ros.ros.messages import to_stamp

    results = [*getattr(response, "results", []), *([response.result] if hasattr(response, "result") else [])]
    for result in results:
        if result.success:  # half a microsecond for the rounding of seconds in a float
            return to_stamp(result.applied_stamp) + round(result.prompt_age * 1e9) + 500
    return newest


def replayed(recording: Recording, backend: Any) -> Iterator[tuple[dict[int, Any], dict[int, Any]]]:
    """For every frame the masks of the replay and the recorded ones, ``bool [H, W]`` by the recorded id."""
    from sam2_ros.ros.image_conversion import decode_compressed, to_rgb
    from sam2_ros.ros.messages import full_mask

    ids: dict[int, int] = {}  # recorded -> replayed
    for frame in recording.frames:
        image = frame.image
        rgb = decode_compressed(image.data, image.format) if hasattr(image, "format") else to_rgb(image)
        masks = {known.object_id: known.mask.full() for known in backend.step(rgb, frame.stamp).objects}
        for name, request, response in frame.calls:
            _repeat(backend, name, request, response, ids)
            # A frame's tracks are published once more after a prompt; one that is removed stays in them.
            masks |= {known.object_id: known.mask.full() for known in backend.objects().objects}
        recorded = {known.id: full_mask(known.mask) for known in frame.tracks.objects if known.id in ids}
        yield {old: masks[new] for old, new in ids.items() if old in recorded and new in masks}, recorded


def _repeat(backend: Any, name: str, request: Any, response: Any, ids: dict[int, int]) -> None:
    from dataclasses import replace

    from sam2_ros.inference import commands
    from sam2_ros.ros import prompt_messages
    from sam2_ros.ros.messages import to_stamp
    from sam2_ros.tracking.types import AddRequest

    def renumbered(asked: Any) -> Any:
        if isinstance(asked, AddRequest) and asked.object_id is not None:
            return replace(asked, object_id=ids.get(asked.object_id, asked.object_id))
        return asked

    if name == "AddObjects":
        for asked, result in zip(prompt_messages.from_add_objects(request), response.results, strict=True):
            if result.success:
                (answer,) = commands.add(backend, [renumbered(asked)], to_stamp(result.applied_stamp))
                ids[result.object_id] = answer.object_id
    elif name == "RefineObject" and response.success:
        commands.refine(
            backend, renumbered(prompt_messages.from_prompt(request.prompt)), to_stamp(response.result.applied_stamp)
        )
    elif name == "RemoveObject" and response.success:
        known = request.object_id
        commands.remove(backend, str(ids[int(known)]) if known.isdecimal() and int(known) in ids else known)
    elif name == "RenameObject" and response.success:
        known = request.object_id
        new = str(ids[int(known)]) if known.isdecimal() and int(known) in ids else known
        backend.rename(commands.find(backend, new), request.name, request.label)
    elif name == "Reset" and response.success:
        backend.reset()
