"""Things to put on the table: textured models of a folder, or plain shapes; and which of them train, choose, report."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.errors import UserError
from sam2_ros.simulation.scenes.textures import png, skin

SPLITS = ("train", "choose", "report")
_SHARES = (0.5, 0.2, 0.3)  # of the families, in the order of SPLITS
# Chosen so that each split of the 48 usual YCB models has look-alikes: bricks, boxes; clamps, balls; cups.
_SALT = "3"
_PLAIN = 14
_MESH, TEXTURE = "textured.obj", "texture_map.png"
_ACCEPTED = (
    f"accepted: for each model NAME/{_MESH} (metres, z up) with {TEXTURE} beside it, or the two one folder deeper"
)
_LARGEST = 1.0  # metres


@dataclass(frozen=True)
class Thing:
    """A model as MJCF. Its origin is anywhere; ``low`` and ``high`` ``[3]`` bound it, in metres."""

    name: str
    family: str  # things of one family look alike
    assets: str
    geoms: str  # attributes of each geom, a line each, without place
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    mesh: Path | None = None

    @property
    def size(self) -> NDArray[np.float64]:
        """``[3]`` metres."""
        return np.subtract(self.high, self.low)


def family(name: str) -> str:
    """The last word of a model's name: ``a_cups`` and ``c_cups`` look alike, and are never in different splits."""
    return name.rsplit("_", 1)[-1]


def split_of(name: str) -> str:
    """The split that a model belongs to, from a hash of its family."""
    digest = hashlib.sha256(f"{_SALT} {family(name)}".encode()).digest()
    place = int.from_bytes(digest[:4], "big") % 10 / 10
    return SPLITS[int(np.searchsorted(np.cumsum(_SHARES), place + 1e-9))]


def folder_models(root: Path, split: str) -> tuple[Thing, ...]:
    """The models of a split, by name.

    Raises:
        UserError: there are none, or one can't be used.
    """
    paths = sorted([*root.glob(f"*/{_MESH}"), *root.glob(f"*/*/{_MESH}")])
    found = {path.relative_to(root).parts[0]: path for path in paths}
    if not found:
        raise UserError(f"{root}: no models; {_ACCEPTED}")
    chosen = {name: path for name, path in found.items() if split_of(name) == split}
    if len({family(name) for name in chosen}) < 2:
        raise UserError(
            f"{root}: {len(chosen)} of {len(found)} models belong to the split '{split}' by the hash of the last word "
            "of their names; accepted: models of two such words; add models"
        )
    return tuple(_read(name, path) for name, path in chosen.items())


@cache
def _read(name: str, path: Path) -> Thing:
    skin_file = path.with_name(TEXTURE)
    if not skin_file.is_file():
        raise UserError(f"{skin_file}: no such texture; {_ACCEPTED}")
    try:
        lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("v "))
        points = np.array([line[1:4] for line in lines], np.float64)
        low, high = points.min(axis=0), points.max(axis=0)
    except (ValueError, IndexError) as error:
        raise UserError(f"{path}: no readable mesh ({error}); {_ACCEPTED}") from error
    if not 0 < float((high - low).max()) <= _LARGEST:
        raise UserError(f"{path}: {(high - low).max():.3g} m large; accepted: up to {_LARGEST:g} m, in metres")
    own, mesh, image = (quoteattr(str(value)) for value in (name, path.resolve(), skin_file.resolve()))
    assets = (
        f'<texture name={own} type="2d" file={image}/>'
        f'<material name={own} texture={own} specular="0.2" shininess="0.3"/>'
        f'<mesh name={own} file={mesh} inertia="shell"/>'
    )
    return Thing(
        name, family(name), assets, f'type="mesh" mesh={own} material={own}', _three(low), _three(high), mesh=path
    )


def plain_models(rng: np.random.Generator) -> tuple[Thing, ...]:
    """Plain shapes with drawn textures, other ones for each generator; a family has one form."""
    things = []
    for index in range(_PLAIN):
        kind = ("box", "ball", "can", "brick", "stick")[index % 5]
        name = f"{'abcdefgh'[index // 5]}_{kind}"
        image = f"{name}.png"
        if kind == "ball":
            half = np.full(3, rng.uniform(0.02, 0.055))
            geom = f'type="sphere" size="{half[0]}"'
        elif kind == "can":
            radius = rng.uniform(0.025, 0.05)
            half = np.array([radius, radius, rng.uniform(0.03, 0.1)])
            geom = f'type="cylinder" size="{radius} {half[2]}"'
        else:
            limits = {
                "box": ((0.02, 0.05, 0.05), (0.04, 0.09, 0.12)),
                "brick": ((0.016, 0.03, 0.012), (0.02, 0.04, 0.02)),
            }
            half = rng.uniform(*limits.get(kind, ((0.07, 0.01, 0.008), (0.12, 0.016, 0.014))))
            geom = f'type="box" size="{half[0]} {half[1]} {half[2]}"'
        assets = (
            f'<texture name="{name}" type="cube" file="{image}"/>'
            f'<material name="{name}" texture="{name}" specular="{rng.uniform(0.1, 0.6)}" shininess="0.4"/>'
        )
        files = {image: png(skin(rng))}
        things.append(Thing(name, kind, assets, f'{geom} material="{name}"', _three(-half), _three(half), files))
    return tuple(things)


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
