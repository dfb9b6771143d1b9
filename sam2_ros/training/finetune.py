"""Training of any model on labelled videos and stills, with the image encoder in the loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam2_ros.model.checkpoint import find_weights, load_model, read_checkpoint
from sam2_ros.model.config import HIERA, ModelConfig, infer_config
from sam2_ros.model.download import CHECKPOINTS
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.training.clips import ClipSettings
from sam2_ros.training.data.draw import PROMPTS, ClipSource, Sample, open_data
from sam2_ros.training.distributed import World
from sam2_ros.training.interactive import InteractiveRollOut, keep, recompute
from sam2_ros.training.losses import LossWeights, frame_loss
from sam2_ros.training.optimise import LoopSettings, TrainingLoop, write_whole
from sam2_ros.training.options import FREE, TrainOptions, flag
from sam2_ros.training.parts import trainable_groups
from sam2_ros.training.simulated_user import draw_plan


def starting_model(options: TrainOptions, device: torch.device) -> Sam2Model:
    """The network that training starts from, with weights or, for ``--init random``, with drawn ones.

    Raises:
        FileNotFoundError, ValueError: no such model, or a size that it can't have.
    """
    if options.init == "weights":
        return load_model(options.model, device, options.size)
    config = _config_of(options.model)
    if options.size:
        config = replace(config, image_size=options.size)
    torch.manual_seed(options.seed)
    model = Sam2Model(config)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.trunc_normal_(parameter.data, std=0.02)
    return model.to(device).eval()


def _config_of(name: str) -> ModelConfig:
    """The sizes of a model; official ones need no file."""
    size, _, version = name.partition("-")
    if name in CHECKPOINTS and not Path(name).is_file():
        new = version != "2.0"
        prefix = "sam2.1_hiera_" if new else "sam2_hiera_"
        return ModelConfig(prefix + size, hiera=HIERA[size], occlusion_embedding=new, pointer_time_code=new)
    return read_checkpoint(find_weights(name))[1]


def open_source(options: TrainOptions, size: int, world: World) -> ClipSource:
    """The clips of this process.

    Raises:
        FileNotFoundError, ValueError: data that is not there, or not known.
    """
    settings = ClipSettings(
        size=size,
        length=options.clip_length,
        objects=options.objects,
        stride=options.stride,
        camera=options.camera,
        occlusion=options.occlusion,
        pieces=options.pieces,
    )
    sets = [open_data(Path(path).expanduser(), settings) for path in options.data]
    shares = options.shares or [1.0] * len(sets)
    return ClipSource(sets, shares, settings, options.seed, options.clips, world.rank)


def save_checkpoint(model: Sam2Model, path: Path) -> None:
    """Weights as :func:`sam2_ros.model.load_model` reads them: the official layout, and where that alone would not say
    what the network is, its configuration beside them."""
    content: dict[str, Any] = {"model": {name: value.detach().cpu() for name, value in model.state_dict().items()}}
    try:
        known = infer_config(content["model"]) == model.config
    except ValueError:
        known = False
    if not known:
        content["config"] = model.config.to_dict()
    write_whole(content, path)


class ClipTraining(TrainingLoop[Sample]):
    """Trains a network as ``options`` say. Each clip's objects are a batch of their own; clips follow one another, so
    memory does not grow with their number.

    Args:
        model: trained in place.
        options: of the training.
        source: where clips come from.
        world: the processes that train together.

    Raises:
        ValueError: the folder holds a training with other options.
    """

    def __init__(
        self, model: Sam2Model, options: TrainOptions, source: ClipSource, bfloat16: bool, world: World
    ) -> None:
        self.options, self.source, self.recipe = options, source, options.recipe()
        self.loss_weights = LossWeights()
        self.fingerprint = {
            name: value for name, value in options.to_dict().items() if name not in FREE
        } | {"world": world.size, "bfloat16": bfloat16}  # fmt: skip
        encoder_rate = 0.3 * options.lr if options.encoder_lr is None else options.encoder_lr
        groups = trainable_groups(
            model, options.freeze, options.lr, encoder_rate, options.layer_decay, options.weight_decay
        )
        self.roll_out = InteractiveRollOut(model, self.recipe.anywhere, recompute if options.checkpointing else keep)
        settings = LoopSettings(
            options.steps,
            warmup=options.warmup_steps(),
            average=options.ema,
            gradient_norm=options.gradient_norm,
            betas=(0.9, 0.999),
            bfloat16=bfloat16,
            save_every=options.save_every,
            log_every=options.log_every,
        )
        world.share(list(model.parameters()))
        super().__init__(model, groups, settings, Path(options.out), world, resume=options.resume != "never")

    def extra_state(self) -> dict[str, Any]:
        return {"options": self.fingerprint}

    def check_state(self, state: dict[str, Any]) -> None:
        before = state.get("options", {})
        for name, value in self.fingerprint.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{self.state_path} is of a training with {flag(name)} {before.get(name)}, now it is {value}; "
                    "go on with the same options, or use another --out, or --resume never to begin anew"
                )

    def batches(self, first: int) -> Iterator[Sequence[Sample]]:
        return self.source.batches(first, self.options.workers)

    def losses(self, part: Sample) -> dict[str, Tensor]:
        """Each loss, averaged over the answers of the decoder that have it; see :func:`~.losses.frame_loss`."""
        model = self.model
        pixels = torch.from_numpy(part.frames).to(model.device).permute(0, 3, 1, 2).float() / 255
        images = (pixels - model.pixel_mean) / model.pixel_std
        targets = [torch.from_numpy(masks[:, None]).to(model.device).float() for masks in part.masks]
        rng = part.rng(PROMPTS)
        plan = draw_plan(self.recipe, part.visible, rng)
        frames = self.roll_out.encode(images, "encoder" in self.options.freeze)
        found = [
            frame_loss(output, targets[t], self.loss_weights)
            for t, output in self.roll_out.run(frames, targets, plan, rng)
        ]
        found = [losses for losses in found if losses]
        return {name: torch.stack([losses[name] for losses in found]).mean() for name in found[0]}
