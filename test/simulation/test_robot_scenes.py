"""Rendered robot scenes: labels agree with the pictures, seeds reproduce them, splits share nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("mujoco", reason="renders the scenes: pip install mujoco")

from sam2_ros.media.errors import UserError
from sam2_ros.simulation.camera import SimulatedCamera
from sam2_ros.simulation.scenes.models import SPLITS, family, folder_models, split_of
from sam2_ros.simulation.scenes.offscreen import Offscreen, mujoco
from sam2_ros.simulation.scenes.scene import RobotScene
from sam2_ros.simulation.table_scene import Scene
from sam2_ros.training.robot_clips import RobotClips, robot_clip, shares_in_sight

WIDTH, HEIGHT = 160, 120
CUBE = """v 0 0 0\nv .06 0 0\nv .06 .06 0\nv 0 .06 0\nv 0 0 .06\nv .06 0 .06\nv .06 .06 .06\nv 0 .06 .06
vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1
f 1/1 3/3 2/2\nf 1/1 4/4 3/3\nf 5/1 6/2 7/3\nf 5/1 7/3 8/4\nf 1/1 2/2 6/3\nf 1/1 6/3 5/4
f 2/1 3/2 7/3\nf 2/1 7/3 6/4\nf 3/1 4/2 8/3\nf 3/1 8/3 7/4\nf 4/1 1/2 5/3\nf 4/1 5/3 8/4
"""


@pytest.fixture(scope="module")
def screen() -> Offscreen:
    try:
        return Offscreen(WIDTH, HEIGHT)
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two families of cubes for each split; the cubes of one have a colour."""
    root = tmp_path_factory.mktemp("models")
    for split in SPLITS:
        words = [word for word in (f"word{n}" for n in range(200)) if split_of(word) == split][:2]
        for name in (f"{letter}_{word}" for word in words for letter in "ab"):
            (root / name).mkdir()
            (root / name / "textured.obj").write_text(CUBE)
            cv2.imwrite(str(root / name / "texture_map.png"), np.full((8, 8, 3), (30, 30, 220), np.uint8))
    return root


def scene_of(seed: int, things: tuple = ()) -> RobotScene:
    return RobotScene((0, seed), things, WIDTH, HEIGHT, 2.5)


def test_the_pixels_of_an_item_are_those_that_its_colour_fills(screen: Offscreen) -> None:
    """In a scene painted blue, with one item after the other in red, the red pixels are the item's."""
    scene = scene_of(3)
    model = scene.model
    model.geom_matid[:] = -1
    screen.load(model)
    compared = 0
    for time in (0.0, 0.5):
        scene.move_to(time)
        screen.update(scene.data)
        shown = scene.geom_items[screen.ids()]
        for item in range(len(scene.items)):
            model.geom_rgba[:] = (0, 0, 1, 1)
            model.geom_rgba[scene.geom_items == item] = (1, 0, 0, 1)
            screen.update(scene.data)
            picture = screen.picture().astype(int)
            mine = shown == item
            sure = ~edges(mine)  # at an item's edge the two may differ by a pixel
            assert ((picture[..., 0] > picture[..., 2]) == mine)[sure].all()
            compared += mine.any()
    assert compared >= 4


def edges(mask: np.ndarray) -> np.ndarray:
    kernel = np.ones((3, 3), np.uint8)
    return cv2.dilate(mask.astype(np.uint8), kernel) != cv2.erode(mask.astype(np.uint8), kernel)


def test_the_share_in_sight_is_that_of_what_something_hides(screen: Offscreen) -> None:
    """Two boxes of 40 x 40 pixels, face to face with the camera; the near one hides half of the far one."""
    model = mujoco.MjModel.from_xml_string("""<mujoco><statistic extent="1" center="0 0 0"/><worldbody>
      <camera name="eye" fovy="60" pos="0 0 0"/>
      <geom type="box" size="0.1 0.1 0.001" pos="0 0 -0.521"/>
      <geom type="box" size="0.1 0.2 0.001" pos="-0.1 0 -0.501"/>
      <geom type="sphere" size="0.01" pos="0 0 3"/></worldbody></mujoco>""")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    screen.load(model)
    screen.update(data)
    ids = screen.ids()
    label = (ids == 0).astype(np.uint8) + 2 * (ids == 1) + 3 * (ids == 2)
    shares = shares_in_sight(screen, label, [{0}, {1}, {2}])
    assert shares[0] == pytest.approx(0.5, abs=0.03)
    assert shares[1] == 1.0
    assert shares[2] == 0.0, "what is behind the camera isn't in sight"
    focal = HEIGHT / 2 / np.tan(np.radians(30))
    assert np.count_nonzero(ids == 0) == pytest.approx((0.2 * focal / 0.52) ** 2 / 2, rel=0.08)


