"""The demo over ROS 2: a camera process, the tracker by its launch file, and a recorder that subscribes to both."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from sam2_ros.demo.clip_report import Report, ReportWriter
from sam2_ros.demo.footage import Clip, clip_prompt
from sam2_ros.demo.page import DemoPage
from sam2_ros.media.child_process import ChildProcess
from sam2_ros.media.errors import UserError
from sam2_ros.media.frame_sources import open_source
from sam2_ros.media.progress import bar
from sam2_ros.media.signals import signals_unwind
from sam2_ros.msg import TrackedObjectArray
from sam2_ros.ros.client_node import client_node, tracker_client, wait_until_active
from sam2_ros.ros.dds_environment import environment
from sam2_ros.ros.image_conversion import to_rgb
from sam2_ros.ros.messages import frame_result, to_stamp
from sam2_ros.ros.prompt_messages import to_message
from sam2_ros.srv import AddObjects
from sam2_ros.tracking.types import ObjectState, PromptRequest

NAMESPACE = "sam2_ros_demo"
TRACKER = f"/{NAMESPACE}/tracker"
START_TIMEOUT_S = 120.0  # a slow machine takes long to load torch and the weights
PROMPT_TIMEOUT_S = 60.0
IDLE_S = 2.0  # without a new result after the end of the source, all frames are processed
SUBSCRIBERS = 2  # tracker and recorder; then the first frame reaches both
KEPT_IMAGES = 60  # which wait for their result


def play(clip: Clip, args: argparse.Namespace) -> Report:
    """Plays one clip. All processes that it starts have ended when it returns or raises.

    SIGINT ends it early; the report then has the frames until that.

    Raises:
        UserError: the source can't be read, the node does not start, or it refuses the prompt.
        KeyboardInterrupt: SIGINT before anything was recorded.
    """
    source = open_source(clip.source)
    prompt = to_message(PromptRequest(clip_prompt(clip, source), name=clip.object_name))
    os.environ.update(environment())  # the transport of the launch files, for recorder and camera
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with (
        signals_unwind(),
        tempfile.TemporaryDirectory() as folder,
        closing(ReportWriter(args.out, clip.name, args.rate)) as recording,
        client_node("recorder", namespace=NAMESPACE) as node,
        ChildProcess(_tracker_command(args, Path(folder)), args.out / f"{clip.name}_node.log") as tracker,
        bar(args.frames or source.length, "frame", args.quiet, clip.name) as progress,
        DemoPage(TRACKER, args.out, clip.name, args.frames or source.length) as page,
    ):
        recorder = Recorder(node, recording, tracker.check)
        stopped = None
        try:
            wait_until_active(node, TRACKER, tracker, START_TIMEOUT_S)
            adder = tracker_client(node, AddObjects, TRACKER, "add_objects", PROMPT_TIMEOUT_S)
            # Without a stamp: the node keeps the prompt until the first frame arrives.
            answer = adder.call_async(AddObjects.Request(prompts=[prompt]))
            with ChildProcess(_camera_command(clip, args), args.out / f"{clip.name}_camera.log") as camera:
                recorder.spin(lambda: answer.done() or not camera.running, PROMPT_TIMEOUT_S)
                if not answer.done():
                    raise UserError(
                        f"the tracker had no image to apply the prompt to; see {tracker.log} and {camera.log}"
                    )
                if not (response := answer.result()).success:
                    reasons = "; ".join(result.message for result in response.results) or response.message
                    raise UserError(f"the tracker refused the object: {reasons}")

                def ended() -> bool:
                    progress.n = recorder.received
                    page.follow(recorder.received)
                    progress.set_postfix_str(recorder.status())
                    return not camera.running or (args.frames is not None and recorder.received >= args.frames)

                recorder.spin(ended)
            recorder.spin(lambda: time.monotonic() - recorder.last_time > IDLE_S)
        except (UserError, KeyboardInterrupt) as error:
            if not recording.frames:
                raise
            stopped = error
        if not recording.frames:
            raise UserError(f"no frame was tracked; see {tracker.log} and {camera.log}")
        report = recording.finish(recorder.dropped, recorder.rate, stopped)
        return replace(report, files=(*report.files, *page.finish()))


class Recorder:
    """Subscribes to images and tracks, and records each pair with equal stamps."""

    def __init__(self, node: Node, recording: ReportWriter, check: Callable[[], None]) -> None:
        """``check`` raises when the tracker has died."""
        self._node = node
        self._recording = recording
        self._check = check
        self._images: dict[int, Image] = {}  # by stamp, in the order of arrival
        self._last = TrackedObjectArray()  # the newest
        self.last_time = time.monotonic()  # of the newest result
        self._span = (0, 0)  # ns of the node's steady clock: start of the first frame, end of the last
        qos = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)
        node.create_subscription(Image, f"/{NAMESPACE}/image", self._on_image, qos)
        node.create_subscription(TrackedObjectArray, f"{TRACKER}/tracks", self._on_tracks, qos)

    @property
    def received(self) -> int:
        """Images that the tracker received."""
        return int(self._last.frames_received)

    @property
    def dropped(self) -> int:
        """Images that the tracker replaced by a newer one."""
        return int(self._last.frames_dropped)

    @property
    def rate(self) -> float:
        """Tracked frames a second, by the node's clock."""
        seconds = (self._span[1] - self._span[0]) / 1e9
        return self._recording.frames / seconds if seconds > 0 else 0.0

    def status(self) -> str:
        """One line for the progress bar."""
        states = ", ".join(f"{obj.name} {ObjectState(obj.state).name.lower()}" for obj in self._last.objects)
        return f"{self._recording.frames} tracked, {self.rate:.1f}/s, {self.dropped} dropped; {states}"

    def spin(self, until: Callable[[], bool], timeout_s: float = float("inf")) -> None:
        """Receives until ``until()`` or for ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while not until() and time.monotonic() < deadline:
            rclpy.spin_once(self._node, timeout_sec=0.1)
            self._check()

    def _on_image(self, image: Image) -> None:
        self._images[to_stamp(image.header.stamp)] = image
        while len(self._images) > KEPT_IMAGES:
            del self._images[next(iter(self._images))]

    def _on_tracks(self, tracks: TrackedObjectArray) -> None:
        if not tracks.objects:
            return  # the first frame without the object; it is published again with it
        self._last, self.last_time = tracks, time.monotonic()
        self._span = (self._span[0] or tracks.start_time_ns, tracks.end_time_ns)
        stamp = to_stamp(tracks.header.stamp)
        image = self._images.get(stamp)
        self._images = {later: waiting for later, waiting in self._images.items() if later > stamp}
        if image is not None:
            self._recording.add(to_rgb(image), frame_result(tracks))


def _tracker_command(args: argparse.Namespace, folder: Path) -> list[str]:
    parameters = folder / "demo.yaml"
    model = f"model: {{dtype: {args.dtype}, threads: {args.threads}}}"
    prompts = f"prompts: {{wait: {PROMPT_TIMEOUT_S}}}"
    parameters.write_text(f"/**:\n  ros__parameters:\n    {model}\n    {prompts}\n", encoding="utf-8")
    arguments = {"namespace": NAMESPACE, "params_file": parameters, "model": args.model, "device": args.device}
    return ["ros2", "launch", "sam2_ros", "tracker.launch.py", *(f"{k}:={v}" for k, v in arguments.items())]


def _camera_command(clip: Clip, args: argparse.Namespace) -> list[str]:
    source = clip.source if clip.source.isdecimal() else str(Path(clip.source).resolve())
    options = ["-r", f"__ns:=/{NAMESPACE}", "-p", f"source:={source}", "-p", f"rate:={args.rate}"]
    return [sys.executable, "-m", "sam2_ros.demo.camera_process", str(SUBSCRIBERS), "--ros-args", *options]
