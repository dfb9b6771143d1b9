"""Runs a training and reports: progress, curves for TensorBoard, validation, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam2_ros.training.data.videos import Video
from sam2_ros.training.finetune import ClipTraining, save_checkpoint
from sam2_ros.training.optimise import append_line
from sam2_ros.training.validate import validate


def open_board(folder: Path, step: int) -> Any:
    """A ``SummaryWriter`` into ``folder``, or None without the package ``tensorboard``.

    It hides events after ``step``, which an interrupted run left.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


class Reports:
    """Runs a training, validates it on ``videos``; reports to ``board`` (of :func:`open_board`) and a progress bar."""

    def __init__(self, training: ClipTraining, videos: list[Video], board: Any, progress: Any) -> None:
        self.training, self.options, self.videos = training, training.options, videos
        self.board, self.progress = board, progress
        self.out = Path(self.options.out)
        self.log = self.out / "log.jsonl"

    def run(self) -> None:
        self.training.run(self.log, self._on_step, self._on_log, self._on_save)

    def _on_step(self, losses: dict[str, float]) -> None:
        self.progress.update()
        self.progress.set_postfix({name: f"{losses[name]:.3f}" for name in losses if name != "norm"}, refresh=False)
        step, every = self.training.step, self.options.val_every or self.options.save_every
        if self.videos and (step % every == 0 or step == self.options.steps):
            self._validate()

    def _on_log(self, means: dict[str, float]) -> None:
        rate = max(group["lr"] for group in self.training.optimizer.param_groups)
        self._draw("optimizer", {"rate": rate, "gradient_norm": means["norm"]})
        self._draw("loss", {name: mean for name, mean in means.items() if name != "norm"})

    def _on_save(self) -> None:
        if self.training.world.first:
            save_checkpoint(self.training.average, self.out / "checkpoint.pt")

    def _validate(self) -> None:
        dtype = "bfloat16" if self.training.settings.bfloat16 else "float32"
        scores = validate(self.training.average, self.videos, self.options.val_prompt, dtype)
        if scores:
            rounded = {name: round(score, 4) for name, score in scores.items()}
            append_line(self.log, {"step": self.training.step, "J": rounded})
            self.progress.write(f"step {self.training.step}: J {scores['mean']:.3f} on {len(scores) - 1} videos")
            self._draw("J", scores)

    def _draw(self, prefix: str, values: Mapping[str, float]) -> None:
        """Adds a point to each curve ``prefix/name``."""
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"{prefix}/{name}", value, self.training.step)
            self.board.flush()
