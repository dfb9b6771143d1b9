"""Velocities of objects from their positions: a Kalman filter of constant velocity for each. Free of ROS.

The three axes are independent and measured equally well, so that they share one covariance. Acceleration is white noise
(Bar-Shalom, Li and Kirubarajan, Estimation with Applications to Tracking and Navigation, 2001, section 6.2.2). A
position is that of the visible surface; while something hides a part of the object, it is trusted less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

ACCELERATION = 0.3  # m^2/s^3, power spectral density of the acceleration: how soon a hand changes its mind
LEAST_ERROR = 0.003  # metres, standard deviation of a measured position: the visible part changes from frame to frame
RELATIVE_ERROR = 0.004  # the same as a share of the distance; the larger counts
FORGETTING = 0.99  # a frame, of an object's largest area: it may have been too large a mask
DOUBT = 4.0  # times the size of the share that is hidden: a position's standard deviation
FIRST_SPEED = 1.0  # m/s, standard deviation of a velocity that nothing is known of
GATE = 16.27  # squared Mahalanobis distance of an outlier: 1 of 1000 right ones lies beyond (chi square, 3 axes)
MOST_OUTLIERS = 3  # in a row; then the object is where they say, and the filter begins anew
HOLD = 1.0  # seconds without a position for which the motion is still predicted


@dataclass(frozen=True)
class Measurement:
    """Where an object was seen."""

    position: Vector  # [3] metres
    size: float  # metres, diagonal of the visible surface
    area: float  # of the visible surface, in any unit that does not change with the distance


@dataclass(frozen=True)
class Motion:
    """Where an object is and how it moves, in the frame of that name."""

    frame: str
    position: Vector  # [3] metres
    velocity: Vector  # [3] metres a second
    covariance: Vector  # [6, 6] of (position, velocity): m^2, m^2/s, m^2/s^2


@dataclass
class _Filter:
    stamp: int  # ns, of the newest frame
    measured: int  # ns, of the newest position that was taken
    state: Vector  # [2, 3] position and velocity
    covariance: Vector  # [2, 2] of one axis
    whole: float  # the area of the whole object
    updates: int = 1
    outliers: int = 0

    @classmethod
    def at(cls, stamp: int, seen: Measurement) -> _Filter:
        state = np.stack([seen.position, np.zeros(3)])
        return cls(stamp, stamp, state, np.diag([_variance(seen, 0.0), FIRST_SPEED**2]), seen.area)

    def predict(self, stamp: int) -> None:
        seconds = (stamp - self.stamp) / 1e9
        step = np.array([[1, seconds], [0, 1]])
        noise = ACCELERATION * np.array([[seconds**3 / 3, seconds**2 / 2], [seconds**2 / 2, seconds]])
        self.state = step @ self.state
        self.covariance = step @ self.covariance @ step.T + noise
        self.stamp = stamp

    def update(self, seen: Measurement) -> bool:
        """Whether ``seen`` was taken; an outlier is not."""
        self.whole = max(seen.area, FORGETTING * self.whole)
        error = seen.position - self.state[0]
        spread = self.covariance[0, 0] + _variance(seen, 1 - seen.area / self.whole)
        if error @ error > GATE * spread:
            self.outliers += 1
            return False
        gain = self.covariance[:, 0] / spread
        self.state = self.state + np.outer(gain, error)
        self.covariance = self.covariance - np.outer(gain, self.covariance[0])
        self.measured, self.outliers, self.updates = self.stamp, 0, self.updates + 1
        return True

    def motion(self, frame: str) -> Motion | None:
        """None before the second position, which the first velocity needs."""
        if self.updates < 2:
            return None
        return Motion(frame, self.state[0], self.state[1], np.asarray(np.kron(self.covariance, np.eye(3)), np.float64))


@dataclass
class MotionFilters:
    """The filters of all objects of one camera."""

    _frame: str = ""
    _stamp: int = 0
    _filters: dict[int, _Filter] = field(default_factory=dict)

    def step(self, stamp: int, frame: str, seen: Mapping[int, Measurement], living: Iterable[int]) -> dict[int, Motion]:
        """The motion of every object that is known at ``stamp``, measured now or predicted for up to :data:`HOLD`.

        A frame that comes again, since a prompt changed it, changes nothing. Where time goes back or positions are in
        another frame, all begin anew.

        Args:
            stamp: of the image, ns.
            frame: of the positions; empty if there are none.
            seen: by object id, of objects that have a position.
            living: ids of all objects.
        """
        if stamp < self._stamp or (frame and self._frame and frame != self._frame):
            self._filters.clear()
        again, self._stamp, self._frame = stamp == self._stamp, stamp, frame or self._frame
        kept = set(living)
        self._filters = {key: each for key, each in self._filters.items() if key in kept}
        for key, each in seen.items():
            self._measure(key, stamp, each, again)
        motions = {}
        for key, known in list(self._filters.items()):
            if stamp - known.measured > HOLD * 1e9:
                del self._filters[key]
                continue
            if known.stamp < stamp:
                known.predict(stamp)
            if (motion := known.motion(self._frame)) is not None:
                motions[key] = motion
        return motions

    def _measure(self, key: int, stamp: int, seen: Measurement, again: bool) -> None:
        known = self._filters.get(key)
        if known is None or stamp - known.measured > HOLD * 1e9:
            self._filters[key] = _Filter.at(stamp, seen)
        elif not again:
            known.predict(stamp)
            if not known.update(seen) and known.outliers >= MOST_OUTLIERS:
                self._filters[key] = _Filter.at(stamp, seen)


def _variance(seen: Measurement, hidden: float) -> float:
    """Of a position on one axis, metres squared. ``hidden`` is the share of the object that is not seen."""
    usual = max(LEAST_ERROR, RELATIVE_ERROR * float(np.linalg.norm(seen.position)))
    return max(usual, DOUBT * hidden * seen.size) ** 2
