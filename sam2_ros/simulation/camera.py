"""The simulated camera: casts rays into the scene by MuJoCo on the CPU; gives colour, depth and ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import mujoco
import numpy as np
from numpy.typing import NDArray

from sam2_ros.simulation.materials import MATERIALS, SHINY
from sam2_ros.simulation.scenes.models import folder_models
from sam2_ros.simulation.table_scene import CAMERA, LIGHT, LOOKS_AT, Scene

_FAR = 20.0  # metres
_AMBIENT, _DIFFUSE = 0.42, 0.68
_SHADOW_BIAS = 0.004  # metres
_PIXEL_NOISE = 2.0  # of 255, standard deviation
_DEPTH_NOISE = 0.0015  # metres at 1 m, standard deviation; grows with the squared depth, as with a stereo camera
_DROPOUT = 0.01  # share of depth pixels without a value
_EDGE = 0.03  # metres of depth between neighbours from which on both have no value


@dataclass(frozen=True)
class Truth:
    """The true pose of an object in the camera's optical frame (REP-103)."""

    object_id: int
    name: str
    position: NDArray[np.float64]  # [3] metres, the middle of the body
    axes: NDArray[np.float64]  # [3, 3], its own axes as columns
    size: tuple[float, float, float]  # metres, along its own axes
    seen: float  # share of its pixels that nothing hides, 0 to 1


@dataclass(frozen=True)
class SimulatedFrame:
    """A frame and its ground truth."""

    index: int
    time: float  # seconds from the start
    rgb: NDArray[np.uint8]  # [H, W, 3]
    depth: NDArray[np.float32]  # [H, W] metres along the optical axis, with noise, 0 = not measured
    true_depth: NDArray[np.float32]  # [H, W] metres, exact
    labels: NDArray[np.uint16]  # [H, W] id of the visible object, 0 = none
    objects: tuple[Truth, ...]


