"""The official video predictor (PyPI ``sam2``) and our tracker, driven side by side through the same stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sam2.build_sam import build_sam2_video_predictor
from sam2_reference import SCORE_BIAS, SIZES, changed, difference, draw_weights, without_initialisation
from torch import Tensor

from sam2_ros.bench.official import stream_state
from sam2_ros.media.rendered_scene import render
from sam2_ros.model import Sam2Model, infer_config
from sam2_ros.tracking import Prompt, PromptRequest, Tracker, TrackerConfig

TOLERANCE = 1e-3  # times max(1, max |reference|); 1e-4 for one pass of the network, and a stream repeats it
# A stream feeds its output back. At a greater gain of the linear maps it is chaotic: the memory is rounded to bfloat16,
# and one value that falls to the other side grows past any tolerance in a few frames (in float32 they agree there too).
GAIN = 1.0
AGE_GAIN = 6.0  # of the pointers' time code, which would hardly be noticed otherwise
SCORE_SHIFT = 1.5  # the drawn weights alone give negative object scores

Rgb = NDArray[np.uint8]


@dataclass(frozen=True)
class Event:
    """A prompt for object ``object_id`` on ``frame``; the first one of an object adds it."""

    frame: int
    object_id: int
    prompt: Prompt


@dataclass(frozen=True)
class Output:
    """One object in one frame."""

    logits: Tensor  # [1, h, w] low resolution
    score: float
    iou: float
    mask: NDArray[Any]  # [H, W]: ours bool, the reference's logits


@dataclass(frozen=True)
class Pair:
    """Both networks with equal weights."""

    reference: Any
    ours: Sam2Model

    def score_bias(self, shift: float) -> Any:
        """Context in which every object score is ``shift`` higher in both."""
        bias = self.ours.state_dict()[SCORE_BIAS]
        return changed((self.ours, self.reference), {SCORE_BIAS: bias + shift})


def build_pair(size: str, version: str, image_size: int, seed: int = 0) -> Pair:
    """The official video predictor with drawn weights, and our network with the same."""
    folder = "sam2.1/sam2.1" if version == "2.1" else "sam2/sam2"
    grid = image_size // 16
    overrides = [f"++model.image_size={image_size}"]
    overrides += [
        f"++model.memory_attention.layer.{kind}_attention.feat_sizes=[{grid},{grid}]" for kind in ("self", "cross")
    ]
    with without_initialisation():
        reference = build_sam2_video_predictor(
            f"configs/{folder}_hiera_{SIZES[size]}.yaml",
            None,
            device="cpu",
            apply_postprocessing=False,
            hydra_overrides_extra=overrides,
        )
        draw_weights(reference, seed, GAIN)
        state = reference.state_dict()
        state[SCORE_BIAS] += SCORE_SHIFT  # in place, so that both networks get it
        if version == "2.1":
            state["obj_ptr_tpos_proj.weight"] *= AGE_GAIN
        ours = Sam2Model(replace(infer_config(state), image_size=image_size)).eval().requires_grad_(False)
    ours.load_state_dict(state)
    # The encoder is the slow part and the same in every test: each network remembers the images it has encoded.
    reference.forward_image = _remembering(reference.forward_image)
    ours.encode_image = _remembering(ours.encode_image)  # type: ignore[method-assign,assignment]
    return Pair(reference, ours)


def _remembering(encode: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    known: dict[bytes, Any] = {}

    def encoded(image: Tensor) -> Any:
        key = image.numpy().tobytes()
        if key not in known:
            known[key] = encode(image)
        return known[key]

    return encoded


@contextmanager
def postprocessing(reference: Any, on: bool, hole_area: int = 8) -> Iterator[None]:
    """Switches what ``apply_postprocessing`` of the official builder switches; its missing extension is supplied."""
    decoder = reference.sam_mask_decoder
    with (
        mock.patch.object(reference, "fill_hole_area", hole_area if on else 0),
        mock.patch.object(reference, "binarize_mask_from_pts_for_mem_enc", on),
        mock.patch.object(decoder, "dynamic_multimask_via_stability", on),
        mock.patch.object(decoder, "dynamic_multimask_stability_delta", 0.05),
        mock.patch.object(decoder, "dynamic_multimask_stability_thresh", 0.98),
        mock.patch("sam2.utils.misc.get_connected_components", _connected_components),
        mock.patch("sam2.sam2_video_predictor.tqdm", lambda frames, **_: frames),
    ):
        yield


def _connected_components(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and areas of 8-connected components of ``[B, 1, H, W]``, as the reference's CUDA extension gives them."""
    labels, areas = torch.zeros_like(masks, dtype=torch.int32), torch.zeros_like(masks, dtype=torch.int32)
    for index, mask in enumerate(masks[:, 0]):
        _, found, stats, _ = cv2.connectedComponentsWithStats(mask.numpy().astype(np.uint8), connectivity=8)
        area = stats[:, cv2.CC_STAT_AREA][found]
        labels[index, 0] = torch.from_numpy(found)
        areas[index, 0] = torch.from_numpy(np.where(found > 0, area, 0))
    return labels, areas


