"""The objects of rendered robot scenes by kind: what ``Scenes/NAME.json`` beside the labels says of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sam2_ros.evaluation.identity import count_switches
from sam2_ros.evaluation.presence import visibility_score
from sam2_ros.evaluation.results import SequenceResult, mean
from sam2_ros.media.errors import UserError
from sam2_ros.media.text_table import align, number

SCENES = "Scenes"  # the folder of what is known of each clip
KINDS = ("distinct", "copy", "small", "near")
GROUPS = (*KINDS, "hidden and back", "area below 1 %", "area 1 to 3 %", "area above 3 %")


@dataclass(frozen=True)
class SceneObject:
    """What is known of an object."""

    kind: str
    hidden_and_back: bool
    area: float  # median share of the picture while it is seen

    @property
    def groups(self) -> tuple[str, ...]:
        """The rows of the table that count this object: its kind, and others across kinds."""
        size = "area below 1 %" if self.area < 0.01 else "area 1 to 3 %" if self.area < 0.03 else "area above 3 %"
        return (self.kind, *(("hidden and back",) if self.hidden_and_back else ()), size)


def read_scene(root: Path, name: str) -> dict[int, SceneObject] | None:
    """The objects of a clip by id; None if the data set doesn't say.

    Raises:
        UserError: the file is damaged.
    """
    path = root / SCENES / f"{name}.json"
    if not path.is_file():
        return None
    try:
        objects = json.loads(path.read_text(encoding="utf-8"))["objects"]
        return {
            int(obj["id"]): SceneObject(str(obj["kind"]), bool(obj["hidden_and_back"]), float(obj["area"]))
            for obj in objects
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not about a scene ({error!r}); accepted: a file of sam2_ros synthesize --scenes"
        ) from None


def by_kind(root: Path, results: Sequence[SequenceResult], present_from: float) -> dict[str, Any] | None:
    """Figures of each group with objects, by its name; None for a data set without kinds."""
    scenes = {result.name: scene for result in results if (scene := read_scene(root, result.name)) is not None}
    if not scenes:
        return None
    found = {}
    for group in GROUPS:
        parts = [_part(result, scenes.get(result.name, {}), group) for result in results]
        scores = [score for part in parts for score in part.scores]
        if not scores:
            continue
        seen = visibility_score(parts, present_from)
        j, f = mean(score.j for score in scores), mean(score.f for score in scores)
        found[group] = {
            "objects": len(scores), "j": j, "f": f, "jf": (j + f) / 2,
            "absent_recall": seen.absent_recall, "present_recall": seen.present_recall,
            "identity_switches": sum(count_switches(part) for part in parts),
        }  # fmt: skip
    return found


def _part(result: SequenceResult, scene: Mapping[int, SceneObject], group: str) -> SequenceResult:
    """The rows of the objects of a group."""
    rows = (row for row in result.rows if row.object in scene and group in scene[row.object].groups)
    return replace(result, rows=tuple(rows))


def kinds_table(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each group; J, F and J&F in percent."""
    lines: list[tuple[str, ...]] = [("kind", "objects", "J&F", "J", "F", "absent recall", "present recall", "switches")]
    for name, row in kinds.items():
        shares = [number(row[key], 1, 100) for key in ("jf", "j", "f")]
        recalls = [number(row[key], 3) for key in ("absent_recall", "present_recall")]
        lines.append((name, str(row["objects"]), *shares, *recalls, str(row["identity_switches"])))
    return align(lines)
