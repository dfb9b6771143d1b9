"""Fits the judgement of masks by appearance: ``python -m recipes.embedded judge --help``.

The tracker runs over labelled clips, one object at a time. A recorder stores the evidence for each mask, and whether
the mask was right. Two logistic regressions follow: one for tracked masks, one for masks of objects that were searched
and found again. The judgement decides what the tracker remembers, so this is repeated in rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recipes.embedded.export import export
from recipes.embedded.logistic import logistic
from recipes.embedded.metric import begin, with_appearance
from sam2_ros.evaluation.datasets import open_dataset
from sam2_ros.media.progress import bar
from sam2_ros.model import load_model
from sam2_ros.model.appearance import Appearance
from sam2_ros.model.network import ImageFeatures
from sam2_ros.model.sam2 import APPEARANCE_FINE, Sam2Model
from sam2_ros.tracking import Prompt, PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.cuda_encoder import RawFrame
from sam2_ros.tracking.shared_model import SharedModel

RIGHT = {"tracked": 0.3, "found": 0.5}  # least IoU with the label of a mask that is right
LENIENCE = (0.8, 0.5)  # of the shipped checkpoint
PENALTY = 1e-3  # on the squared weights


@dataclass
class Recorder:
    """Stores the evidence of every judged mask, and whether the mask was right."""

    appearance: Appearance
    truth: NDArray[np.float32] | None = None  # [h, w] share of each low-resolution pixel; None: nothing is stored
    evidence: dict[str, list[Tensor]] = field(default_factory=lambda: {kind: [] for kind in RIGHT})
    right: dict[str, list[bool]] = field(default_factory=lambda: {kind: [] for kind in RIGHT})

    def __post_init__(self) -> None:
        weigh = self.appearance.evidence

        def evidence(match: Any, picture: Tensor, logits: Tensor, *others: Any) -> Tensor:
            self._logits = logits
            return weigh(match, picture, logits, *others)

        self.appearance.evidence = evidence  # type: ignore[method-assign, assignment]
        self._handles = [getattr(self.appearance, kind).register_forward_hook(self._hook(kind)) for kind in RIGHT]

    def close(self) -> None:
        """Ends recording."""
        del self.appearance.evidence
        for handle in self._handles:
            handle.remove()

    def _hook(self, kind: str) -> Any:
        def store(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
            if self.truth is not None:
                shown, label = self._logits[0].numpy() > 0, self.truth > 0.5
                iou = (shown & label).sum() / max(1, (shown | label).sum())
                self.evidence[kind].append(inputs[0].clone())
                self.right[kind].append(bool(iou > RIGHT[kind] and label.any()))

        return store


class SharedEncoding(SharedModel):
    """Encodes a frame once for all trackers that step on it; each tracker copies what it stores."""

    features: ImageFeatures | None = None

    def encode(self, frame: Tensor | RawFrame) -> ImageFeatures:
        if self.features is None:
            self.features = super().encode(frame)
        return self.features


def watch(model: Sam2Model, folders: Sequence[Path], dtype: str) -> Recorder:
    """Tracks every object of the clips in ``folders`` from its first mask, each with a tracker of its own."""
    assert model.appearance is not None
    recorder, shared = Recorder(model.appearance), SharedEncoding(model, dtype)
    side = model.config.grid * 4
    whole = TrackerConfig(max_objects=1, history=0, window="off")
    for folder in folders:
        dataset = open_dataset(folder)
        with bar(len(dataset.names), "clip", quiet=False) as progress:
            for name in dataset.names:
                clip = dataset.open(name)
                trackers: dict[int, Tracker] = {}
                for frame in clip:
                    shared.features = None
                    masks = clip.truth.masks(frame.index)
                    for number, tracker in trackers.items():
                        recorder.truth = cv2.resize(
                            masks.get(number, np.zeros(frame.rgb.shape[:2], bool)).astype(np.float32),
                            (side, side),
                            interpolation=cv2.INTER_AREA,
                        )
                        tracker.step(frame.rgb, frame.index)
                    recorder.truth = None
                    for number in (n for n, first in clip.first_frames.items() if first == frame.index):
                        trackers[number] = Tracker(model, whole, dtype, shared)
                        trackers[number].step(frame.rgb, frame.index)
                        trackers[number].add([PromptRequest(Prompt(mask=masks[number]))])
                for tracker in trackers.values():
                    tracker.close()
                progress.update()
    recorder.close()
    return recorder


@torch.no_grad()
def fit(model: Sam2Model, recorder: Recorder, lenience: Mapping[str, float]) -> None:
    """Sets both judgements; ``lenience`` is added to the logit of each."""
    for kind in RIGHT:
        if not recorder.evidence[kind]:
            print(f"{kind}: no mask was judged; left as it was", flush=True)
            continue
        evidence = torch.cat(recorder.evidence[kind]).double().numpy()
        right = np.array(recorder.right[kind])
        try:
            weights, offset = logistic(evidence, right, PENALTY)
        except ValueError as error:
            print(f"{kind}: {error}; left as it was", flush=True)
            continue
        layer = getattr(model.appearance, kind)
        layer.weight.copy_(torch.from_numpy(weights)[None])
        layer.bias.fill_(offset + lenience[kind])
        accepted = evidence @ weights + offset + lenience[kind] > 0
        print(
            f"{kind}: {len(right)} masks, {right.mean():.3f} right; accepted {accepted[right].mean():.3f} of the right "
            f"and {accepted[~right].mean():.3f} of the wrong ones",
            flush=True,
        )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.embedded judge", description=__doc__)
    parser.add_argument("--model", required=True, help="checkpoint to fit: embedded, or a path")
    parser.add_argument("--metric", type=Path, help="weights of the metric; without it, those of the checkpoint")
    parser.add_argument(
        "--clips", type=Path, nargs="+", required=True, help="labelled clips, as from sam2_ros synthesize"
    )
    parser.add_argument("--rounds", type=int, default=2, help="how often the clips are tracked (default: 2)")
    parser.add_argument(
        "--lenience",
        type=float,
        nargs=2,
        default=LENIENCE,
        metavar=("TRACKED", "FOUND"),
        help="added to the logits, so that a partly visible object counts as seen although its mask is hardly right "
        f"(default: {LENIENCE[0]} {LENIENCE[1]})",
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="(default: bfloat16)")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    args = parser.parse_args(argv)
    model = load_model(args.model)
    if args.metric is not None:
        state = torch.load(args.metric, weights_only=True)
        hidden, channels = state["layers.0.weight"].shape
        appearance = Appearance(APPEARANCE_FINE, channels - APPEARANCE_FINE, hidden, len(state["layers.2.weight"]))
        appearance.load_state_dict(state)
        begin(appearance)
        model = with_appearance(model, appearance)
    if model.appearance is None:
        parser.error(f"{args.model} recognises nothing; give --metric")
    for _ in range(args.rounds):
        fit(model, watch(model, args.clips, args.dtype), dict(zip(RIGHT, args.lenience, strict=True)))
    export(model, args.out)
