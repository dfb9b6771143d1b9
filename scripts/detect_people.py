"""A real detector feeds the tracker on real footage: background subtraction on ``vtest.avi``, against hand annotation.

Frames 400 to 599 are tracked with the embedded model; on every fifth, the detector's boxes go to the engine as the node
hands over ``detections``. Reports the share of annotated boxes that a track matches at IoU 0.5, on all frames and on
those that the detector sees, and how often a person's track changes.

python scripts/detect_people.py [--every N] [--picture people.jpg] [--annotation annotation.jpg]
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

from sam2_ros.demo.footage import people_video  # noqa: E402
from sam2_ros.inference import make_backend  # noqa: E402
from sam2_ros.inference.detections import Detection, DetectionFeeder, DetectionSettings  # noqa: E402
from sam2_ros.inference.matching import assign, ious  # noqa: E402
from sam2_ros.media.overlay import draw_overlay  # noqa: E402
from sam2_ros.tracking import FrameResult, TrackerConfig  # noqa: E402

ANNOTATION = ROOT / "docs" / "vtest_people.json"
LEARN = 100  # frames before the first that the background is learnt from
SHOWN = (444, 464, 494, 594)  # frames in the pictures: none that the detector sees by default

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


class Score:
    """Annotated boxes that are matched at IoU 0.5, and identity switches."""

    def __init__(self) -> None:
        self.annotated = self.matched = self.switches = 0
        self._owner: dict[str, int] = {}

    def add(self, people: Boxes, boxes: list[tuple[float, ...]], ids: list[int]) -> None:
        """One frame: ``boxes`` that were found, and whose they are."""
        overlap = ious(np.array(list(people.values())), np.array(boxes, float).reshape(-1, 4))
        self.annotated += len(people)
        for row, column in assign(1 - overlap, overlap >= 0.5):
            name, track = list(people)[row], ids[column]
            self.matched += 1
            self.switches += self._owner.get(name, track) != track
            self._owner[name] = track

    def __str__(self) -> str:
        return f"{self.matched / self.annotated:.1%} of {self.annotated} boxes"


def sheet(pictures: list[NDArray[np.uint8]], path: Path) -> None:
    """Four pictures in one."""
    rows = [np.hstack(pictures[at : at + 2]) for at in (0, 2)]
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


def draw_annotation(rgb: NDArray[np.uint8], people: Boxes, frame: int) -> NDArray[np.uint8]:
    """The annotated boxes with their names."""
    picture = rgb.copy()
    for name, box in people.items():
        x0, y0, x1, y1 = (round(edge) for edge in box)
        cv2.rectangle(picture, (x0, y0), (x1, y1), (255, 220, 0), 1)
        cv2.putText(picture, name, (x0, y0 - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 220, 0), 1, cv2.LINE_AA)
    cv2.putText(picture, f"frame {frame}", (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=5, help="frames between two detections (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=0, help="side of the network's square (default: as trained)")
    parser.add_argument("--picture", type=Path, help="where a picture of the tracks is written")
    parser.add_argument("--annotation", type=Path, help="where a picture of the annotation is written")
    args = parser.parse_args()
    truth = annotated()
    first, last = min(truth), max(truth)
    backend = make_backend("embedded", config=TrackerConfig(drop_after=60), image_size=args.image_size)
    feeder, settings, detector = DetectionFeeder(8), DetectionSettings(), Detector()
    video = cv2.VideoCapture(str(people_video(print)))
    video.set(cv2.CAP_PROP_POS_FRAMES, first - LEARN)
    alone, tracked, prompted = Score(), Score(), Score()
    shown: list[NDArray[np.uint8]] = []
    annotation: list[NDArray[np.uint8]] = []
    for frame in tqdm(range(first - LEARN, last + 1), unit="frame"):
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
        seen = [known for known in result.objects if known.mask.crop.size]
        alone.add(truth[frame], [each.box for each in found], [0] * len(found))
        for score in (tracked, prompted) if frame % args.every == 0 else (tracked,):
            score.add(truth[frame], [known.mask.box for known in seen], [known.object_id for known in seen])
        if frame in SHOWN:
            shown.append(draw_overlay(rgb, result))
            annotation.append(draw_annotation(rgb, truth[frame], frame))
    print(f"{last - first + 1} frames, detections on every {args.every}th: {feeder.counts}")
    print(
        f"matched at IoU 0.5: detector on every frame {alone}; tracks {tracked}; {tracked.switches} identity switches"
    )
    print(f"on the frames that the detector saw: tracks {prompted}")
    if args.picture:
        sheet(shown, args.picture)
    if args.annotation:
        sheet(annotation, args.annotation)


if __name__ == "__main__":
    main()
