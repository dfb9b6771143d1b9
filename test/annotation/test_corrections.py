"""Corrections of a recording, how far they are tracked, and what becomes of them on the disk."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from data_sets import BALL, BOOK, HEIGHT, IMAGES, NAME, REASONS, WIDTH, annotated, make_data_set
from numpy.typing import NDArray

from sam2_ros.annotation.corrections import MOST_VERSIONS, Corrections, Version
from sam2_ros.annotation.data_set import read_data_set
from sam2_ros.annotation.masks import Mask, check_runs, encode
from sam2_ros.annotation.propagation import ENOUGH, GONE, propagate
from sam2_ros.annotation.recordings import ImageFile, Images
from sam2_ros.annotation.results import UNSAVED, read_annotated, read_unsaved, write_result
from sam2_ros.inference.null import NullBackend
from sam2_ros.media.errors import UserError
from sam2_ros.media.rendered_scene import RenderedFrame, render
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.types import BoolMask, CroppedMask, FrameResult


@pytest.fixture(scope="module")
def scene() -> list[RenderedFrame]:
    return list(render(IMAGES, WIDTH, HEIGHT, post=False))


@pytest.fixture
def corrections(scene: list[RenderedFrame]) -> Corrections:
    return Corrections(annotated(scene))


def square(x: int) -> BoolMask:
    pixels = np.zeros((HEIGHT, WIDTH), np.bool_)
    pixels[50:90, x : x + 40] = True
    return pixels


def mask(frame: int, key: int, x: int, iou: float = 0.9) -> Mask:
    return Mask(frame, key, encode(CroppedMask.from_full(square(x))), iou)


def test_a_correction_replaces_a_mask_and_its_doubt_and_can_be_taken_back(corrections: Corrections) -> None:
    before = corrections.result()
    assert before == annotated(list(render(IMAGES, WIDTH, HEIGHT, post=False))) and not corrections.changed
    corrections.add(corrections.now.with_masks({(7, BALL): mask(7, BALL, 20)}, by_person=True))
    assert corrections.changed
    after = corrections.result()
    assert [each for each in after.masks if each not in before.masks] == [mask(7, BALL, 20)]
    assert after.reasons == REASONS[1:] and after.corrected == [(7, BALL)]
    # What was tracked may be doubtful itself, and is no person's decision.
    corrections.add(corrections.now.with_masks({(8, BALL): mask(8, BALL, 20, iou=0.3)}, by_person=False))
    assert [(each.frame, each.kind, each.value) for each in corrections.now.reasons] == [
        (13, "score", 0.4), (8, "score", 0.3),
    ]  # fmt: skip
    assert (8, BALL) not in corrections.now.corrected
    for _ in range(2):
        corrections.undo()
    assert corrections.result() == before and not corrections.changed and not corrections.can_undo


def test_an_object_is_removed_from_some_images_or_from_all(corrections: Corrections) -> None:
    corrections.add(corrections.now.without(BALL, 7, 9))
    now = corrections.now
    assert [frame for frame, key in now.masks if key == BALL] == [*range(7), *range(10, IMAGES)]
    assert {(7, BALL), (8, BALL), (9, BALL)} == now.corrected and now.reasons == tuple(REASONS[2:])
    corrections.add(now.without(BALL, 0, IMAGES - 1))
    assert corrections.now.labels == {BOOK: "book"} and not corrections.now.corrected
    assert {key for _, key in corrections.now.masks} == {BOOK}


def places(version: Version, key: int) -> list[int]:
    return [frame for frame, each in sorted(version.masks) if each == key]


def test_an_object_is_split_at_an_image(corrections: Corrections) -> None:
    before = corrections.now
    now = before.split(BALL, 8, 7)
    assert places(now, BALL) == [*range(8)] and places(now, 7) == [*range(8, IMAGES)]
    assert now.labels == {BALL: "ball", BOOK: "book", 7: "ball"}
    # What tracks the first part on ends there, and so does what tracks the second one back.
    assert now.corrected == {(8, BALL), (8, 7)}
    assert [(each.frame, each.object_id) for each in now.reasons] == [(7, BALL), (13, BOOK)], (
        "the doubt about 8 is gone"
    )
    assert all(mask.object_id == key for (_, key), mask in now.masks.items())
    assert [mask.mask for mask in now.masks.values()] == [mask.mask for mask in before.masks.values()]


def test_two_objects_are_merged_and_the_chosen_one_keeps_its_masks(corrections: Corrections) -> None:
    whole = corrections.now
    parts = whole.split(BALL, 8, 7)
    assert parts.merged(BALL, 7).masks == whole.masks and parts.merged(BALL, 7).labels == whole.labels
    renamed = parts.merged(7, BALL)
    assert places(renamed, 7) == [*range(IMAGES)] and renamed.labels == {BOOK: "book", 7: "ball"}
    # Where both have one, it is not said of the other one's mask that it is doubtful.
    double = whole.merged(BOOK, BALL)
    assert double.masks == {place: mask for place, mask in whole.masks.items() if place[1] == BOOK}
    assert double.reasons == tuple(REASONS[2:]) and double.labels == {BOOK: "book"}


def test_two_objects_are_exchanged_from_an_image_on(corrections: Corrections) -> None:
    before = corrections.now.without(BOOK, 10, 11)
    now = before.exchanged(BALL, BOOK, 8)
    for frame in range(IMAGES):
        for key, other in ((BALL, BOOK), (BOOK, BALL)):
            was = before.masks.get((frame, other if frame >= 8 else key))
            there = now.masks.get((frame, key))
            assert (there and (there.mask, there.object_id)) == (was and (was.mask, key))
    assert now.labels == before.labels and now.corrected == {(10, BALL), (11, BALL), (8, BALL), (8, BOOK)}
    again = now.exchanged(BOOK, BALL, 8)
    assert again.masks == before.masks
    # An object that is only in the later images is another's continuation.
    late = corrections.now.split(BALL, 8, 7)
    whole = late.exchanged(BALL, 7, 8)
    assert whole.masks == corrections.now.masks and whole.labels == corrections.now.labels


def test_the_versions_are_bounded_and_the_saved_one_is_known(corrections: Corrections) -> None:
    for number in range(MOST_VERSIONS + 5):
        corrections.add(corrections.now.with_label(BALL, f"ball {number}"))
    corrections.saved()
    assert not corrections.changed
    corrections.undo()
    assert corrections.changed and corrections.now.labels[BALL] == f"ball {MOST_VERSIONS + 3}"
    while corrections.can_undo:
        corrections.undo()
    assert corrections.now.labels[BALL] == "ball 5"


def test_after_a_save_that_failed_every_version_is_still_to_be_saved(corrections: Corrections) -> None:
    corrections.add(corrections.now.with_label(BALL, "football"))
    corrections.saving()
    corrections.undo()
    assert corrections.changed, "the data set may hold the version that was taken back"
    corrections.saved()
    assert not corrections.changed


def test_corrections_come_back_from_their_file(corrections: Corrections, tmp_path: Path) -> None:
    corrections.add(corrections.now.without(BALL, 3, 4).accepted(13))
    write_result(tmp_path, corrections.result(), UNSAVED)
    read = read_annotated(tmp_path, NAME, UNSAVED)
    assert read == corrections.result() and read.corrected == [(3, BALL), (4, BALL)]
    again = Corrections(corrections.recording, read)
    assert again.changed and again.can_undo
    again.undo()
    assert not again.changed


@pytest.fixture
def images(tmp_path: Path) -> Images:
    for index in range(80):
        cv2.imwrite(str(tmp_path / f"{index}.jpg"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return Images(tmp_path, [ImageFile(f"{index}.jpg", 0, WIDTH, HEIGHT) for index in range(80)])


def tracked(images: Images, version: Version, frame: int, step: int, *keys: int) -> dict[tuple[int, int], Mask | None]:
    """All changes, by an engine whose objects stand still."""
    backend = NullBackend(TrackerConfig(max_objects=len(keys)))
    found: dict[tuple[int, int], Mask | None] = {}
    for changes in propagate(backend, images, version, frame, keys, step):
        found |= changes
    return found


def version(*masks: Mask, corrected: frozenset[tuple[int, int]] = frozenset()) -> Version:
    keys = {each.object_id for each in masks}
    return Version({(each.frame, each.object_id): each for each in masks}, dict.fromkeys(keys, "cup"), (), corrected)


def test_a_correction_is_tracked_until_the_annotation_agrees(images: Images) -> None:
    same, other = 20, 200
    known = [mask(index, 1, same if index in (10, 13, 14, *range(17, 40)) else other) for index in range(40)]
    found = tracked(images, version(*known), 10, 1, 1)
    # Images 13 and 14 agree, and stay; 17 to 19 are three in a row, and the end. What comes then is not looked at.
    assert [frame for frame, _ in found] == [11, 12, 15, 16] and ENOUGH == 3
    assert all(each is not None and each.agreement is None for each in found.values())
    backwards = tracked(images, version(*known), 10, -1, 1)
    assert [frame for frame, _ in backwards] == list(range(9, -1, -1))


def test_it_ends_where_a_person_has_decided_and_where_there_is_nothing(images: Images) -> None:
    decided = frozenset({(14, 1)})  # without a mask: it was removed there
    found = tracked(images, version(mask(10, 1, 20), mask(10, 2, 120), corrected=decided), 10, 1, 1, 2)
    assert [frame for frame, key in found if key == 1] == [11, 12, 13]
    assert [frame for frame, key in found if key == 2] == list(range(11, 80)), "its own end is that of the recording"
    ways = propagate(_Shrinking(), images, version(mask(10, 1, 20)), 10, [1], 1)
    assert [dict(changes) for changes in ways] == [{}] * GONE


class _Shrinking(NullBackend):
    """Loses its object after the first image, as the null engine does when the size changes."""

    def step(self, frame: NDArray[np.uint8], stamp: int) -> FrameResult:
        return super().step(frame if self.next_id == 1 else frame[:9], stamp)


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no data set; give the folder that 'sam2_ros annotate --out' wrote"):
        read_data_set(tmp_path)
    make_data_set(tmp_path / "data", "yolo")
    read = read_data_set(tmp_path / "data")
    assert (read.format, read.images, read.stills, read.windows) == ("yolo", "images", False, False)
    assert read.recordings == [annotated(list(render(IMAGES, WIDTH, HEIGHT, post=False)))]
    (tmp_path / "data" / "recordings" / f"{NAME}.json").write_text("{")
    with pytest.raises(UserError, match=r"clip\.json can't be read \(Expecting.*\); run 'sam2_ros annotate' again"):
        read_data_set(tmp_path / "data")
    settings = tmp_path / "data" / "settings.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"recordings": []}))
    with pytest.raises(UserError, match="no data set is written yet"):
        read_data_set(tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda known: known.update(name="../../elsewhere"), "it is of the recording ../../elsewhere"),
        (lambda known: known["images"][3].update(name="../../../etc/passwd"), "'../../../etc/passwd' names no file"),
        (lambda known: known["images"][3].update(name=".."), "'..' names no file"),
        (lambda known: known["images"][3].update(width=1 << 20, height=1 << 20), "has 1048576 x 1048576 pixels"),
        (lambda known: known["masks"][0].update(frame=IMAGES), "a mask of object 1 in image 16"),
        (lambda known: known["masks"][0].update(frame=-1), "a mask of object 1 in image -1"),
        (lambda known: known["masks"][0].update(frame=0.0), "a mask of object 1 in image 0.0"),
        (lambda known: known["masks"][0].update(object_id=7), "a mask of object 7 in image 0"),
        (lambda known: known["masks"][1].update(object_id=BALL), "two masks in one image"),
        (lambda known: known["masks"][0].update(predicted_iou=float("nan")), "score of a mask in image 0"),
        (lambda known: known["masks"][0]["mask"].update(size=[1 << 20, 1 << 20]), "another size than its image"),
        (lambda known: known["masks"][0]["mask"].update(counts="34"), "fills 7 pixels of an image of 320 x 240"),
        (lambda known: known["masks"][0]["mask"].update(counts=""), "not made of run lengths"),
        (lambda known: known["masks"][0]["mask"].update(counts="3P"), "not made of run lengths"),
        (lambda known: known["masks"][0]["mask"].update(counts="3\x7f"), "not made of run lengths"),
        (lambda known: known["masks"][0]["mask"].update(counts="3\x00"), "not made of run lengths"),
        (lambda known: known["masks"][0]["mask"].update(counts="3" + "P" * 8 + "0"), "a run that is too long"),
        (lambda known: known["masks"][0]["mask"].update(counts="O3"), "fills 2 pixels"),
        (lambda known: known["labels"].update({"1": ["ball"]}), "object 1 has no label"),
        (lambda known: known["labels"].update({"1": "b" * 257}), "object 1 has no label of up to 256 characters"),
        (lambda known: known.update(damage=["none"]), "its damage is no text"),
        (lambda known: known["labels"].update({"-4": "ball"}), "object -4 has no label"),
        (lambda known: known.update(corrected=[[IMAGES, BALL]]), "a mask of object 1 in image 16"),
        (lambda known: known["reasons"][0].update(frame=IMAGES), "a doubt about image 16"),
        (lambda known: known["reasons"][0].update(value=float("inf")), "a doubt about image 7"),
        (lambda known: known["reasons"][0].update(object_id=[1]), "a doubt about image 7"),
        (lambda known: known["masks"][0].update(predicted_iou=10**400), "not what 'sam2_ros annotate' writes"),
        (lambda known: known["reasons"][0].update(value=10**400), "not what 'sam2_ros annotate' writes"),
        (lambda known: known.pop("masks"), "not what 'sam2_ros annotate' writes"),
    ],
)
def test_a_file_that_leads_out_of_the_data_set_or_does_not_fit_together_is_refused(
    change: Callable[[Any], None], said: str, scene: list[RenderedFrame], tmp_path: Path
) -> None:
    write_result(tmp_path, annotated(scene))
    path = tmp_path / "recordings" / f"{NAME}.json"
    read_annotated(tmp_path, NAME)
    known = json.loads(path.read_text())
    change(known)
    path.write_text(json.dumps(known))
    with pytest.raises(UserError, match=rf"clip\.json can't be read \(.*{re.escape(said)}"):
        read_annotated(tmp_path, NAME)


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_of_pycocotools_are_accepted_and_cut_ones_are_not(seed: int) -> None:
    random = np.random.default_rng(seed)
    pixels = random.random((48, 64)) < random.choice([0.0, 0.02, 0.5, 0.98, 1.0])
    pixels[:, : int(random.integers(64))] = seed % 2
    whole = encode(CroppedMask.from_full(pixels))
    check_runs(whole, 64, 48)
    counts = whole["counts"]
    for cut in range(len(counts)):
        with pytest.raises(ValueError, match=r"fills|not made of run lengths"):
            check_runs(whole | {"counts": counts[:cut]}, 64, 48)


@pytest.mark.parametrize("name", ["annotations.json", "recordings", f"images/{NAME}", f"images/{NAME}/000003.jpg"])
def test_a_link_in_a_data_set_is_refused(name: str, tmp_path: Path) -> None:
    make_data_set(tmp_path / "data")
    inside, elsewhere = tmp_path / "data" / name, tmp_path / "elsewhere"
    inside.rename(elsewhere)
    inside.symlink_to(elsewhere)
    with pytest.raises(UserError, match=f"{name} is a link, which may lead out of the data set; replace it by what"):
        read_data_set(tmp_path / "data")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    inside.unlink()
    elsewhere.rename(inside)
    assert read_data_set(tmp_path / "link").recordings, "the folder itself may be one"


def test_an_image_that_was_exchanged_is_refused(tmp_path: Path) -> None:
    make_data_set(tmp_path)
    (recording,) = read_data_set(tmp_path).recordings
    images = Images(tmp_path / "images" / NAME, recording.images)
    path = tmp_path / "images" / NAME / "000003.jpg"
    assert images.jpeg(3) == path.read_bytes() and images.read(3).shape == (HEIGHT, WIDTH, 3)
    cv2.imwrite(str(path), np.zeros((1000, 2000, 3), np.uint8))
    for read in (images.jpeg, images.read):
        with pytest.raises(UserError, match="has 2000 x 1000 pixels; it was annotated with 320 x 240"):
            read(3)
    path.write_bytes(b"root:x:0:0")
    with pytest.raises(UserError, match="not a readable image"):
        images.jpeg(3)
    path.unlink()
    os.mkfifo(path)
    for read in (images.jpeg, images.read):
        with pytest.raises(UserError, match="is a pipe, socket or device"):
            read(3)


def test_a_recording_outside_the_data_set_is_not_read(tmp_path: Path) -> None:
    make_data_set(tmp_path / "data")
    inside = tmp_path / "data" / "recordings" / f"{NAME}.json"
    (tmp_path / "data" / f"{NAME}.json").write_bytes(inside.read_bytes())
    settings = tmp_path / "data" / "settings.json"
    for names, said in (([f"../{NAME}"], "names no file"), (7, "is no data set")):
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"recordings": names}))
        with pytest.raises(UserError, match=said):
            read_data_set(tmp_path / "data")


def test_unsaved_corrections_that_can_not_be_read_are_told(scene: list[RenderedFrame], tmp_path: Path) -> None:
    saved = annotated(scene)
    assert read_unsaved(tmp_path, saved) is None
    write_result(tmp_path, saved, UNSAVED)
    assert read_unsaved(tmp_path, saved) == saved
    with pytest.raises(UserError, match="holds corrections of other images; move it elsewhere"):
        read_unsaved(tmp_path, annotated(scene[:5]))
    (tmp_path / UNSAVED / f"{NAME}.json").write_text("{")
    with pytest.raises(UserError, match=r"unsaved/clip\.json can't be read \(Expecting.*\); move it elsewhere"):
        read_unsaved(tmp_path, saved)