class ReferenceVideo:
    """The official predictor, frame by frame, on frames that were resized and normalised already.

    ``num_frames`` is what it takes for the length of the clip.
    """

    def __init__(self, predictor: Any, images: Tensor, height: int, width: int, num_frames: int | None = None) -> None:
        self.predictor = predictor
        self.outputs: dict[tuple[int, int], Output] = {}
        count = len(images) if num_frames is None else num_frames
        self.state = stream_state(images, count, height, width, torch.device("cpu"))
        self._ious: list[float] = []

    def prompt(self, event: Event) -> None:
        """Applies a prompt. A correction on a tracked frame is kept only if propagation goes on behind that frame."""
        prompt = event.prompt
        place = (self.state, event.frame, event.object_id)
        with self._recorded_ious():
            if prompt.mask is not None:
                _, ids, masks = self.predictor.add_new_mask(*place, prompt.mask)
            else:
                _, ids, masks = self.predictor.add_new_points_or_box(
                    *place,
                    points=prompt.points,
                    labels=prompt.labels,
                    box=prompt.box,
                    clear_old_points=prompt.box is not None or prompt.replace,
                )
        self._take(event.frame, [event.object_id], masks[ids.index(event.object_id), None], "temp_output_dict_per_obj")

    def track(self, frame: int) -> None:
        """Propagates to ``frame`` from the one before."""
        with self._recorded_ious():
            ((_, ids, masks),) = self.predictor.propagate_in_video(self.state, frame, 0)
        self._take(frame, ids, masks, "output_dict_per_obj")

    def _take(self, frame: int, ids: Sequence[int], masks: Tensor, stage: str) -> None:
        for object_id, mask, iou in zip(ids, masks, self._ious, strict=True):
            kept = self.state[stage][self.state["obj_id_to_idx"][object_id]]
            one = kept["cond_frame_outputs"].get(frame) or kept["non_cond_frame_outputs"][frame]
            self.outputs[frame, object_id] = Output(
                one["pred_masks"][0], one["object_score_logits"].item(), iou, mask[0].numpy()
            )

    @contextmanager
    def _recorded_ious(self) -> Iterator[None]:
        """Notes the predicted IoU of every mask that is chosen; the predictor itself does not hand it out."""
        self._ious = []
        track_step = self.predictor._track_step

        def recording(*args: Any, **kwargs: Any) -> Any:
            out = track_step(*args, **kwargs)
            self._ious.append(out[1][2].max().item())
            return out

        with mock.patch.object(self.predictor, "_track_step", recording):
            yield


Stream = dict[tuple[int, int, int], Output]  # by frame, object and how many prompts it had on that frame


def run_reference(
    pair: Pair,
    frames: Sequence[Rgb],
    events: Sequence[Event],
    post: bool,
    shifts: Mapping[int, float] | None = None,
    num_frames: int | None = None,
    hole_area: int = 8,
) -> Stream:
    """What the official predictor makes of a stream; ``shifts`` are added to the object score on some frames."""
    images = torch.cat([pair.ours.preprocess(torch.from_numpy(frame)) for frame in frames])
    height, width = frames[0].shape[:2]
    video = ReferenceVideo(pair.reference, images, height, width, num_frames)
    stream: Stream = {}
    with postprocessing(pair.reference, post, hole_area):
        for frame in range(len(frames)):
            with pair.score_bias((shifts or {}).get(frame, 0.0)):
                if video.state["obj_ids"]:
                    video.track(frame)
                    stream.update({(frame, i, 0): video.outputs[frame, i] for i in video.state["obj_ids"]})
                for event in (event for event in events if event.frame == frame):
                    video.prompt(event)
                    _note(stream, frame, event.object_id, video.outputs[frame, event.object_id])
    return stream


def run_tracker(
    pair: Pair,
    frames: Sequence[Rgb],
    events: Sequence[Event],
    config: TrackerConfig,
    shifts: Mapping[int, float] | None = None,
    change: Callable[[Tracker], None] | None = None,
) -> Stream:
    """What our tracker makes of it; ``change`` may spoil the tracker first."""
    tracker = Tracker(pair.ours, config)
    if change is not None:
        change(tracker)
    stream: Stream = {}

    def output(object_id: int) -> Output:
        one = tracker._objects[object_id]
        assert one.logits is not None and one.mask is not None
        return Output(one.logits, one.object_score, one.predicted_iou, one.mask.full())

    for frame, rgb in enumerate(frames):
        with pair.score_bias((shifts or {}).get(frame, 0.0)):
            result = tracker.step(rgb, frame)
            stream.update({(frame, one.object_id, 0): output(one.object_id) for one in result.objects})
            for event in (event for event in events if event.frame == frame):
                known = event.object_id in tracker._objects
                (answer,) = tracker.add([PromptRequest(event.prompt, event.object_id if known else None)])
                assert answer.success and answer.object_id == event.object_id, answer.message
                _note(stream, frame, event.object_id, output(event.object_id))
    return stream


