#!/usr/bin/env python3
"""Tracks many camera streams on a cluster. Ray places each stream where a CPU or a share of a GPU is free.

    pip install 'sam2_ros[ray]'
    python examples/ray_streams.py --streams 4                                # this machine
    python examples/ray_streams.py --streams 16 --gpus 0.25 --address auto    # a cluster, four streams a GPU

Every stream is a process with a network of its own. Rendered images stand for the cameras; the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from sam2_ros.bench.moving_scene import moving_scene
from sam2_ros.inference import make_backend
from sam2_ros.tracking import Prompt, PromptRequest, TrackerConfig


class Stream:
    """The tracker of one camera. Ray runs its methods one after the other, in the order of the calls."""

    def __init__(self, model: str, device: str) -> None:
        # One thread, because Ray gives an actor one CPU.
        self._tracker = make_backend(model, device, config=TrackerConfig(max_objects=16), threads=1)

    def add(self, boxes: NDArray[np.float32]) -> list[int]:
        """Ids of the objects in ``boxes`` (N x 4: x0, y0, x1, y1, pixels) of the newest frame."""
        return [result.object_id for result in self._tracker.add([PromptRequest(Prompt(box=box)) for box in boxes])]

    def step(self, image: NDArray[np.uint8], stamp: int) -> dict[int, int]:
        """Tracks in an image (H x W x 3, RGB) of time ``stamp`` (ns); pixels of each object's mask, by id."""
        result = self._tracker.step(image, stamp)
        return {obj.object_id: obj.mask.area for obj in result.objects}

    def process(self) -> int:
        """Where it runs."""
        return os.getpid()


def track(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Tracks ``args.frames`` frames of all streams at the same time."""
    actor: Any = ray.remote(num_cpus=args.cpus, num_gpus=args.gpus)(Stream)
    streams = [actor.remote(args.model, args.device) for _ in range(args.streams)]
    scenes = [moving_scene(index % 3 + 1, 320, 240) for index in range(args.streams)]
    ray.get([stream.step.remote(scene.frame(0), 0) for stream, scene in zip(streams, scenes, strict=True)])
    ids = ray.get([stream.add.remote(scene.boxes) for stream, scene in zip(streams, scenes, strict=True)])
    areas: list[list[dict[int, int]]] = [[] for _ in streams]
    for frame in range(1, args.frames + 1):
        # All streams work on one frame; the next frame follows when all are done, so that none queues up.
        steps = [stream.step.remote(scene.frame(frame), frame) for stream, scene in zip(streams, scenes, strict=True)]
        for stream_areas, found in zip(areas, ray.get(steps), strict=True):
            stream_areas.append(found)
    processes = ray.get([stream.process.remote() for stream in streams])
    return [
        {"process": process, "ids": stream_ids, "areas": stream_areas}
        for process, stream_ids, stream_areas in zip(processes, ids, areas, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=2, help="cameras (default: 2)")
    parser.add_argument("--frames", type=int, default=10, help="of each camera (default: 10)")
    parser.add_argument("--model", default="embedded", help="as for sam2_ros track (default: embedded)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda")
    parser.add_argument("--cpus", type=float, default=1, help="that a stream needs; Ray waits for them (default: 1)")
    parser.add_argument("--gpus", type=float, default=0, help="that a stream needs, such as 0.25 (default: 0)")
    parser.add_argument("--address", help="of a cluster, or auto (default: this machine alone)")
    args = parser.parse_args()
    ray.init(address=args.address, include_dashboard=None if args.address else False)
    try:
        print(json.dumps(track(args)))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
