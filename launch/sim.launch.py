"""A simulated robot camera over a table, and the tracker with depth, in one namespace.

ros2 launch sam2_ros sim.launch.py seed:=3
"""

import os
import sys
from collections.abc import Callable

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction, Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from sam2_ros.ros.dds_environment import environment


def is_true(text: str) -> bool:
    return text.lower() == "true"


# arguments of the camera: default, converter, description
CAMERA: dict[str, tuple[str, Callable, str]] = {
    "seed": ("0", int, "of the scene; equal seeds give equal images"),
    "width": ("640", int, "pixels"),
    "height": ("480", int, "pixels"),
    "rate": ("10.0", float, "frames a second of the scene"),
    "speed": ("1.0", float, "seconds of the scene in one second; below 1 is slow motion"),
    "frames": ("0", int, "frames to publish; 0 = endless"),
    "render_ahead": ("false", is_true, "render all frames before the first is published"),
    "noise": ("1.0", float, "faults of image and depth; 0 = a perfect camera"),
    "depth_encoding": ("16UC1", str, "16UC1 or 32FC1"),
    "reliability": ("reliable", str, "of the publishers: reliable or best_effort"),
    "subscribers": ("1", int, "subscribers of the image to wait for before the first frame"),
    "models": ("", str, "folder of textured models for the things on the table; plain shapes without"),
    "stamps": ("clock", str, "clock, or frame: the same stamps in every run"),
}
TRACKER = {
    "tracker": ("true", "start the tracker too"),
    "namespace": ("", "of both"),
    "model": ("", "as for tracker.launch.py"),
    "device": ("", "as for tracker.launch.py"),
    "params_file": ("", "as for tracker.launch.py"),
    "prompts_file": ("", "as for tracker.launch.py"),
    "transport": ("shared_memory", "as for tracker.launch.py"),
    "viewer": ("false", "as for tracker.launch.py"),
    "viewer_port": ("8642", "as for tracker.launch.py"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}


def start(context: LaunchContext) -> list:
    """The actions for the given arguments."""
    given = {name: LaunchConfiguration(name).perform(context) for name in (*CAMERA, *TRACKER)}
    camera = Node(
        executable=sys.executable,
        exec_name="camera",
        name="camera",
        namespace=given["namespace"],
        arguments=["-m", "sam2_ros.simulation.camera_node"],
        parameters=[{name: convert(given[name]) for name, (_, convert, _) in CAMERA.items()}],
        additional_env=environment(given["transport"], context.environment),
        output="screen",
        on_exit=lambda event, _: Shutdown() if event.returncode else None,  # its last line says what is wrong
    )
    if not is_true(given["tracker"]):
        return [camera]
    launch_file = os.path.join(get_package_share_directory("sam2_ros"), "launch", "tracker.launch.py")
    arguments = [(name, given[name]) for name in TRACKER if name != "tracker"]
    tracker = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(launch_file), launch_arguments=[*arguments, ("depth", "depth/image")]
    )
    return [tracker, camera]


def generate_launch_description() -> LaunchDescription:
    described = {name: (default, text) for name, (default, _, text) in CAMERA.items()} | TRACKER
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in described.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