def _note(stream: Stream, frame: int, object_id: int, output: Output) -> None:
    count = 1
    while (frame, object_id, count) in stream:
        count += 1
    stream[frame, object_id, count] = output


def config_for(post: bool, **changes: Any) -> TrackerConfig:
    """Our settings that mean what the reference does, with its post-processing or without."""
    settings = {
        "max_objects": 4,
        "hole_area": 8 if post else 0,
        "stability_fallback": post,
        "binarize_prompted_memory": post,
        "reference_policy": True,
        "reject_strays": False,
        "explosion_factor": 0.0,  # drawn weights leave the prompt's mask at once, and believe it
    }
    return TrackerConfig(**{**settings, **changes})


def worst_difference(ours: Stream, reference: Stream) -> float:
    """Greatest :func:`difference` of logits, scores and predicted IoUs; infinite where a mask is another one."""
    assert ours.keys() == reference.keys()
    worst = 0.0
    for key, expected in reference.items():
        got = ours[key]
        worst = max(worst, difference(got.logits, expected.logits))
        for a, b in ((got.score, expected.score), (got.iou, expected.iou)):
            worst = max(worst, difference(torch.tensor(a), torch.tensor(b)))
        # A pixel whose logit is as good as zero may fall on either side.
        sure = np.abs(expected.mask) > TOLERANCE * max(1.0, float(np.abs(expected.mask).max()))
        if not np.array_equal(got.mask[sure], (expected.mask > 0)[sure]):
            return float("inf")
    return worst


def back_and_forth(count: int, distinct: int = 8, width: int = 160, height: int = 120) -> list[Rgb]:
    """``count`` frames of the rendered scene, which runs to its end and back, so that few images must be encoded."""
    images = [frame.rgb for frame in render(distinct, width, height)]
    period = 2 * (distinct - 1)
    return [images[min(index % period, period - index % period)] for index in range(count)]


def clicks(*points: tuple[float, float, int]) -> Prompt:
    """Points x, y with their labels."""
    return Prompt(
        points=np.array([point[:2] for point in points], np.float32),
        labels=np.array([point[2] for point in points], np.int32),
    )


def rectangle(x0: int, y0: int, x1: int, y1: int, width: int = 160, height: int = 120) -> Prompt:
    """A rectangular mask."""
    mask = np.zeros((height, width), np.bool_)
    mask[y0:y1, x0:x1] = True
    return Prompt(mask=mask)


# Object 1 from a box, object 2 at frame 3 from a click; both disappear through their scores and come back.
EVENTS = (
    Event(0, 1, Prompt(box=np.array([15, 60, 40, 100], np.float32))),
    Event(3, 2, clicks((75, 30, 1))),
)
SHIFTS = dict.fromkeys(range(9, 11), -3.0)


def points_of(prompt: Prompt, side: int, width: int, height: int) -> tuple[Tensor, Tensor]:
    """A box or clicks as points ``[N, 2]`` in pixels of the square input, and their int32 labels ``[N]``."""
    if prompt.box is not None:
        points, labels = prompt.box.reshape(2, 2), np.array([2, 3])
    else:
        assert prompt.points is not None and prompt.labels is not None
        points, labels = prompt.points, prompt.labels
    scaled = torch.from_numpy(points) / torch.tensor([width, height]) * side
    return scaled, torch.from_numpy(labels.astype(np.int32))


def assert_tracks_as(ours: Stream, expected: Mapping[tuple[int, int], Tensor]) -> None:
    """Ours agrees with low-resolution logits by frame and object, in which the objects of :data:`EVENTS` disappear by
    :data:`SHIFTS` and are neither tiny nor everywhere."""
    got = {(frame, object_id): output.logits for (frame, object_id, _), output in ours.items()}
    assert got.keys() == expected.keys()
    absent = [key for key, logits in expected.items() if (logits == -1024).all()]
    assert len(absent) == len(SHIFTS) * len(EVENTS)
    shown = [float((logits > 0).float().mean()) for key, logits in expected.items() if key not in absent]
    assert 0.05 < np.median(shown) < 0.95, shown
    differences = {key: difference(got[key], logits) for key, logits in expected.items()}
    assert max(differences.values()) <= TOLERANCE, differences
