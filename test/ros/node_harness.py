"""Real processes over real DDS: the launched node on one side, a camera and a client in this process on the other."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam2_ros.ros.dds_environment import profile_variable

ROOT = Path(__file__).parents[2]
PATIENCE = 180.0  # seconds until a test that waits in vain fails; a busy machine starts a node in more than 60
AGAIN, AGAIN_THE_SAME = 0.5, 5.0  # seconds without tracks until another image is sent, and until the same one is
WIDTH, HEIGHT = 160, 120

# Before rclpy is initialised: what the launch files set by default, for this process' images too.
os.environ.pop("FASTDDS_BUILTIN_TRANSPORTS", None)
os.environ[profile_variable()] = str(ROOT / "config" / "fastdds.xml")


class Launched:
    """A launch file running in a process group of its own; what it prints is in ``text``."""

    def __init__(self, log: Path, file: str, **arguments: str) -> None:
        self._log = log
        words = [f"{name}:={value}" for name, value in arguments.items()]
        ros2 = Path(sys.executable).with_name("ros2")
        command = [str(ros2) if ros2.is_file() else "ros2", "launch", str(ROOT / "launch" / file), *words]
        with log.open("w") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=log.parent
            )

    @property
    def text(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for_text(self, *wanted: str, times: int = 1) -> None:
        wait_until(lambda: all(self.text.count(each) >= times for each in wanted), f"{wanted} in the log", self)

    def node_pid(self) -> int:
        """The process id of the newest ``tracker``."""
        return int(re.findall(r"\[tracker-\d+\]: process started with pid \[(\d+)\]", self.text)[-1])

    def wait_for_end(self) -> int:
        return self._process.wait(PATIENCE)

    def stop(self) -> int:
        """Ends launch as Ctrl-C does; returns its exit code.

        Launch rarely loses a Ctrl-C (seen once, after a respawn: its log has no word of it, and the node starts anew),
        so it is pressed again after a while, as a person would.
        """
        try:
            for _ in range(3):
                if self._process.poll() is None:
                    os.killpg(self._process.pid, signal.SIGINT)  # as a terminal does
                with suppress(subprocess.TimeoutExpired):
                    return self._process.wait(PATIENCE / 3)
            return self._process.wait(PATIENCE / 3)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def wait_until(
    condition: Callable[[], Any], what: str = "it", launched: Launched | None = None, patience: float = PATIENCE
) -> Any:
    """Waits for a condition and returns its value; fails with the node's log when it does not come true."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    pytest.fail(f"waited {patience:g} s in vain for {what}\n{launched.text if launched else ''}", pytrace=True)


