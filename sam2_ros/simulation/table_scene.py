"""The simulated scene: a table with moving objects, and a robot's arm that sweeps over them; a MuJoCo model.

World frame: the origin lies on the table's top, x points away from the robot, y to its left, z up; metres. Seed and
time determine every pose, so a frame can be rendered alone, and equal seeds give equal scenes.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

# Otherwise MuJoCo looks for a window system at import; rays need none.
os.environ.setdefault("MUJOCO_GL", "disable")

import mujoco

from sam2_ros.media.errors import UserError
from sam2_ros.simulation.scenes.arms import reach
from sam2_ros.simulation.scenes.mesh_paint import mesh_paint
from sam2_ros.simulation.scenes.models import Thing

Vector = NDArray[np.float64]

CAMERA = np.array([-0.48, 0.0, 0.46])
LOOKS_AT = np.array([0.02, 0.0, 0.03])
LIGHT = np.array([-0.5, 0.9, 1.9])
SWEEP = 9.0  # seconds from one sweep of the arm to the next


@dataclass(frozen=True)
class SceneObject:
    """An object: name, size along its own axes, and geoms as MJCF around its middle."""

    name: str
    size: tuple[float, float, float]  # metres
    geoms: str
    rolls: bool = False  # about a horizontal axis, instead of turning about the vertical


def _geom(material: str, kind: str, size: str, place: str = "0 0 0", more: str = "") -> str:
    return f'<geom name="{{name}}.{material}{{number}}" type="{kind}" size="{size}" pos="{place}" {more}/>'


OBJECTS = (
    SceneObject(
        "mug",
        (0.13, 0.088, 0.1),
        _geom("ceramic", "cylinder", "0.044 0.05")
        + _geom("coffee", "cylinder", "0.037 0.001", "0 0 0.05")
        + _geom("ceramic", "capsule", "0.008", more='fromto="0.04 0 0.03 0.072 0 0.025"')
        + _geom("ceramic", "capsule", "0.008", more='fromto="0.072 0 0.025 0.07 0 -0.02"')
        + _geom("ceramic", "capsule", "0.008", more='fromto="0.07 0 -0.02 0.04 0 -0.03"'),
    ),
    SceneObject("carton", (0.06, 0.1, 0.15), _geom("carton", "box", "0.03 0.05 0.075")),
    SceneObject("ball", (0.1, 0.1, 0.1), _geom("ball", "sphere", "0.05"), rolls=True),
    SceneObject(
        "can", (0.07, 0.07, 0.12), _geom("label", "cylinder", "0.035 0.058") + _geom("metal", "cylinder", "0.033 0.06")
    ),
)
_PLACES = np.array([(0.13, -0.15), (0.13, 0.17), (-0.09, -0.11), (-0.09, 0.13)])
_WIDEST, _HIGHEST = 0.07, 0.16  # metres that a model may extend from its middle axis, and in height
_ROOM = 0.04  # metres that an object can move to each side without touching another

_SHOULDER = np.array([-0.16, -0.62, 0.12])
_UPPER, _FOREARM = 0.42, 0.42  # metres


class Scene:
    """The model at the time of the last :meth:`move_to`; object ids count from 1 in the order of ``objects``.

    ``things`` are models to choose from; without them, the objects are plain ones.

    Raises:
        UserError: too few of the things are small enough.
    """

    def __init__(self, seed: int = 0, things: Sequence[Thing] = ()) -> None:
        random = np.random.default_rng(seed)
        chosen = _small_ones(things, random) if things else []
        self.objects = tuple(_object(thing) for thing in chosen) or OBJECTS
        count = len(self.objects)
        self._places = random.permutation(_PLACES)[:count]
        self._periods = random.uniform(7.0, 13.0, (count, 2))  # seconds, along x and y
        self._phases = random.uniform(0, 2 * np.pi, (count, 3))
        self._turns = random.uniform(0.15, 0.4, count) * random.choice((-1, 1), count)  # radians a second
        self._side = float(random.uniform(-0.08, 0.08))  # metres, added to the arm's reach
        assets = "".join(thing.assets for thing in chosen)
        self.model = mujoco.MjModel.from_xml_string(_mjcf(self.objects, assets))
        self.data = mujoco.MjData(self.model)
        names = [self.model.geom(index).name for index in range(self.model.ngeom)]
        self.materials = tuple(name.partition(".")[2].rstrip("0123456789") for name in names)
        ids = {obj.name: number for number, obj in enumerate(self.objects, 1)}
        # by the index of a geom: the object's id, 0 for other geoms
        self.geom_ids = np.array([ids.get(name.partition(".")[0], 0) for name in names], np.uint16)
        # by the index of a geom: the colours of a textured mesh
        self.paints = {
            self.model.geom(f"{obj.name}.mesh0").id: mesh_paint(thing.mesh)
            for obj, thing in zip(self.objects, chosen, strict=False)
            if thing.mesh
        }
        self.move_to(0.0)

    def move_to(self, time: float) -> None:
        """Moves everything to its place ``time`` seconds after the start."""
        for index, obj in enumerate(self.objects):
            self.data.mocap_pos[index], self.data.mocap_quat[index] = self._pose(index, obj, time)
        self.data.qpos[:] = reach(self._hand(time), _SHOULDER, _UPPER, _FOREARM)
        mujoco.mj_kinematics(self.model, self.data)

    def local(self, geom: int, points: Vector) -> Vector:
        """Points ``[N, 3]`` of the world in a geom's own coordinates; for a mesh, those of its file."""
        inside = (points - self.data.geom_xpos[geom]) @ self.data.geom_xmat[geom].reshape(3, 3)
        mesh = int(self.model.geom_dataid[geom])
        if mesh < 0:
            return np.asarray(inside)
        # MuJoCo has moved the mesh to its middle and turned it to its main axes.
        turn = Rotation.from_quat(np.roll(self.model.mesh_quat[mesh], -1))
        return np.asarray(turn.apply(inside) + self.model.mesh_pos[mesh])

    def pose(self, object_id: int) -> tuple[Vector, Vector]:
        """Middle ``[3]`` and axes ``[3, 3]`` (columns) of an object in the world."""
        body = self.model.body(self.objects[object_id - 1].name).id
        return self.data.xpos[body].copy(), self.data.xmat[body].reshape(3, 3).copy()

    def _pose(self, index: int, obj: SceneObject, time: float) -> tuple[Vector, Vector]:
        angles = 2 * np.pi * time / self._periods[index] + self._phases[index, :2]
        place = self._places[index] + _ROOM * np.sin(angles)
        if obj.rolls:  # it turns about y as far as it moves along x
            turn, axis = _ROOM * math.sin(angles[0]) / (obj.size[2] / 2), (0.0, 1.0, 0.0)
        else:
            turn, axis = self._phases[index, 2] + self._turns[index] * time, (0.0, 0.0, 1.0)
        quaternion = Rotation.from_rotvec(turn * np.array(axis)).as_quat()
        return np.array([*place, obj.size[2] / 2]), np.roll(quaternion, 1)  # MuJoCo's order is w, x, y, z

    def _hand(self, time: float) -> Vector:
        """The hand's place: it waits at the right, sweeps low over the table in the camera's view, and back."""
        share = (time / SWEEP) % 1.0
        # 0 while it waits for the first quarter, then to 1 and back
        out = 0.5 - 0.5 * math.cos(2 * np.pi * max(0.0, share - 0.25) / 0.75)
        waiting, far = np.array([-0.10, -0.62, 0.30]), np.array([-0.12 + self._side, 0.20, 0.20])
        return waiting + out * (far - waiting) + np.array([0.0, 0.0, 0.06 * math.sin(np.pi * out)])


