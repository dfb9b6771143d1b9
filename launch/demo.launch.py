"""Plays a video as a camera topic and tracks in it.

ros2 launch sam2_ros demo.launch.py source:=cup.mp4 loop:=true
"""

import os
import sys

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction, Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from sam2_ros.ros.dds_environment import environment

ARGUMENTS = {
    "source": (None, "any SOURCE of 'sam2_ros track', such as a video file or a camera (0)"),
    "rate": ("0.0", "frames a second; 0 = the source's own"),
    "loop": ("false", "restart at the end of a file"),
    "reliability": ("reliable", "of the image publisher: reliable or best_effort"),
    "wait_for_subscriber": ("true", "wait for a subscriber before the first frame"),
    "model": ("", "as for tracker.launch.py"),
    "device": ("", "as for tracker.launch.py"),
    "params_file": ("", "as for tracker.launch.py"),
    "prompts_file": ("", "as for tracker.launch.py"),
    "transport": ("shared_memory", "as for tracker.launch.py; the same for publisher and tracker"),
    "viewer": ("false", "as for tracker.launch.py"),
    "viewer_port": ("8642", "as for tracker.launch.py"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}
FOR_THE_TRACKER = (
    "model", "device", "params_file", "prompts_file", "transport", "viewer", "viewer_port", "log_level",
)  # fmt: skip


def start(context: LaunchContext) -> list:
    """The actions for the given arguments."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    camera = Node(
        executable=sys.executable,
        exec_name="camera",
        name="camera",
        arguments=["-m", "sam2_ros.ros.video_publisher"],
        parameters=[
            {
                "source": given["source"],
                "rate": float(given["rate"]),
                "loop": given["loop"].lower() == "true",
                "reliability": given["reliability"],
                "wait_for_subscriber": given["wait_for_subscriber"].lower() == "true",
            }
        ],
        additional_env=environment(given["transport"], context.environment),
        output="screen",
        on_exit=lambda event, _: Shutdown() if event.returncode else None,  # its last line says what is wrong
    )
    launch_file = os.path.join(get_package_share_directory("sam2_ros"), "launch", "tracker.launch.py")
    tracker = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(launch_file),
        launch_arguments=[(name, given[name]) for name in FOR_THE_TRACKER],
    )
    return [tracker, camera]


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
