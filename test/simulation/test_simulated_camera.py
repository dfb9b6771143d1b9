"""The simulated camera tells the truth: geometry, masks and shares in sight agree with each other and with MuJoCo."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="renders the scene: pip install mujoco")

from sam2_ros.simulation.camera import SimulatedCamera, SimulatedFrame
from sam2_ros.simulation.score import sample, summary, visible_surface_center

WIDTH, HEIGHT = 160, 120


@pytest.fixture(scope="module")
def camera() -> SimulatedCamera:
    return SimulatedCamera(seed=0, width=WIDTH, height=HEIGHT)


@pytest.fixture(scope="module")
def frames(camera: SimulatedCamera) -> list[SimulatedFrame]:
    """One sweep of the arm."""
    return [camera.frame(index) for index in range(0, 90, 3)]


def test_equal_seeds_give_equal_frames_in_any_order(camera: SimulatedCamera, frames: list[SimulatedFrame]) -> None:
    again = SimulatedCamera(seed=0, width=WIDTH, height=HEIGHT)
    for frame in (frames[20], frames[3]):
        same = again.frame(frame.index)
        for name in ("rgb", "depth", "true_depth", "labels"):
            np.testing.assert_array_equal(getattr(same, name), getattr(frame, name))
    other = SimulatedCamera(seed=1, width=WIDTH, height=HEIGHT).frame(9)
    assert np.mean(other.labels != frames[3].labels) > 0.05


def test_a_balls_surface_lies_around_its_middle(camera: SimulatedCamera, frames: list[SimulatedFrame]) -> None:
    """Every pixel of it, brought into space with K and the exact depth, is a radius away from its true middle."""
    k = camera.matrix
    for frame in frames:
        ball = next(known for known in frame.objects if known.name == "ball")
        rows, columns = np.nonzero(frame.labels == ball.object_id)
        z = frame.true_depth[rows, columns].astype(np.float64)
        points = np.stack([(columns - k[2]) / k[0] * z, (rows - k[5]) / k[4] * z, z], axis=1)
        distances = np.linalg.norm(points - ball.position, axis=1)
        np.testing.assert_allclose(distances, ball.size[0] / 2, atol=1e-4)


def test_bodies_hold_their_surfaces(camera: SimulatedCamera, frames: list[SimulatedFrame]) -> None:
    k = camera.matrix
    for frame in frames[::5]:
        for known in frame.objects:
            rows, columns = np.nonzero(frame.labels == known.object_id)
            z = frame.true_depth[rows, columns].astype(np.float64)
            points = np.stack([(columns - k[2]) / k[0] * z, (rows - k[5]) / k[4] * z, z], axis=1)
            local = (points - known.position) @ known.axes
            assert (np.abs(local) <= np.array(known.size) / 2 + 0.02).all(), (
                known.name
            )  # the mug's handle is at one side


def test_the_arm_hides_objects_and_the_share_says_so(frames: list[SimulatedFrame]) -> None:
    shares = np.array([[known.seen for known in frame.objects] for frame in frames])
    assert ((shares >= 0) & (shares <= 1)).all()
    assert (shares.min(axis=0) < 0.05).any(), "nothing is ever hidden"
    assert (shares.max(axis=0) == 1).all(), "something is never quite in sight"
    for frame in frames:
        for known in frame.objects:
            assert (known.seen == 0) == (not (frame.labels == known.object_id).any())


def test_things_move_and_never_touch(camera: SimulatedCamera, frames: list[SimulatedFrame]) -> None:
    places = []
    for index in range(0, 600, 5):
        camera.scene.move_to(index / 10)
        places.append([camera.scene.pose(number)[0] for number in range(1, len(camera.scene.objects) + 1)])
    moved = np.ptp(places, axis=0)[:, :2]
    assert (moved > 0.07).all()
    radii = {"mug": 0.08, "carton": 0.0584, "ball": 0.05, "can": 0.035}  # metres, of what turns about the vertical
    flat = np.array(places)[..., :2]
    for one, thing in enumerate(camera.scene.objects):
        for other in range(one):
            gap = np.linalg.norm(flat[:, one] - flat[:, other], axis=1).min()
            assert gap > radii[thing.name] + radii[camera.scene.objects[other].name]


def test_depth_has_the_faults_of_a_camera(frames: list[SimulatedFrame]) -> None:
    perfect = SimulatedCamera(seed=0, width=WIDTH, height=HEIGHT, noise=0).frame(9)
    np.testing.assert_array_equal(perfect.depth, perfect.true_depth)
    frame = frames[3]
    measured = frame.depth > 0
    assert 0.5 < measured.mean() < 0.995
    errors = frame.depth[measured] - frame.true_depth[measured]
    assert 1e-4 < np.abs(errors).mean() < 0.01 and abs(errors.mean()) < 1e-3


def test_the_score_knows_right_from_wrong(camera: SimulatedCamera, frames: list[SimulatedFrame]) -> None:
    frame = frames[0]
    mug, carton = frame.objects[0], frame.objects[1]
    true = frame.labels == mug.object_id
    center, size = visible_surface_center(true, frame.true_depth, camera.matrix)
    common = (frame.labels, frame.true_depth, camera.matrix)
    right = sample("mug", 1, mug.seen, mug.position, *common, true, center + np.array([0.003, 0.004, 0]), size)
    assert (right.iou, right.confused) == (1.0, False)
    assert right.error == pytest.approx(0.005) and right.extent_error == pytest.approx(0)
    wrong = sample("mug", 1, mug.seen, mug.position, *common, frame.labels == carton.object_id, None, None)
    assert (wrong.iou, wrong.confused) == (0.0, True)
    hidden = sample("mug", 1, 0.0, mug.position, *common, None, None, None)
    figures = summary([right, wrong, hidden])
    assert figures["confused"] == 1 and figures["hidden, reported"] == 1.0 and figures["IoU"] == 0.5
    assert figures["position error p50 [mm]"] == pytest.approx(5)
