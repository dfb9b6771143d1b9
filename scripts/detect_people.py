"""A real detector feeds the tracker on real footage: background subtraction on ``vtest.avi``, against hand annotation.

Frames 400 to 599 are tracked with the embedded model; on every fifth, the detector's boxes go to the engine as the node
hands over ``detections``. Reports the share of annotated boxes that a track matches at IoU 0.5 and how often a person's
track changes, and writes a picture.

python scripts/detect_people.py [--picture detections.jpg]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from sam2_ros.inference import make_backend  # noqa: E402
from sam2_ros.inference.detections import Detection, DetectionFeeder, DetectionSettings  # noqa: E402
from sam2_ros.tools.footage import people_video  # noqa: E402
from sam2_ros.tools.overlay import draw_overlay  # noqa: E402
from sam2_ros.tracking import FrameResult, TrackerConfig  # noqa: E402
from sam2_ros.tracking.association import assign, ious  # noqa: E402

ANNOTATION = ROOT / "docs" / "vtest_people.json"
LEARN = 100  # frames before the first that the background is learnt from
SHOWN = (430, 480, 530, 590)  # frames in the picture

Boxes = dict[str, list[float]]


def annotated() -> dict[int, Boxes]:
    """Boxes by frame and person, interpolated between the keyframes."""
    frames: dict[int, Boxes] = {}
    for name, person in json.loads(ANNOTATION.read_text(encoding="utf-8"))["people"].items():
        keys = sorted((int(frame), box) for frame, box in person["keyframes"].items())
        for frame in range(keys[0][0], keys[-1][0] + 1):
            box = [
                float(np.interp(frame, [key for key, _ in keys], [box[edge] for _, box in keys])) for edge in range(4)
            ]
            frames.setdefault(frame, {})[name] = box
    return frames


class Detector:
    """Background subtraction (MOG2): upright moving parts of the size of a person."""

    def __init__(self) -> None:
        self._background = cv2.createBackgroundSubtractorMOG2(history=500, varThreshold=25, detectShadows=True)

    def boxes(self, bgr: NDArray[np.uint8]) -> list[Detection]:
        moving = (self._background.apply(bgr) == 255).astype(np.uint8)
        moving = cv2.morphologyEx(moving, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        moving = cv2.morphologyEx(moving, cv2.MORPH_CLOSE, np.ones((17, 7), np.uint8))
        _, _, parts, _ = cv2.connectedComponentsWithStats(moving)
        return [
            Detection((float(x), float(y), float(x + w), float(y + h)), "person", 1.0)
            for x, y, w, h, area in parts[1:]
            if area > 500 and h > 40 and 1.5 < h / w < 5
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=5, help="frames between two detections (default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="where the picture is written")
    args = parser.parse_args()
    truth = annotated()
    first, last = min(truth), max(truth)
    backend = make_backend("embedded", config=TrackerConfig(drop_after=60))
    feeder, settings, detector = DetectionFeeder(8, 0.01), DetectionSettings(), Detector()
    video = cv2.VideoCapture(str(people_video(print)))
    video.set(cv2.CAP_PROP_POS_FRAMES, first - LEARN)
    matched = total = switches = detected = 0
    owner: dict[str, int] = {}
    shown: list[NDArray[np.uint8]] = []
    for frame in tqdm(range(first - LEARN, last + 1)):
        okay, bgr = video.read()
        if not okay:
            raise SystemExit(f"{frame}: the video ends")
        found = detector.boxes(bgr)
        if frame < first:
            continue
        rgb = np.ascontiguousarray(bgr[..., ::-1])
        result: FrameResult | None = backend.step(rgb, frame * 100_000_000)
        assert result is not None
        feeder.note(result)
        if frame % args.every == 0:
            feeder.apply(backend, found, result.stamp, settings)
            result = backend.objects()
            assert result is not None
        people = truth[frame]
        boxes = np.array(list(people.values()))
        seen = [known for known in result.objects if known.mask.crop.size]
        overlap = ious(boxes, np.array([known.mask.box for known in seen], float).reshape(-1, 4))
        raw = ious(boxes, np.array([each.box for each in found], float).reshape(-1, 4))
        detected += len(assign(1 - raw, raw >= 0.5))
        total += len(people)
        for row, column in assign(1 - overlap, overlap >= 0.5):
            name, track = list(people)[row], seen[column].object_id
            matched += 1
            switches += owner.get(name, track) != track
            owner[name] = track
        if frame in SHOWN:
            shown.append(draw_overlay(rgb, result))
    print(f"{last - first + 1} frames, {total} annotated boxes of {len(owner)} people with a track, {feeder.counts}")
    print(
        f"at IoU 0.5: detector alone {detected / total:.1%}, tracks {matched / total:.1%}; {switches} identity switches"
    )
    if args.picture:
        rows = [np.hstack(shown[at : at + 2]) for at in (0, 2)]
        cv2.imwrite(str(args.picture), np.vstack(rows)[..., ::-1])


if __name__ == "__main__":
    main()