class SimulatedCamera:
    """Renders the scene of a seed.

    ``noise`` scales the errors of image and depth; 0 = none. ``models`` is a folder of textured models, of which it
    takes those of the split "report"; None: plain shapes.

    Raises:
        UserError: unusable models.
    """

    def __init__(
        self, seed: int = 0, width: int = 640, height: int = 480, rate: float = 10.0, noise: float = 1.0,
        models: Path | None = None,
    ) -> None:  # fmt: skip
        self.seed, self.width, self.height, self.rate, self.noise = seed, width, height, rate, noise
        self.scene = Scene(seed, folder_models(models, "report") if models else ())
        focal = 1.02 * width
        # K, row by row; whole numbers are the centres of pixels.
        self.matrix = (focal, 0.0, (width - 1) / 2, 0.0, focal, (height - 1) / 2, 0.0, 0.0, 1.0)
        forward = (LOOKS_AT - CAMERA) / np.linalg.norm(LOOKS_AT - CAMERA)
        right = np.cross(forward, (0, 0, 1.0))
        right /= np.linalg.norm(right)
        self.rotation = np.stack([right, np.cross(forward, right), forward])  # [3, 3], from the world to the camera
        columns, rows = np.meshgrid(np.arange(width), np.arange(height))
        rays = np.stack(
            [(columns - self.matrix[2]) / focal, (rows - self.matrix[5]) / focal, np.ones_like(rows, np.float64)], -1
        ).reshape(-1, 3)
        lengths = np.linalg.norm(rays, axis=1, keepdims=True)
        self._cosines = 1 / lengths[:, 0]
        self._rays = (rays / lengths) @ self.rotation

    def frame(self, index: int) -> SimulatedFrame:
        """The frame ``index`` / ``rate`` seconds after the start; each call gives the same."""
        time = index / self.rate
        self.scene.move_to(time)
        geoms, distances, normals = self._cast(CAMERA, self._rays)
        hit = geoms >= 0
        labels = np.zeros(geoms.size, np.uint16)
        labels[hit] = self.scene.geom_ids[geoms[hit]]
        true_depth = np.where(hit, distances * self._cosines, 0).astype(np.float32)
        colors = self._shade(geoms, distances, normals)
        objects = self._truth(geoms, labels)
        random = np.random.default_rng((self.seed, index))
        shape = (self.height, self.width)
        return SimulatedFrame(
            index, time, self._develop(colors.reshape(*shape, 3), random),
            self._measure(true_depth.reshape(shape), random), true_depth.reshape(shape), labels.reshape(shape), objects,
        )  # fmt: skip

    def _cast(
        self, origin: NDArray, rays: NDArray, everything: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
        """The first hit of each ray (unit vector): geom (-1 = none), distance, normal."""
        count = len(rays)
        geoms, distances, normals = np.full(count, -1, np.int32), np.zeros(count), np.zeros(3 * count)
        groups = None if everything else np.array([1, 0, 0, 0, 0, 0], np.uint8)
        if count:
            mujoco.mj_multiRay(
                self.scene.model, self.scene.data, origin, rays.ravel(), groups, 1, -1, geoms, distances, normals,
                count, _FAR,
            )  # fmt: skip
        return geoms, distances, normals.reshape(count, 3)

    def _shade(self, geoms: NDArray, distances: NDArray, normals: NDArray) -> NDArray[np.float32]:
        points = CAMERA + self._rays * distances[:, None]
        to_light = LIGHT - points
        away = np.linalg.norm(to_light, axis=1)
        to_light /= away[:, None]
        # From the light outward, so that all shadow rays have one origin.
        _, lit, _ = self._cast(LIGHT, -to_light)
        light = (lit > away - _SHADOW_BIAS).astype(np.float32).reshape(self.height, self.width)
        size = 1 + 2 * max(1, self.width // 160)
        light = cv2.blur(light, (size, size)).ravel()
        facing = np.maximum(0, np.einsum("nc,nc->n", normals, to_light)).astype(np.float32)
        half = to_light - self._rays
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        gloss = np.maximum(0, np.einsum("nc,nc->n", normals, half)).astype(np.float32) ** 40 * light
        brightness = _AMBIENT + _DIFFUSE * facing * light
        colors = np.zeros((geoms.size, 3), np.float32)
        for geom in np.unique(geoms[geoms >= 0]):
            where = np.flatnonzero(geoms == geom)
            local = self.scene.local(geom, points[where]).astype(np.float32)
            material = self.scene.materials[geom]
            paint = self.scene.paints.get(int(geom)) or MATERIALS[material]
            colors[where] = paint(local) * brightness[where, None]
            if shine := SHINY.get(material, 0.0):
                colors[where] += shine * gloss[where, None]
        return colors

    def _develop(self, colors: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.uint8]:
        blurred = cv2.GaussianBlur(colors, (3, 3), 0.7)  # the lens; smooths jagged edges
        values = 255 * np.clip(blurred, 0, 1) ** np.float32(1 / 1.25)
        if self.noise:
            values += self.noise * _PIXEL_NOISE * random.standard_normal(values.shape, np.float32)
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)

    def _measure(self, depth: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
        if not self.noise:
            return depth.copy()
        noise = random.standard_normal(depth.shape, np.float32)
        measured = depth + self.noise * _DEPTH_NOISE * depth**2 * noise
        kernel = np.ones((3, 3), np.uint8)
        edges = cv2.dilate(depth, kernel) - cv2.erode(depth, kernel) > _EDGE
        measured[edges | (random.random(depth.shape, np.float32) < self.noise * _DROPOUT)] = 0
        return measured

    def _truth(self, geoms: NDArray, labels: NDArray[np.uint16]) -> tuple[Truth, ...]:
        seen = np.bincount(labels, minlength=len(self.scene.objects) + 1)
        found = []
        for number, obj in enumerate(self.scene.objects, 1):
            position, axes = self.scene.pose(number)
            whole = self._whole(number, geoms)
            share = float(seen[number] / whole) if whole else 0.0
            position, axes = self.rotation @ (position - CAMERA), self.rotation @ axes
            found.append(Truth(number, obj.name, position, axes, obj.size, share))
        return tuple(found)

    def _whole(self, number: int, geoms: NDArray) -> int:
        """The object's pixels if nothing hid it, by rays around it against its geoms alone."""
        center = self.scene.pose(number)[0] - CAMERA
        distance = float(np.linalg.norm(center))
        radius = float(np.linalg.norm(self.scene.objects[number - 1].size)) / 2
        near = np.flatnonzero(self._rays @ (center / distance) > np.sqrt(1 - (radius / distance) ** 2))
        hidden = near[(geoms[near] < 0) | (self.scene.geom_ids[geoms[near]] != number)]
        groups = self.scene.model.geom_group
        groups[:] = self.scene.geom_ids != number
        found, _, _ = self._cast(CAMERA, self._rays[hidden], everything=False)
        groups[:] = 0
        return int(np.count_nonzero(found >= 0)) + near.size - hidden.size