class Peer:
    """The other side of the node: publishes images, keeps what the node publishes, calls its services."""

    def __init__(self, node_name: str, image_topic: str = "/image", reliable: bool = True) -> None:
        """``node_name`` is what the names of topics and services begin with: the node's, or that of its camera."""
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import Image

        from sam2_ros.msg import ObjectEvent, TrackedObjectArray

        self.launched: Launched | None = None
        self.node_name = node_name
        self.tracks: list[TrackedObjectArray] = []
        self.events: list[ObjectEvent] = []
        self.statuses: list[Any] = []
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node(f"peer_{id(self)}", context=self.context)
        self._clients: dict[str, Any] = {}
        self._known_to: dict[str, int] = {}  # the process that is known to know each client
        self._image_topic = image_topic
        self._publisher = self.create_image_publisher(Image, image_topic, reliable)
        self.node.create_subscription(TrackedObjectArray, f"{node_name}/tracks", self.tracks.append, 100)
        self.node.create_subscription(ObjectEvent, f"{node_name}/events", self.events.append, 100)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self._stamp = 0

    def close(self) -> None:
        self.context.try_shutdown()
        self._thread.join(PATIENCE)
        self.node.destroy_node()

    def create_image_publisher(self, message_type: type, topic: str, reliable: bool = True) -> Any:
        from rclpy.qos import QoSProfile, ReliabilityPolicy

        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        # Deep enough for what a test sends at once: a busy node may ask for an image again.
        return self.node.create_publisher(message_type, topic, QoSProfile(depth=20, reliability=reliability))

    # ---- images ----

    def image(self, **changes: Any) -> Any:
        """A grey ``rgb8`` image with a stamp of its own."""
        from sensor_msgs.msg import Image

        self._stamp += 1
        image = Image(height=HEIGHT, width=WIDTH, step=3 * WIDTH, encoding="rgb8")
        image.data = array("B", bytes(np.full(HEIGHT * WIDTH * 3, 99, np.uint8)))
        image.header.frame_id = "camera_optical_frame"
        image.header.stamp.sec, image.header.stamp.nanosec = 1000 + self._stamp, 123_456_789
        for name, value in changes.items():
            setattr(image, name, value)
        return image

    def send(self, image: Any = None, publisher: Any = None) -> Any:
        image = image or self.image()
        (publisher or self._publisher).publish(image)
        return image

    def tracks_of(self, image: Any) -> Any:
        """What the node published for this image, if it did already."""
        stamp = image.header.stamp
        return next((each for each in reversed(self.tracks) if each.header.stamp == stamp), None)

    def track(self, image: Any = None, publisher: Any = None) -> Any:
        """Sends an image until it comes back as tracks, and returns these; without ``image`` a new one each time.

        The first may be lost: the two sides may not be connected yet. The next is sent only after a while, because on
        a busy machine several would be under way, and those after the one that is returned are news to the caller.
        """
        sent: list[Any] = []
        again = 0.0

        def arrived() -> Any:
            nonlocal again
            if time.monotonic() >= again:
                sent.append(self.send(image, publisher))
                again = time.monotonic() + (AGAIN if image is None else AGAIN_THE_SAME)
            return next((tracks for each in reversed(sent) if (tracks := self.tracks_of(each))), None)

        return self.wait_until(arrived, "tracks of an image")

    def in_executor(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function returns in the thread that spins. An action client loses an answer that comes in another one
        before its own call has returned."""
        task = self._executor.create_task(function, *arguments)
        self.wait_until(task.done, "a task of the executor")
        return task.result()

    def wait_until(self, condition: Callable[[], Any], what: str) -> Any:
        return wait_until(condition, what, self.launched)

    def wait_for_reliable(self, listeners: int = 1) -> None:
        """Until the node, and as many ``listeners`` in all, are connected as this publisher offers; an image that is
        sent before may be lost."""
        from rclpy.qos import ReliabilityPolicy

        assert self.launched is not None
        text = f"subscribed to {self._image_topic}, "

        def reliable() -> bool:
            lines = [line for line in self.launched.text.splitlines() if text in line] if self.launched else []
            if not lines or not lines[-1].endswith("reliable"):
                return False
            known = self.node.get_subscriptions_info_by_topic(self._image_topic)
            all_reliable = {each.qos_profile.reliability for each in known} == {ReliabilityPolicy.RELIABLE}
            return all_reliable and self._publisher.get_subscription_count() >= max(len(known), listeners)

        self.wait_until(reliable, "a reliable subscription")

    @contextmanager
    def camera(self, period: float = 0.03) -> Iterator[list[Any]]:
        """Images at an even rate from a thread; the list holds what was sent."""
        sent: list[Any] = []
        stop = threading.Event()

        def run() -> None:
            while not stop.wait(period):
                sent.append(self.send())

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield sent
        finally:
            stop.set()
            thread.join()

    # ---- services ----

    def call_async(self, service_type: Any, name: str, request: Any = None) -> Any:
        """A future; ``name`` is relative to the node."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(service_type, f"{self.node_name}/{name}")
        client = self._clients[name]
        self.wait_until(client.service_is_ready, f"service {name}")
        self._get_acquainted(name)
        return client.call_async(request or service_type.Request())

    def _get_acquainted(self, name: str) -> None:
        """Once for each client and each process of the node, which may have been respawned."""
        from sam2_ros.ros.client_node import server_knows_clients

        assert self.launched is not None
        pid = self.launched.node_pid()
        if self._known_to.get(name) != pid:
            if not server_knows_clients(self.node, self.node_name, PATIENCE, lambda: time.sleep(0.01)):
                pytest.fail(f"the node never knew a client of {name}\n{self.launched.text}", pytrace=True)
            self._known_to[name] = pid

    def call(self, service_type: Any, name: str, request: Any = None) -> Any:
        future = self.call_async(service_type, name, request)
        self.wait_until(future.done, f"an answer of {name}")
        return future.result()

    def add(self, *prompts: Any, **request: Any) -> Any:
        from sam2_ros.srv import AddObjects

        return self.call(AddObjects, "add_objects", AddObjects.Request(prompts=list(prompts), **request))

    def list_objects(self, with_masks: bool = False) -> Any:
        from sam2_ros.srv import ListObjects

        return self.call(ListObjects, "list_objects", ListObjects.Request(with_masks=with_masks))

    def reset(self) -> Any:
        from sam2_ros.srv import Reset

        return self.call(Reset, "reset")

    def set_parameter(self, name: str, value: Any) -> Any:
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(SetParameters, "set_parameters", request).results[0]

    def change_state(self, transition: int) -> bool:
        """Whether a transition (``lifecycle_msgs/Transition.TRANSITION_*``) succeeded."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.call(ChangeState, "change_state", request).success)

    def state(self) -> str:
        from lifecycle_msgs.srv import GetState

        return str(self.call(GetState, "get_state").current_state.label)

    def wait_for_state(self, label: str) -> None:
        self.wait_until(lambda: self.state() == label, f"state {label}")

    def status(self) -> dict[str, str]:
        """The next diagnostics of the node, with ``level`` (a byte) and ``message``."""
        count = len(self.statuses)
        self.wait_until(lambda: len(self.statuses) > count, "diagnostics")
        status = self.statuses[-1]
        values = {each.key: each.value for each in status.values}
        return values | {"level": status.level, "message": status.message}

    def _on_diagnostics(self, message: Any) -> None:
        self.statuses.extend(status for status in message.status if status.hardware_id == self.node_name)

    def _spin(self) -> None:
        from rclpy.executors import ExternalShutdownException

        with suppress(ExternalShutdownException):
            self._executor.spin()


def box_prompt(x0: float, y0: float, x1: float, y1: float, **values: Any) -> Any:
    from vision_msgs.msg import BoundingBox2D

    from sam2_ros.msg import ObjectPrompt

    box = BoundingBox2D(size_x=float(x1 - x0), size_y=float(y1 - y0))
    box.center.position.x, box.center.position.y = (x0 + x1) / 2, (y0 + y1) / 2
    return ObjectPrompt(box=[box], **values)


@contextmanager
def running(folder: Path, file: str = "tracker.launch.py", namespace: str = "", **arguments: str) -> Iterator[Peer]:
    """A launched node and its peer, in a namespace of its own; ends it with SIGINT and checks that it ends cleanly."""
    peer = Peer(f"{namespace}/tracker", f"{namespace}/image")
    peer.launched = Launched(folder / f"launch_{time.monotonic_ns()}.log", file, namespace=namespace, **arguments)
    try:
        yield peer
    finally:
        peer.launched.stop()
        peer.close()
    assert "process has finished cleanly" in peer.launched.text, peer.launched.text
    assert not any(word in peer.launched.text for word in ("Traceback", "XMLPARSER")), peer.launched.text


@contextmanager
def in_this_process(namespace: str, **parameters: Any) -> Iterator[tuple[Any, Peer]]:
    """An active node in this process, for tests that replace a part of it, and its peer, which can't call services."""
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.lifecycle import TransitionCallbackReturn
    from rclpy.parameter import Parameter

    from sam2_ros.ros.node import TrackerNode

    context = rclpy.Context()
    rclpy.init(context=context)
    overrides = [Parameter(name, value=value) for name, value in ({"model.name": "null"} | parameters).items()]
    tracker = TrackerNode(context=context, namespace=namespace, parameter_overrides=overrides)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(tracker)

    def spin() -> None:
        with suppress(ExternalShutdownException):
            executor.spin()

    spinning, peer = threading.Thread(target=spin), Peer(f"{namespace}/tracker", f"{namespace}/image")
    try:
        assert tracker.on_configure(None) is tracker.on_activate(None) is TransitionCallbackReturn.SUCCESS
        spinning.start()
        yield tracker, peer
    finally:
        executor.shutdown()
        if spinning.is_alive():
            spinning.join(PATIENCE)
        tracker.close()
        tracker.destroy_node()
        context.try_shutdown()
        peer.close()
