"""Real-time object tracking for ROS 2 with a streaming implementation of SAM 2.

The layers point downward only: :mod:`sam2_ros.ros` (node) → :mod:`sam2_ros.inference` (where the engine runs) →
:mod:`sam2_ros.tracking` (streaming engine) → :mod:`sam2_ros.model` (network).
"""

import pkgutil

# In a checkout this folder hides the built package of the same name, which holds the generated messages; searching
# both makes ``sam2_ros.msg`` importable from either.
__path__ = pkgutil.extend_path(__path__, __name__)

__version__ = "0.1.0"