def _small_ones(things: Sequence[Thing], random: np.random.Generator) -> list[Thing]:
    """As many things as there are places, in the order of the random generator."""
    fitting = [thing for thing in things if np.hypot(*thing.size[:2]) / 2 <= _WIDEST and thing.size[2] <= _HIGHEST]
    if len(fitting) < len(_PLACES):
        raise UserError(
            f"{len(fitting)} of {len(things)} models are small enough; accepted: {len(_PLACES)} or more, up to "
            f"{_HIGHEST} m high and {2 * _WIDEST} m wide across corners"
        )
    return [fitting[index] for index in random.permutation(len(fitting))[: len(_PLACES)]]


def _object(thing: Thing) -> SceneObject:
    middle = " ".join(f"{-value:.6f}" for value in np.add(thing.low, thing.high) / 2)
    length, width, height = (float(value) for value in thing.size)
    name = re.sub(r"\W", "_", thing.name)
    return SceneObject(name, (length, width, height), f'<geom name="{name}.mesh0" {thing.geoms} pos="{middle}"/>')


def _mjcf(objects: tuple[SceneObject, ...], assets: str) -> str:
    bodies = []
    for obj in objects:
        parts = obj.geoms.replace("{name}", obj.name).split("{number}")  # each geom has its own name
        geoms = parts[0] + "".join(f"{number}{part}" for number, part in enumerate(parts[1:]))
        bodies.append(f'<body name="{obj.name}" mocap="true">{geoms}</body>')
    shoulder = " ".join(str(value) for value in _SHOULDER)
    return f"""<mujoco><default><geom contype="0" conaffinity="0"/></default><asset>{assets}</asset><worldbody>
      <geom name="floor.floor" type="plane" size="6 6 0.1" pos="0 0 -0.72"/>
      <geom name="wall.wall" type="box" size="0.05 6 2" pos="1.9 0 1.2"/>
      <geom name="table.table" type="box" size="0.62 0.85 0.02" pos="0.12 0 -0.02"/>
      {"".join(bodies)}
      <geom name="arm.paint0" type="cylinder" size="0.07 0.08" pos="{_SHOULDER[0]} {_SHOULDER[1]} 0.04"/>
      <body name="upper" pos="{shoulder}">
        <joint type="hinge" axis="0 0 1"/><joint type="hinge" axis="0 1 0"/>
        <geom name="arm.joint1" type="sphere" size="0.065"/>
        <geom name="arm.paint2" type="capsule" size="0.045" fromto="0 0 0 {_UPPER} 0 0"/>
        <body name="forearm" pos="{_UPPER} 0 0">
          <joint type="hinge" axis="0 1 0"/>
          <geom name="arm.joint3" type="sphere" size="0.056"/>
          <geom name="arm.paint4" type="capsule" size="0.042" fromto="0 0 0 {_FOREARM} 0 0"/>
          <geom name="arm.joint5" type="box" size="0.04 0.06 0.035" pos="{_FOREARM + 0.05} 0 0"/>
          <geom name="arm.metal6" type="box" size="0.05 0.01 0.015" pos="{_FOREARM + 0.13} 0.045 0"/>
          <geom name="arm.metal7" type="box" size="0.05 0.01 0.015" pos="{_FOREARM + 0.13} -0.045 0"/>
        </body>
      </body>
    </worldbody></mujoco>"""
