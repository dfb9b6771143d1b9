"""An mcap bag, replayed twice into the real engine with every frame, gives the same tracks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from node_harness import Peer, running
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from sam2_ros.ros.messages import image_message, to_time

FRAMES = 12
TIMING = ("receive_time_ns", "start_time_ns", "end_time_ns")


def record(bag: Path) -> None:
    """A red square that moves over noise, 10 images a second."""
    noise = np.random.default_rng(0)
    with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        store = get_typestore(Stores.ROS2_JAZZY)
        connection = writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=store)
        for number in range(FRAMES):
            rgb = noise.integers(80, 120, (96, 128, 3), np.uint8)
            rgb[30:66, 20 + 3 * number : 60 + 3 * number] = (200, 40, 30)
            stamp = (number + 1) * 100_000_000
            image = image_message(rgb, Header(stamp=to_time(stamp), frame_id="camera"))
            writer.write(connection, stamp, serialize_message(image))


def play(bag: Path, node: Peer) -> list[Any]:
    """Publishes the bag as fast as it can be read; the tracks that come back, without their times."""
    with Reader(bag) as reader:
        for _, _, data in reader.messages():
            node.send(deserialize_message(data, Image))
    # the prompted frame is published twice
    node.wait_until(lambda: len(node.tracks) >= FRAMES + 1, "tracks of every image")
    for tracks in node.tracks:
        for name in TIMING:
            assert getattr(tracks, name) > 0
            setattr(tracks, name, 0)
    return node.tracks


def wait_for_connections(node: Peer) -> None:
    node.wait_for_reliable()
    node.wait_until(lambda: node.node.count_publishers(f"{node.node_name}/tracks"), "the publisher")


def test_a_bag_replayed_twice_gives_identical_tracks(folder: Path) -> None:
    bag = folder / "bag"
    record(bag)
    prompts = folder / "prompts.json"
    box = {"frame": 0, "object_id": 1, "name": "square", "box": [20, 30, 60, 66]}
    prompts.write_text(json.dumps([box]))
    file = folder / "replay.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    input.every_frame: true\n    input.reliability: reliable\n"
        f"    model.device: cpu\n    prompts_file: {prompts}\n"
    )
    runs = []
    for number in range(2):
        with running(folder, namespace=f"/replay{number}", params_file=str(file), use_sim_time="true") as node:
            node.wait_for_state("active")
            wait_for_connections(node)
            runs.append(play(bag, node))
            assert node.tracks[-1].frames_processed == FRAMES and node.tracks[-1].frames_dropped == 0
            (known,) = node.tracks[-1].objects
            assert known.name == "square" and known.area > 500
    for first, second in zip(*runs, strict=True):
        assert first.instance != second.instance, "each run is another life of the node"
        first.instance = second.instance
        assert first == second
