"""Renders MuJoCo models without a window, by OpenGL: pictures, and which geom a pixel shows."""

from __future__ import annotations

import os
from collections.abc import Collection
from ctypes.util import find_library
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Otherwise MuJoCo looks for a window system at import.
os.environ.setdefault("MUJOCO_GL", "disable")

import mujoco

from sam2_ros.media.errors import UserError

_MOST_GEOMS = 1000


def _context(width: int, height: int) -> Any:
    """An OpenGL context off the screen: MUJOCO_GL says which, else EGL if it is installed, else OSMesa.

    Raises:
        UserError: neither works here.
    """
    wanted = os.environ["MUJOCO_GL"].lower()
    kind = wanted if wanted in ("egl", "osmesa") else "egl" if find_library("EGL") else "osmesa"
    try:
        if kind == "egl":
            from mujoco.egl import GLContext
        else:
            from mujoco.osmesa import GLContext
        context = GLContext(width, height)
        context.make_current()
    # What PyOpenGL raises without a library or a driver: ImportError, AttributeError and errors of its own.
    except Exception as error:
        raise UserError(
            f"OpenGL by {kind} does not work here ({type(error).__name__}: {error}); accepted: EGL with a driver "
            "(Debian: libegl1 and libgl1-mesa-dri) or OSMesa (libosmesa6, chosen by MUJOCO_GL=osmesa)"
        ) from error
    return context


class Offscreen:
    """Renders at one size; :meth:`load` takes the next model. Use it in the thread that made it, and close it.

    Raises:
        UserError: there is no OpenGL here.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._gl = _context(width, height)
        self._camera, self._options = mujoco.MjvCamera(), mujoco.MjvOption()
        self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
        self._rgb = np.empty((height, width, 3), np.uint8)
        self._view = mujoco.MjrRect(0, 0, width, height)
        self._shown: mujoco.MjrContext | None = None

    def load(self, model: mujoco.MjModel) -> None:
        """Takes a model, whose first camera films it."""
        self._free()
        model.vis.global_.offwidth, model.vis.global_.offheight = self.width, self.height
        self._model = model
        self._scene = mujoco.MjvScene(model, _MOST_GEOMS)
        self._shown = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._shown)

    def update(self, data: mujoco.MjData, shift: tuple[float, float] = (0.0, 0.0)) -> None:
        """Takes the poses of everything; ``shift`` moves the picture by parts of a pixel, to the right and down."""
        every = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._options, None, self._camera, every, self._scene)
        for eye in self._scene.camera:
            pixel = (eye.frustum_top - eye.frustum_bottom) / self.height
            eye.frustum_center -= shift[0] * pixel
            eye.frustum_top += shift[1] * pixel
            eye.frustum_bottom += shift[1] * pixel

    def picture(self) -> NDArray[np.uint8]:
        """RGB ``uint8 [H, W, 3]`` with shadows."""
        self._flags(shadow=True, ids=False)
        return self._render().copy()

    def ids(self) -> NDArray[np.int32]:
        """The geom in each pixel, ``int32 [H, W]``; -1 = none."""
        self._flags(shadow=False, ids=True)
        colors = self._render().astype(np.int32)
        numbers = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
        geoms = np.full(self._scene.ngeom + 1, -1, np.int32)
        for shown in self._scene.geoms[: self._scene.ngeom]:
            if shown.objtype == mujoco.mjtObj.mjOBJ_GEOM and shown.segid >= 0:
                geoms[shown.segid + 1] = shown.objid
        return geoms[np.minimum(numbers, self._scene.ngeom)]

    def alone(self, geoms: Collection[int]) -> NDArray[np.bool_]:
        """The pixels ``bool [H, W]`` that these geoms would fill if there was nothing else."""
        self._flags(shadow=False, ids=True)
        hidden = []
        for shown in self._scene.geoms[: self._scene.ngeom]:
            if shown.objid not in geoms or shown.objtype != mujoco.mjtObj.mjOBJ_GEOM:
                hidden.append((shown, shown.segid))
                shown.segid = -1  # MuJoCo draws no such geom into a picture of ids
        found = self._render().any(axis=2)
        for shown, number in hidden:
            shown.segid = number
        return np.asarray(found)

    def close(self) -> None:
        """Frees the context."""
        self._free()
        self._gl.free()

    def _flags(self, shadow: bool, ids: bool) -> None:
        flags = self._scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadow
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = ids

    def _render(self) -> NDArray[np.uint8]:
        assert self._shown is not None, "load() comes first"
        mujoco.mjr_render(self._view, self._scene, self._shown)
        mujoco.mjr_readPixels(self._rgb, None, self._view, self._shown)
        return self._rgb[::-1]  # OpenGL counts rows from below

    def _free(self) -> None:
        if self._shown is not None:
            self._shown.free()
            self._shown = None