def test_equal_seeds_give_equal_clips_and_splits_none_that_are_alike(screen: Offscreen) -> None:
    clips = RobotClips("train", 7, WIDTH, HEIGHT, steps=2)
    clip, about = robot_clip(clips, 1, (), screen)
    again, about_again = robot_clip(RobotClips("train", 8, WIDTH, HEIGHT, steps=2), 0, (), screen)
    assert about == about_again
    np.testing.assert_array_equal(clip.frames, again.frames)
    np.testing.assert_array_equal(clip.labels, again.labels)
    other, _ = robot_clip(RobotClips("report", 8, WIDTH, HEIGHT, steps=2), 0, (), screen)
    assert np.abs(other.frames.astype(int) - clip.frames).mean() > 10


@pytest.mark.parametrize("seed", [0, 4])
def test_what_a_clip_says_of_its_objects_is_what_its_labels_show(seed: int, screen: Offscreen) -> None:
    clip, about = robot_clip(RobotClips("choose", seed, WIDTH, HEIGHT, steps=8), 0, (), screen)
    assert clip.frames.shape == (8, HEIGHT, WIDTH, 3) and clip.labels.shape == (8, HEIGHT, WIDTH)
    assert [obj["id"] for obj in about["objects"]] == list(range(1, 1 + len(about["objects"])))
    assert set(np.unique(clip.labels)) == {0, *(obj["id"] for obj in about["objects"])}
    for obj in about["objects"]:
        areas = np.count_nonzero(clip.labels == obj["id"], axis=(1, 2))
        assert np.flatnonzero(areas)[0] == obj["first"] and obj["visible"][obj["first"]] >= 0.5
        np.testing.assert_array_equal(np.array(obj["visible"]) > 0, areas > 0)
        assert obj["hidden"] == [t for t in range(obj["first"], 8) if obj["visible"][t] < 0.05]
        assert obj["area"] == pytest.approx(np.median(areas[areas > 0]) / (WIDTH * HEIGHT), abs=1e-6)
        assert (obj["kind"] == "copy") == bool(obj["alike"])


def test_models_of_a_folder_belong_to_one_split_with_their_look_alikes(models: Path, screen: Offscreen) -> None:
    sets = {split: folder_models(models, split) for split in SPLITS}
    names = [thing.name for things in sets.values() for thing in things]
    assert len(names) == len(set(names)) == 12
    words = [{family(thing.name) for thing in things} for things in sets.values()]
    assert all(not one & other for n, one in enumerate(words) for other in words[:n])
    scene = scene_of(2, sets["report"])
    tracked = [item for item in scene.items if item.tracked]
    assert tracked and {item.thing.name for item in tracked} <= {thing.name for thing in sets["report"]}
    screen.load(scene.model)
    screen.update(scene.data)
    red = screen.picture()[np.isin(scene.geom_items[screen.ids()], [scene.items.index(i) for i in tracked])]
    assert len(red) > 50 and np.median(red[:, 0]) > 2 * np.median(red[:, 1]), "the texture isn't on the model"


def test_the_simulated_camera_takes_models_of_a_folder(models: Path) -> None:
    frame = SimulatedCamera(0, WIDTH, HEIGHT, models=models, noise=0).frame(0)
    assert {obj.name for obj in frame.objects} == {thing.name for thing in folder_models(models, "report")}
    for obj in frame.objects:
        assert obj.size == pytest.approx((0.06, 0.06, 0.06)) and obj.seen > 0
        rgb = frame.rgb[frame.labels == obj.object_id].astype(int)
        assert len(rgb) > 30 and np.median(rgb[:, 0]) > 2 * np.median(rgb[:, 1]), "the texture isn't on the model"
        columns = np.nonzero(frame.labels == obj.object_id)[1]
        assert abs(columns.mean() - (WIDTH - 1) / 2 - 1.02 * WIDTH * obj.position[0] / obj.position[2]) < 4
    with pytest.raises(UserError, match="0 of 4 models are small enough; accepted: 4 or more"):
        Scene(0, [replace(thing, high=(0.3, 0.3, 0.3)) for thing in folder_models(models, "report")])


def test_unusable_models_are_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no models; accepted: for each model NAME"):
        folder_models(tmp_path, "train")
    one = next(folder for folder in sorted(models.iterdir()) if split_of(folder.name) == "train")
    (tmp_path / one.name).symlink_to(one)
    with pytest.raises(UserError, match="1 of 1 models belong to the split 'train'"):
        folder_models(tmp_path, "train")
    for index, name in enumerate(("a_word", "b_other")):
        (tmp_path / "bad" / name).mkdir(parents=True)
        (tmp_path / "bad" / name / "textured.obj").write_text(CUBE if index else "no mesh")
    with pytest.raises(UserError, match=r"no such texture|no models|belong to the split|no readable mesh"):
        folder_models(tmp_path / "bad", split_of("a_word"))
