"""Packaging of the ROS-free library and command line (``pip install .``).

The ROS 2 package of the same folder is built by colcon, which goes by package.xml and CMakeLists.txt.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
_version = re.search(r'^__version__ = "(.+)"$', (ROOT / "sam2_ros/__init__.py").read_text(encoding="utf-8"), re.M)
assert _version, "sam2_ros/__init__.py defines no __version__"
_readme = ROOT / "README.md"

OPENVINO = ["openvino>=2025.0", "onnx>=1.16"]
TEST = [
    "pytest>=7,<9",
    "pytest-xdist",
    "psutil",
    "aiohttp>=3.9",
    "mcap>=1.1",
    "playwright",
    "pycocotools>=2.0.8",
    "rosbags",
    # a torch for GPUs names its own version of triton
    "triton; platform_system == 'Linux'",
    "ray>=2.60; platform_system == 'Linux'",
    *OPENVINO,
    "onnxruntime>=1.20",
]

setup(
    name="sam2_ros",
    version=_version.group(1),
    description="Real-time object tracking for ROS 2 with a streaming implementation of SAM 2",
    long_description=_readme.read_text(encoding="utf-8") if _readme.is_file() else "",
    long_description_content_type="text/markdown",
    author="The sam2_ros authors",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["sam2_ros", "sam2_ros.*"]),
    package_data={"sam2_ros.weights": ["*.pt", "*.json", "*.md"], "sam2_ros.viewer": ["static/*"]},
    # The headless build of OpenCV: nothing here opens a window, and it needs no libGL on a robot or in a container.
    install_requires=[
        "torch>=2.3",
        "matplotlib>=3.5",
        "numpy>=1.26",
        "opencv-python-headless>=4.6",
        "Pillow",
        "PyYAML",
        "pyzmq",
        "msgpack",
        "prometheus_client",
        "scipy",
        "tqdm",
    ],
    extras_require={
        "annotate": ["aiohttp>=3.9", "mcap>=1.1", "onnxruntime>=1.20", "pycocotools>=2.0.8", "rosbags"],  # and review
        "eval": ["pycocotools>=2.0.8"],  # run lengths of SA-V's training set
        "openvino": OPENVINO,  # model.runtime
        "sim": ["mujoco>=3.5"],
        "viewer": ["aiohttp>=3.9"],
        "record": ["mcap>=1.1"],
        "train": ["tensorboard"],
        "ray": ["ray>=2.60"],  # examples/ray_streams.py
        "bench": ["transformers>=4.56"],  # a peer of `sam2_ros bench`; the reference itself is in scripts/requirements/
        "test": [*TEST, "mujoco>=3.5", "tensorboard"],
        "dev": [*TEST, "mujoco>=3.5", "tensorboard", "ruff", "mypy", "pre-commit"],
    },
    entry_points={"console_scripts": ["sam2_ros = sam2_ros.cli.main:main"]},
    zip_safe=False,
)
