"""Starts the tracker and brings it to the active state, also after a respawn.

ros2 launch sam2_ros tracker.launch.py image:=/camera/image_raw
"""

import os
import re
import sys
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode

from sam2_ros.ros.dds_environment import environment

ARGUMENTS = {
    "namespace": ("", "namespace of the node"),
    "use_sim_time": ("false", "take the time from /clock"),
    "params_file": ("", "parameter file; empty = the package's config/tracker.yaml, which holds every default"),
    "autostart": ("true", "configure and activate the node, also after a respawn"),
    "use_respawn": ("false", "start the node again when it dies"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
    "image": ("image", "topic of the camera's images (compressed ones: this name plus /compressed)"),
    "cameras": ("", "names of several cameras, as [left, right]; {camera} in topics stands for each name"),
    "depth": (
        "",
        "topic of the depth images, registered to the camera's; sets depth.enabled (compressed ones: this name plus "
        "/compressedDepth)",
    ),
    "camera_info": ("camera_info", "topic of the camera's calibration, needed for depth"),
    "transport": ("shared_memory", "Fast DDS transport of images: shared_memory, large_data or default"),
    "model": ("", "replaces the parameter model.name"),
    "device": ("", "replaces the parameter model.device"),
    "prompts_file": ("", "replaces the parameter prompts_file"),
    "state_file": ("", "replaces the parameter state_file; empty with use_respawn = a file for this launch"),
    "endpoint": ("", "replaces the parameter inference.endpoint: where an inference server tracks"),
    "viewer": ("false", "serve a web page that shows the tracks and adds objects by clicks"),
    "viewer_port": ("8642", "of the page"),
    "viewer_host": ("127.0.0.1", "address of the page; one that is not this machine's own needs the printed token"),
}


REPLACED = {
    "model": "model.name",
    "device": "model.device",
    "prompts_file": "prompts_file",
    "state_file": "state_file",
    "endpoint": "inference.endpoint",
}


def start(context: LaunchContext) -> list:
    """The actions for the given arguments."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    overrides: dict[str, object] = {name: is_true(given, name) for name in ("use_sim_time", "autostart")}
    for argument, parameter in REPLACED.items():
        if given[argument]:
            overrides[parameter] = given[argument]
    if given["params_file"] and not Path(given["params_file"]).is_file():
        raise ValueError(f"launch argument params_file is '{given['params_file']}'; there is no such file")
    respawn = is_true(given, "use_respawn")
    if respawn and not given["state_file"] and not names_state_file(given["params_file"]):
        overrides["state_file"] = fresh_state_file(given["namespace"], context.environment)
    if given["depth"]:
        overrides["depth.enabled"] = True
    cameras = names(given["cameras"])
    if cameras:
        overrides["cameras"] = cameras
    default_file = os.path.join(get_package_share_directory("sam2_ros"), "config", "tracker.yaml")
    tracker = LifecycleNode(
        package="sam2_ros",
        executable="tracker",
        name="tracker",
        namespace=given["namespace"],
        parameters=[given["params_file"] or default_file, overrides],
        remappings=[pair for camera in cameras or [""] for pair in remappings(given, camera)],
        arguments=["--ros-args", "--log-level", given["log_level"]],
        additional_env=environment(given["transport"], context.environment),
        respawn=respawn,
        respawn_delay=1.0,
        output="screen",
    )
    actions: list = [tracker]
    if is_true(given, "viewer"):
        actions.append(viewer(given, environment(given["transport"], context.environment)))
    return actions


def names_state_file(path: str) -> bool:
    """Whether a parameter file sets ``state_file``."""
    return bool(path and re.search(r"^\s*state_file:\s*[\"']?[^\"'\s#]", Path(path).read_text("utf-8"), re.MULTILINE))


def fresh_state_file(namespace: str, environment: dict) -> str:
    """A file of this node for the objects, in a folder that is the user's own; without those of an earlier launch."""
    home = environment.get("ROS_HOME") or Path.home() / ".ros"
    folder = Path(environment.get("XDG_RUNTIME_DIR") or home, "sam2_ros")
    domain = environment.get("ROS_DOMAIN_ID") or "0"
    name = ".".join([domain, *filter(None, namespace.split("/")), "tracker", "state"])
    for old in folder.glob(f"{name}*"):
        old.unlink(missing_ok=True)
    return str(folder / name)


def names(text: str) -> list[str]:
    """The camera names in ``[left, right]``, with or without brackets and quotes."""
    return [name for name in (part.strip(" '\"") for part in text.strip(" []").split(",")) if name]


_COMPRESSED = {"image": ("compressed",), "depth/image": ("compressedDepth",)}  # image_transport's names


def remappings(given: dict, camera: str) -> list[tuple[str, str]]:
    """From the node's topics to the robot's; ``camera`` is empty if there is one camera."""
    topics = {"image": given["image"], "depth/image": given["depth"] or "depth/image"}
    topics["camera_info"] = given["camera_info"]
    pairs = []
    for topic, target in topics.items():
        own = f"{camera}/{topic}" if camera else topic
        if camera and "{camera}" in target:
            target = target.replace("{camera}", camera)
        elif camera and target == topic:
            target = own
        elif camera:
            raise ValueError(
                f"a topic of several cameras is '{target}'; accepted: one with {{camera}} in it, which stands for each "
                "camera's name"
            )
        pairs.append((own, target))
        for suffix in _COMPRESSED.get(topic, ()):
            pairs.append((f"{own}/{suffix}", f"{target}/{suffix}"))
    return pairs


def viewer(given: dict, variables: dict) -> ExecuteProcess:
    """The process that serves the page of this tracker."""
    node = "/".join(["", *filter(None, given["namespace"].split("/")), "tracker"])
    options = ["--node", node, "--host", given["viewer_host"], "--port", given["viewer_port"]]
    command = [sys.executable, "-m", "sam2_ros", "view", *options]
    return ExecuteProcess(cmd=command, name="viewer", additional_env=variables, output="screen")


def is_true(given: dict, name: str) -> bool:
    value = given[name].lower()
    if value not in ("true", "false", "1", "0"):
        raise ValueError(f"launch argument {name} is '{given[name]}'; accepted: true or false")
    return value in ("true", "1")


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
