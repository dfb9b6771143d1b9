"""Trains any model on clips of labelled videos and photographs, the image encoder included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam2_ros.model.checkpoint import load_model, read_checkpoint
from sam2_ros.model.config import ModelConfig, infer_config, official_config
from sam2_ros.model.download import CHECKPOINTS
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.model.weight_files import find_weights
from sam2_ros.training.clips import ClipSettings
from sam2_ros.training.data.draw import PROMPTS, ClipSource, Sample, open_data
from sam2_ros.training.distributed import World
from sam2_ros.training.interactive import InteractiveRollOut, keep, recompute
from sam2_ros.training.losses import frame_loss
from sam2_ros.training.optimise import LoopSettings, TrainingLoop, save_whole
from sam2_ros.training.options import FREE, TrainOptions, flag
from sam2_ros.training.parts import trainable_groups
from sam2_ros.training.simulated_user import draw_plan


def starting_model(options: TrainOptions, device: torch.device) -> Sam2Model:
    """The network before the training, with the model's weights or, for ``--init random``, with random ones.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a size that the model can't have.
    """
    if options.init == "weights":
        return load_model(options.model, device, options.size)
    official = options.model in CHECKPOINTS and not Path(options.model).is_file()  # then its sizes need no file
    config = official_config(options.model) if official else read_checkpoint(find_weights(options.model))[1]
    if options.size:
        config = replace(config, image_size=options.size)
    torch.manual_seed(options.seed)
    model = Sam2Model(config)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.trunc_normal_(parameter.data, std=0.02)
    return model.to(device).eval()


def open_source(options: TrainOptions, size: int, world: World) -> ClipSource:
    """The clips of this process.

    Raises:
        FileNotFoundError: missing data.
        ValueError: data of an unknown layout.
    """
    settings = ClipSettings(
        size, options.clip_length, options.objects, options.stride, options.camera, options.occlusion, options.pieces
    )
    sets = [open_data(Path(path).expanduser(), settings) for path in options.data]
    shares = options.shares or [1.0] * len(sets)
    return ClipSource(sets, shares, settings, options.seed, options.clips, world.rank)


def save_checkpoint(model: Sam2Model, path: Path) -> None:
    """Writes the weights for :func:`sam2_ros.model.load_model`, in the official layout.

    The configuration is added if it can't be inferred from the weights.
    """
    content: dict[str, Any] = {"model": {name: value.detach().cpu() for name, value in model.state_dict().items()}}
    try:
        inferred: ModelConfig | None = infer_config(content["model"])
    except ValueError:
        inferred = None
    if inferred != model.config:
        content["config"] = model.config.to_dict()
    save_whole(content, path)


class ClipTraining(TrainingLoop[Sample]):
    """Trains a network. Each clip's objects are one batch. The clips of a step run one after another, so that the
    memory does not grow with their number.

    Args:
        model: trained in place.
        options: of the training.
        source: of the clips.
        bfloat16: whether to compute in bfloat16.
        world: the processes that train together.

    Raises:
        ValueError: the folder holds a training with other options.
    """

    def __init__(
        self, model: Sam2Model, options: TrainOptions, source: ClipSource, bfloat16: bool, world: World
    ) -> None:
        self.options, self.source = options, source
        self.fingerprint = {name: value for name, value in options.to_dict().items() if name not in FREE}
        self.fingerprint |= {"world": world.size, "bfloat16": bfloat16}
        encoder_rate = 0.3 * options.lr if options.encoder_lr is None else options.encoder_lr
        groups = trainable_groups(
            model, options.freeze, options.lr, encoder_rate, options.layer_decay, options.weight_decay
        )
        self.roll_out = InteractiveRollOut(model, recompute if options.checkpointing else keep)
        settings = LoopSettings(
            options.steps, options.warmup_steps(), options.ema, options.gradient_norm, betas=(0.9, 0.999),
            bfloat16=bfloat16, save_every=options.save_every, log_every=options.log_every,
        )  # fmt: skip
        world.share(list(model.parameters()))
        super().__init__(model, groups, settings, Path(options.out), world, resume=options.resume != "never")

    def extra_state(self) -> dict[str, Any]:
        return {"options": self.fingerprint}

    def check_state(self, state: dict[str, Any]) -> None:
        before = state.get("options", {})
        for name, value in self.fingerprint.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{self.state_path} belongs to a training with {flag(name)} {before.get(name)}, now it is {value}; "
                    "resume with the same options, or use another --out, or --resume never to start again"
                )

    def batches(self, first: int) -> Iterator[Sequence[Sample]]:
        return self.source.batches(first, self.options.workers)

    def losses(self, part: Sample) -> dict[str, Tensor]:
        """Each loss of :func:`~.losses.frame_loss`, averaged over the answers of the decoder that have it."""
        model = self.model
        pixels = torch.from_numpy(part.frames).to(model.device).permute(0, 3, 1, 2).float() / 255
        images = (pixels - model.pixel_mean) / model.pixel_std
        targets = [torch.from_numpy(masks[:, None]).to(model.device).float() for masks in part.masks]
        rng = part.rng(PROMPTS)
        plan = draw_plan(self.options, part.visible, rng)
        frames = self.roll_out.encode(images, "encoder" in self.options.freeze)
        outputs = self.roll_out.run(frames, targets, plan, rng)
        found = [losses for t, output in outputs if (losses := frame_loss(output, targets[t]))]
        return {name: torch.stack([losses[name] for losses in found]).mean() for name in found[0]}
