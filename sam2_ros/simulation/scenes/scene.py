"""A scene of a robot's table from a seed, as a MuJoCo model that can be moved to any time of the clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from sam2_ros.simulation.scenes import offscreen  # before MuJoCo, which it sets up
from sam2_ros.simulation.scenes.acts import Item, Stage
from sam2_ros.simulation.scenes.arms import Arm
from sam2_ros.simulation.scenes.models import Thing, plain_models
from sam2_ros.simulation.scenes.textures import Image, png, random_color, surface
from sam2_ros.simulation.scenes.view import SAMPLES, Vector, View, at, keyframes, wander

mujoco = offscreen.mujoco
_UPRIGHT = Rotation.identity()
_LYING = Rotation.from_euler("x", 90, degrees=True)
_FLOOR = -0.72  # metres
_CLEAR = 0.14  # metres that an arm's tip keeps from the eye


class RobotScene:
    """A table with things, arms and a moving camera. Equal arguments give equal scenes.

    Args:
        key: seeds the random generator.
        things: the models to draw from; empty: plain shapes.
        width, height: of the picture, pixels.
        seconds: length of the clip.
    """

    def __init__(self, key: Sequence[int], things: Sequence[Thing], width: int, height: int, seconds: float) -> None:
        self._rng = rng = np.random.default_rng(key)
        shapes = plain_models(rng)
        self._things, self._fill = (list(things), list(shapes)) if things else (list(shapes), [])
        self.view = View(rng, width, height)
        half = rng.uniform((0.45, 0.65), (0.75, 1.1))
        self._stage = Stage(rng, self.view, half, seconds)
        self._place_things()
        self.items = self._stage.items
        self._arms: list[Arm] = []
        self._tips: list[Vector] = []
        self._add_arms()
        self._lights = self._draw_lights()
        files: dict[str, bytes] = {}
        self.model = mujoco.MjModel.from_xml_string(self._mjcf(half, files), files)
        self.data = mujoco.MjData(self.model)
        bodies = {f"item{index}": index for index in range(len(self.items))}
        # by the index of a geom: the index of its item, -1 for other geoms
        self.geom_items = np.array(
            [bodies.get(self.model.body(self.model.geom_bodyid[g]).name, -1) for g in range(self.model.ngeom)], np.int32
        )
        self.move_to(0.0)

    def move_to(self, time: float) -> None:
        """Moves everything to its place at a time from 0 to 1."""
        for index, item in enumerate(self.items):
            turn = Rotation.from_euler("zx", (float(at(item.yaw, time)), float(at(item.tilt, time))))
            self.data.mocap_pos[index] = at(item.points, time)
            self.data.mocap_quat[index] = np.roll(turn.as_quat(), 1)  # MuJoCo's order is w, x, y, z
        joints = [arm.joints(at(tip, time)) for arm, tip in zip(self._arms, self._tips, strict=True)]
        self.data.qpos[:] = np.concatenate(joints) if joints else []
        eye, axes = self.view.pose(time)
        self.model.cam_pos[0], self.model.cam_quat[0] = eye, np.roll(Rotation.from_matrix(axes).as_quat(), 1)
        for light, (color, gain) in enumerate(self._lights):
            self.model.light_diffuse[light] = color * at(gain, time)
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def speed(self, time: float, step: float) -> float:
        """How many pixels the fastest item or arm's tip moves in the picture from ``time`` to ``time + step``."""
        paths = [item.points for item in self.items] + self._tips
        pairs = (
            (self.view.project(at(p, time), time), self.view.project(at(p, time + step), time + step)) for p in paths
        )
        moved = [float(np.hypot(*(b - a)[:2])) for a, b in pairs if min(a[2], b[2]) > 0.05]
        return max(moved, default=0.0)

    def _item(self, thing: Thing, tracked: bool, group: int = 0) -> Item:
        lies = thing.size[2] > 0.1 and self._rng.random() < 0.25
        return Item(thing, _LYING if lies else _UPRIGHT, tracked, group)

    def _place_things(self) -> None:
        """Large things in the background first, then copies, distinct things, and clutter."""
        rng, stage = self._rng, self._stage
        order = [self._things[i] for i in rng.permutation(len(self._things))]
        families = list(dict.fromkeys(thing.family for thing in order))
        taken: set[str] = set()
        if rng.random() < 0.75:
            # mostly of families that have look-alikes, where there are some
            rich = [f for f in families if sum(thing.family == f for thing in order) > 1]
            family = (rich if rich and rng.random() < 0.6 else families)[0]
            alike = [thing for thing in order if thing.family == family]
            count = int(rng.integers(2, 4))
            equal = len(alike) == 1 or rng.random() < 0.5
            group = [alike[0] if equal else alike[i % len(alike)] for i in range(count)]
            items = [self._item(thing, True, 1) for thing in group]
            rest = items[0].rest
            items = [Item(item.thing, rest, True, 1) for item in items]
            if rng.random() < 0.6:
                stage.put_circle(items, turns=rng.random() < 0.8)
            else:
                for item in items:
                    stage.put(item)
            taken.add(family)
        single = [next(t for t in order if t.family == f) for f in families if f not in taken]
        large = sorted(single, key=lambda thing: -thing.size[2])[: max(1, len(single) // 3)]
        if large and rng.random() < 0.6:
            thing = large[rng.integers(len(large))]
            stage.put(self._item(thing, rng.random() < 0.5))
            single.remove(thing)
        distinct = int(rng.integers(1, 4)) + (not taken)
        for thing in single[:distinct]:
            stage.put(self._item(thing, True))
        clutter = single[distinct:] + [self._fill[i] for i in rng.permutation(len(self._fill))[:3]]
        for index in rng.permutation(len(clutter))[: int(rng.integers(1, 6))]:
            stage.put(self._item(clutter[index], False))
        if taken and rng.random() < 0.35:  # one more that looks alike and isn't tracked
            stage.put(Item(group[0], rest, False, 1))
        for item in stage.items:
            if not item.busy and rng.random() < (0.5 if item.tracked else 0.12):
                stage.act(item)

    def _add_arms(self) -> None:
        rng = self._rng
        for index in range(int(rng.choice((0, 1, 2), p=(0.1, 0.6, 0.3)))):
            still = [item for item in self.items if item.tracked and not item.busy]
            tip = None
            if still and rng.random() < 0.6:
                tip = self._stage.carry(still[rng.integers(len(still))])
            if tip is None:
                order = rng.permutation(len(self.items))[: int(rng.integers(1, 4))]
                tip = self._stage.sweep([self.items[i] for i in order])
            self._add_arm(f"arm{index}", tip)

    def _add_arm(self, name: str, tip: Vector) -> None:
        """Takes an arm whose shoulder is out of sight. ``tip``: NaN while it waits."""
        rng, view = self._rng, self.view
        human = rng.random() < 0.5
        eye, axes = view.pose(0.0)
        side = int(rng.choice((-1, 1)))
        if rng.random() < (0.2 if human else 0.6):  # the robot that carries the camera
            shoulder = eye + axes @ np.array([side * rng.uniform(0.3, 0.45), -rng.uniform(0.1, 0.25), 0.1])
            shoulder[2] = max(shoulder[2], 0.15)
        else:
            shoulder = view.out_of_sight(np.array([rng.uniform(-0.2, 0.3), 0, 0.2]), 0.0, 0.25, side)
            shoulder[2] = rng.uniform(0.15, 0.4)
        used = tip[~np.isnan(tip[:, 0])]
        length = max(0.4, 0.54 * float(np.linalg.norm(used - shoulder, axis=1).max()))
        outward = shoulder - (eye + axes @ np.array([0, 0, -0.6]))
        waiting = shoulder + 0.5 * length * outward / np.linalg.norm(outward)
        self._tips.append(_away_from(self.view.eyes, _with_waiting(tip, waiting)))
        self._arms.append(Arm(name, shoulder, length, human, rng))

    def _draw_lights(self) -> list[tuple[Vector, Vector]]:
        """Colour and brightness over time of the lamp and of the second light."""
        rng = self._rng
        change = wander(rng, 0.3) * (rng.random() < 0.35)
        if rng.random() < 0.15:  # somebody switches it
            when = rng.uniform(0.2, 0.8)
            change = change + keyframes((0, when, min(1.0, when + 0.02), 1.001), (0, 0, 1, 1)) * rng.uniform(-0.6, -0.3)
        warm = 1 + rng.uniform(-0.12, 0.12) * np.array([1, 0, -1])
        second = rng.uniform(0.1, 0.4)
        return [(rng.uniform(0.45, 0.8) * warm, 1 + change), (second * np.ones(3), 1 + wander(rng, 0.2))]

    def _mjcf(self, half: Vector, files: dict[str, bytes]) -> str:
        rng = self._rng
        assets, room = self._room(half, files)
        for thing in {item.thing.name: item.thing for item in self.items}.values():
            assets += thing.assets
            files |= thing.files
        for arm in self._arms:
            assets += arm.assets
            files |= arm.files
        bodies = "".join(
            f'<body name="item{index}" mocap="true"><geom {item.thing.geoms} '
            f'pos="{_text(item.offset)}" quat="{_text(np.roll(item.rest.as_quat(), 1))}"/></body>'
            for index, item in enumerate(self.items)
        )
        lamp = rng.uniform((-0.6, -1.0, 1.3), (0.8, 1.0, 2.2))
        ambient = rng.uniform(0.22, 0.42)
        return f"""<mujoco><compiler angle="degree"/>
          <visual>
            <quality shadowsize="{min(2048, 8 * self.view.height)}" offsamples="0"/>
            <map znear="0.03" zfar="40" shadowscale="0.5"/>
            <headlight ambient="{ambient} {ambient} {ambient}" diffuse="0.12 0.12 0.12" specular="0.05 0.05 0.05"/>
          </visual>
          <statistic extent="1" center="0 0 0"/>
          <default><geom contype="0" conaffinity="0"/></default>
          <asset>{assets}</asset>
          <worldbody>
            <camera name="eye" fovy="{self.view.fovy}"/>
            <light pos="{_text(lamp)}" dir="{_text(-lamp)}" cutoff="70" exponent="2" specular="0.3 0.3 0.3"/>
            <light dir="{_text(rng.uniform((-1, -1, -2), (1, 1, -1)))}" type="directional" castshadow="false"/>
            {room}{bodies}{"".join(arm.body for arm in self._arms)}
          </worldbody></mujoco>"""

    def _room(self, half: Vector, files: dict[str, bytes]) -> tuple[str, str]:
        """Assets and geoms of table, floor, walls and furniture."""
        rng = self._rng
        assets = ""

        def material(name: str, image: Image, kind: str, more: str = "") -> None:
            nonlocal assets
            files[f"{name}.png"] = png(image)
            assets += f'<texture name="{name}" type="{kind}" file="{name}.png"/>'
            assets += f'<material name="{name}" texture="{name}" {more}/>'

        repeat = rng.uniform(1, 3)
        material(
            "top",
            surface(rng),
            "2d",
            f'texrepeat="{repeat} {repeat}" texuniform="true" specular="{rng.uniform(0, 0.4)}"',
        )
        material("floor", surface(rng), "2d", 'texrepeat="1.3 1.3" texuniform="true" specular="0.1"')
        geoms = (
            f'<geom type="box" size="{half[0]} {half[1]} 0.015" pos="0 0 -0.015" material="top"/>'
            f'<geom type="plane" size="8 8 0.1" pos="0 0 {_FLOOR}" material="floor"/>'
        )
        walls = (
            (rng.uniform(1.2, 3), 0, "0.05 6 2"),
            (0, rng.uniform(1.6, 3), "6 0.05 2"),
            (0, -rng.uniform(1.6, 3), "6 0.05 2"),
        )
        material("wall", surface(rng), "cube", 'specular="0"')
        for x, y, size in walls:
            geoms += f'<geom type="box" size="{size}" pos="{x} {y} 1.2" material="wall"/>'
        for index in range(int(rng.integers(1, 5))):  # furniture behind the table
            sides = rng.uniform((0.1, 0.1, 0.2), (0.3, 0.4, 0.9))
            place = np.array([half[0] + sides[0] + rng.uniform(0.1, 0.8), rng.uniform(-1.4, 1.4), _FLOOR + sides[2]])
            material(f"furniture{index}", surface(rng), "cube", 'specular="0.1"')
            geoms += f'<geom type="box" size="{_text(sides)}" pos="{_text(place)}" material="furniture{index}"/>'
        if rng.random() < 0.35:  # a mat or sheet of paper on the table
            red, green, blue = (value / 255 for value in random_color(rng, (0.0, 0.6)))
            sides, place = rng.uniform((0.1, 0.1), (0.25, 0.3)), rng.uniform(-0.15, 0.15, 2)
            geoms += (
                f'<geom type="box" size="{sides[0]} {sides[1]} 0.0008" pos="{place[0]} {place[1]} 0.0004" '
                f'euler="0 0 {rng.uniform(0, 90)}" rgba="{red} {green} {blue} 1"/>'
            )
        return assets, geoms


def _with_waiting(tip: Vector, waiting: Vector) -> Vector:
    """Fills NaN: the tip comes from the waiting place, and goes back there."""
    filled = np.flatnonzero(~np.isnan(tip[:, 0]))
    first, last = int(filled[0]), int(filled[-1])
    path = tip.copy()
    for count, end, step in ((first, first, -1), (SAMPLES - 1 - last, last, 1)):
        if count:
            away = np.minimum(np.arange(1, count + 1) / min(count, SAMPLES // 5), 1)
            blend = (0.5 - 0.5 * np.cos(np.pi * away))[:, None]
            path[end + step * np.arange(1, count + 1)] = tip[end] * (1 - blend) + waiting * blend
    return path


def _away_from(eyes: Vector, tip: Vector) -> Vector:
    """The tip, pushed out of the sphere around the eye."""
    apart = tip - eyes
    distance = np.linalg.norm(apart, axis=1, keepdims=True)
    return eyes + apart * np.maximum(1, _CLEAR / np.maximum(distance, 1e-6))


def _text(values: Vector) -> str:
    return " ".join(f"{value:.6f}" for value in values)
