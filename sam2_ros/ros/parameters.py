"""Every parameter of the node, declared once: name, default, meaning, accepted values, and when it may change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sam2_ros.inference.detections import DetectionSettings
from sam2_ros.inference.discovery import DiscoverySettings
from sam2_ros.model.config import DTYPES, RUNTIMES, SIZES
from sam2_ros.remote.endpoints import endpoints_for
from sam2_ros.ros.parameter import NO_NAMES, Change, Parameter, Value, declared
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.settings import settings_of

PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        "cameras",
        NO_NAMES,
        "Names of the cameras; one network serves them all. Each camera has its own objects, and its name is part of "
        'its topics and services (left/image, ~/left/tracks); [""] = one camera without a name.',
        change=Change.AT_START,
    ),
    Parameter(
        "model.name",
        "embedded",
        f"The network: embedded; {SIZES} (downloaded before); or the path of a checkpoint, or of "
        "the folder of an exported network, which needs no PyTorch. 'null' "
        "tracks nothing: prompts stay where they are. It needs no PyTorch and shows the cost of the node itself.",
    ),
    Parameter(
        "model.device", "auto", "Device of the network: cpu, cuda, cuda:1, ...; auto takes CUDA if there is any."
    ),
    Parameter(
        "model.dtype",
        "auto",
        "Number format of the network: float32, bfloat16, or int8 for the image encoder of the embedded model, run by "
        "OpenVINO on a CPU. auto takes bfloat16 if the hardware computes in it, else int8 if it computes in that, else "
        "float32.",
        choices=DTYPES,
    ),
    Parameter(
        "model.runtime",
        "auto",
        "What runs the network: torch, openvino or onnxruntime, with openvino:gpu and onnxruntime's providers as in "
        "onnxruntime:tensorrt. auto takes OpenVINO for the embedded model on a CPU if it is installed and works, else "
        "PyTorch. The graphs of others are made at the first configure and cached.",
        choices=RUNTIMES,
    ),
    Parameter(
        "model.image_size",
        0,
        "Side of the square input of the network, in pixels; 0 = as in training. The embedded model has 448, and 384 "
        "for windows, unless another size is set.",
        0,
        4096,
    ),
    Parameter("model.threads", 0, "CPU threads of the network; 0 = PyTorch chooses.", 0, 1024),
    Parameter(
        "model.encode_ahead",
        False,
        "On a CPU, encode an image while the one before it is tracked, with half of the threads each, and without "
        "windows. This raises throughput and latency. It has no effect on a GPU.",
    ),
    Parameter(
        "inference.endpoint",
        "",
        "Where 'sam2_ros serve' runs the network instead of this process, which then needs no PyTorch and ignores "
        "model.*: tcp://HOST:PORT or ipc:///PATH. Separate several by commas: if one is lost, the next takes over. "
        "Servers per camera: 'left=tcp://a:5555; right=tcp://b:5555'. Empty = in this process.",
    ),
    Parameter(
        "inference.timeout",
        5.0,
        "Seconds to wait for the server's answer. A frame without one is dropped and counted.",
        0.05,
        600.0,
    ),
    Parameter(
        "inference.return_after",
        10.0,
        "After a failover, return to a preferred server once it has answered for this many seconds, at the next "
        "image with no hidden object; 0 = stay until the current server is lost.",
        0.0,
        86400.0,
    ),
    Parameter(
        "inference.pixels",
        "auto",
        "How images go to the server: raw, jpeg (smaller, not exact) or shm (shared memory on one machine); auto "
        "takes shared memory if possible, else raw.",
        choices=("auto", "raw", "jpeg", "shm"),
    ),
    Parameter("inference.jpeg_quality", 90, "Quality of JPEG images for the server.", 1, 100),
    Parameter(
        "inference.key_file",
        "",
        "This node's keys (NAME.key_secret, made by 'sam2_ros keys new'), for a server that asks for them; empty = "
        "none.",
    ),
    Parameter("inference.server_key_file", "", "The server's public key (NAME.key); empty = none."),
    *declared("tracker", TrackerConfig),
    Parameter(
        "input.transport",
        "raw",
        "raw: sensor_msgs/Image on 'image'; compressed: sensor_msgs/CompressedImage on 'image/compressed'.",
        choices=("raw", "compressed"),
    ),
    Parameter(
        "input.reliability",
        "auto",
        "QoS of the image subscription; auto is reliable if every publisher is, else best effort.",
        choices=("auto", "reliable", "best_effort"),
        change=Change.ANY_TIME,
    ),
    Parameter(
        "input.timeout",
        2.0,
        "Seconds without an image after which /diagnostics reports an error with the likely reason.",
        0.1,
        3600.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "input.every_frame",
        False,
        "For replays: process every image in order, so that the same bag gives the same results. Frames of several "
        "cameras are then not encoded as a batch. A live camera would fall behind.",
    ),
    Parameter(
        "input.queue",
        300,
        "Most images that wait with input.every_frame. Further ones are lost, and /diagnostics says so.",
        1,
        100_000,
    ),
    Parameter(
        "input.jump_back",
        1.0,
        "If an image's stamp is more than so many seconds before the last one, time was reset (a bag loops, a "
        "simulation restarts): every object is forgotten, with a warning; 0 = never.",
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
        "depth.transport",
        "raw",
        "raw: sensor_msgs/Image on 'depth/image'; compressedDepth: sensor_msgs/CompressedImage on "
        "'depth/image/compressedDepth', in image_transport's format png or rvl.",
        choices=("raw", "compressedDepth"),
    ),
    Parameter(
        "depth.slop",
        0.05,
        "Most seconds between the stamps of an image and its depth image. The nearest one is taken.",
        0.0,
        10.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "depth.queue",
        10,
        "Depth images stored to choose from. They should reach back as far as the engine takes for a frame.",
        1,
        1000,
    ),
    Parameter(
        "depth.wait",
        0.0,
        "Seconds that a frame's results may wait for a depth image (and a transform) as new as the frame, while "
        "depth images arrive at all; 0 = never.",
        0.0,
        1.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "depth.min_points",
        30,
        "Least number of valid depth pixels under a mask for a position.",
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
        "The images are rectified: use P of camera_info instead of K and D.",
        change=Change.ANY_TIME,
    ),
    Parameter(
        "detections.enabled",
        False,
        "Subscribe to 'detections' (vision_msgs/Detection2DArray) and prompt with its boxes. Their stamp must be "
        "that of the image that the detector saw.",
    ),
    *declared("detections", DetectionSettings),
    Parameter(
        "discover.enabled",
        False,
        "Add everything that no track covers as objects, by a search every discover.period seconds; "
        "~/discover searches once.",
        change=Change.ANY_TIME,
    ),
    *declared("discover", DiscoverySettings),
    Parameter(
        "output.mask_encoding",
        "mono8",
        "Masks in messages: mono8 (a byte per pixel of the crop) or rle (run lengths, smaller).",
        choices=("mono8", "rle"),
        change=Change.ANY_TIME,
    ),
    Parameter(
        "output.live",
        False,
        "Let ~/overlay, ~/label_image, ~/detections and ~/annotations follow ~/tracks_live: every camera image, with "
        "carried masks. Otherwise they show the processed frames.",
        change=Change.ANY_TIME,
    ),
    Parameter(
        "output.masks",
        NO_NAMES,
        'Names of objects; the mask of each is published as an image of its own, ~/mask/NAME; [""] = none.',
    ),
    Parameter(
        "output.clouds",
        NO_NAMES,
        'Names of objects; the points of each are published as a cloud of its own, ~/cloud/NAME; [""] = none.',
    ),
    Parameter(
        "output.cloud_points",
        10_000,
        "Most points of an object in a cloud; of more, an evenly spread part is sent.",
        1,
        1_000_000,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "output.cloud_voxel",
        0.0,
        "Clouds have one point in each cube of this side, in metres; 0 = all points.",
        0.0,
        1.0,
        change=Change.ANY_TIME,
    ),
    Parameter(
        "output.windows",
        False,
        "Draw into ~/overlay the part of the image in which the network looked for each object (tracker.window).",
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
        "JSON file with prompts for the first frame after configure (as for `sam2_ros track`, frame 0 only); empty "
        "= none. With several cameras, {camera} in it is replaced by the camera's name.",
    ),
    Parameter(
        "autostart",
        False,
        "Configure and activate the node when its process starts; the launch files set it.",
        change=Change.AT_START,
    ),
    Parameter(
        "state_file",
        "",
        "File in which the objects outlive this process: after a crash they come back with their ids, OCCLUDED until "
        "they are seen. A cleanup or ~/reset empties it; ids go on. Each of several cameras has a file of its own: "
        "{camera} is replaced by its name, or .NAME is added. Empty = none.",
    ),
    Parameter(
        "diagnostics.period", 1.0, "Seconds between messages on /diagnostics.", 0.05, 3600.0, change=Change.AT_START
    ),
)

BY_NAME: dict[str, Parameter] = {parameter.name: parameter for parameter in PARAMETERS}


_WHY_FIXED = {
    "model": "the network is loaded with it",
    "inference": "the connection to the server is made with it",
    "input": "the subscription is made with it",
    "depth": "its subscriptions are made with it",
    "detections": "its subscription is made with it",
    "output": "the topics are made with it",
    "prompts_file": "it is read then",
    "state_file": "it is read then",
}


def why_fixed(name: str) -> str:
    """Why a parameter that configure uses can't change afterwards, and what to do."""
    reason = BY_NAME[name].fixed or _WHY_FIXED[name.partition(".")[0]]
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
    return TrackerConfig(**_settings("tracker", TrackerConfig, values))


def detection_settings(values: Mapping[str, Value]) -> DetectionSettings:
    """The ``detections.*`` parameters as the feeder takes them.

    Raises:
        ValueError: a value outside its range.
    """
    settings = _settings("detections", DetectionSettings, values)
    return DetectionSettings(**settings | {"labels": tuple(filter(None, settings["labels"]))})


def discovery_settings(values: Mapping[str, Value]) -> DiscoverySettings:
    """The ``discover.*`` parameters as the search takes them.

    Raises:
        ValueError: a value outside its range.
    """
    return DiscoverySettings(**_settings("discover", DiscoverySettings, values))


def _settings(group: str, config: type, values: Mapping[str, Value]) -> dict[str, Any]:
    return {each.name: values[f"{group}.{each.name}"] for each in settings_of(config)}
