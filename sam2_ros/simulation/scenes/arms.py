"""Arms that reach over the table: a robot's with a gripper, or a person's with a hand."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sam2_ros.simulation.scenes.textures import png, random_color, surface

Vector = NDArray[np.float64]


def reach(tip: Vector, shoulder: Vector, upper: float, forearm: float) -> list[float]:
    """Yaw, shoulder and elbow (radians) that bring the end of the forearm to ``tip``, or as near as the arm reaches.

    The elbow points up. Lengths in metres.
    """
    dx, dy, dz = tip - shoulder
    distance = min(math.hypot(dx, dy, dz), 0.999 * (upper + forearm))
    distance = max(distance, 1.001 * abs(upper - forearm), 1e-6)
    inner = math.acos(np.clip((upper**2 + distance**2 - forearm**2) / (2 * upper * distance), -1, 1))
    elbow = math.pi - math.acos(np.clip((upper**2 + forearm**2 - distance**2) / (2 * upper * forearm), -1, 1))
    lift = math.atan2(dz, math.hypot(dx, dy))
    return [math.atan2(dy, dx), -(lift + inner), elbow]  # a positive pitch turns x down


class Arm:
    """Three joints, and geoms around them; the tip is the end of the gripper's or hand's fingers."""

    def __init__(self, name: str, shoulder: Vector, length: float, human: bool, rng: np.random.Generator) -> None:
        """``length``, metres, of each of the two links; the forearm's counts to the tip."""
        self.name, self.shoulder, self._length = name, shoulder, length
        cloth, body = f"{name}.cloth", f"{name}.body"
        if human:
            tone = rng.uniform(0.35, 1.0)
            colors = (random_color(rng, (0.1, 0.8)), tuple(int(tone * value) for value in (232, 186, 158)))
        else:
            paint = ((225, 225, 225), (40, 42, 46), (225, 110, 30), (60, 110, 190))[rng.integers(4)]
            colors = (paint, (70, 72, 76))
        self.assets = "".join(
            f'<material name="{part}" rgba="{" ".join(f"{value / 255:.3f}" for value in color)} 1" specular="{shine}"/>'
            for part, color, shine in zip((cloth, body), colors, (0.05, 0.1) if human else (0.4, 0.5), strict=True)
        )
        self.files: dict[str, bytes] = {}
        if human and rng.random() < 0.6:
            self.files[f"{cloth}.png"] = png(surface(rng))
            self.assets = self.assets.replace("/>", f' texture="{cloth}"/>', 1)
            self.assets = f'<texture name="{cloth}" type="cube" file="{cloth}.png"/>' + self.assets
        grip = 0.17 if human else 0.14
        wrist = length - grip
        end = (
            _hand(body, wrist, rng.uniform(0, 0.6)) if human else _gripper(cloth, body, wrist, rng.uniform(0.02, 0.045))
        )
        thick = rng.uniform(0.035, 0.05)
        self.body = f"""<body name="{name}" pos="{_text(shoulder)}">
          <joint type="hinge" axis="0 0 1"/><joint type="hinge" axis="0 1 0"/>
          <geom type="sphere" size="{1.4 * thick}" material="{cloth if human else body}"/>
          <geom type="capsule" size="{1.1 * thick}" fromto="0 0 0 {length} 0 0" material="{cloth}"/>
          <body pos="{length} 0 0"><joint type="hinge" axis="0 1 0"/>
            <geom type="sphere" size="{1.2 * thick}" material="{cloth if human else body}"/>
            <geom type="capsule" size="{thick}" fromto="0 0 0 {wrist} 0 0" material="{cloth}"/>{end}
          </body></body>"""

    def joints(self, tip: Vector) -> list[float]:
        """The joints' angles that bring the tip there."""
        return reach(tip, self.shoulder, self._length, self._length)


def _gripper(cloth: str, body: str, wrist: float, open_by: float) -> str:
    finger = f'type="box" size="0.035 0.009 0.013" material="{body}"'
    return (
        f'<geom type="cylinder" size="0.04 0.03" pos="{wrist + 0.02} 0 0" euler="0 90 0" material="{body}"/>'
        f'<geom type="box" size="0.02 0.06 0.03" pos="{wrist + 0.06} 0 0" material="{cloth}"/>'
        f'<geom {finger} pos="{wrist + 0.105} {open_by} 0"/><geom {finger} pos="{wrist + 0.105} {-open_by} 0"/>'
    )


def _hand(body: str, wrist: float, curl: float) -> str:
    parts = [
        f'<geom type="capsule" size="0.026" fromto="{wrist - 0.03} 0 0 {wrist + 0.03} 0 0" material="{body}"/>',
        f'<geom type="ellipsoid" size="0.055 0.043 0.018" pos="{wrist + 0.06} 0 0" material="{body}"/>',
    ]
    for index, length in enumerate((0.065, 0.075, 0.07, 0.055)):
        y, start, knuckle = 0.022 * (index - 1.5), wrist + 0.1, 0.5 * length
        down = knuckle * math.sin(curl)
        middle = start + knuckle * math.cos(curl)
        end = middle + knuckle * math.cos(2 * curl)
        finger = f'type="capsule" size="0.0085" material="{body}"'
        parts.append(f'<geom {finger} fromto="{start} {y} 0 {middle} {y} {-down}"/>')
        parts.append(
            f'<geom {finger} fromto="{middle} {y} {-down} {end} {1.1 * y} {-down - knuckle * math.sin(2 * curl)}"/>'
        )
    thumb = f"{wrist + 0.03} 0.03 0 {wrist + 0.1} 0.065 -0.02"
    parts.append(f'<geom type="capsule" size="0.011" fromto="{thumb}" material="{body}"/>')
    return "".join(parts)


def _text(values: Vector) -> str:
    return " ".join(f"{value:.5f}" for value in values)
