"""What a training says while it runs: progress, curves, validation, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sam2_ros.training.board import Board
from sam2_ros.training.data.videos import Video
from sam2_ros.training.finetune import ClipTraining, save_checkpoint
from sam2_ros.training.optimise import append_line
from sam2_ros.training.options import TrainOptions
from sam2_ros.training.validate import validate


class Reports:
    """Runs a training and says how it goes: progress, curves, validation, checkpoints."""

    def __init__(
        self, training: ClipTraining, options: TrainOptions, videos: list[Video], board: Board | None, progress: Any
    ) -> None:
        self.training, self.options, self.videos = training, options, videos
        self.board, self.progress = board, progress

    def run(self, log: Path) -> None:
        self.log = log
        self.training.run(log, self._step, self._logged, self._saved)

    def _step(self, lost: dict[str, float]) -> None:
        self.progress.update()
        shown = {name: value for name, value in lost.items() if name != "norm"}
        self.progress.set_postfix({name: f"{value:.3f}" for name, value in shown.items()}, refresh=False)
        step, every = self.training.step, self.options.val_every or self.options.save_every
        if self.videos and (step % every == 0 or step == self.options.steps):
            self._validate()

    def _logged(self, means: dict[str, float]) -> None:
        if self.board is not None:
            step = self.training.step
            self.board.add("loss", {name: value for name, value in means.items() if name != "norm"}, step)
            rates = sorted({group["lr"] for group in self.training.optimizer.param_groups})
            self.board.add("optimizer", {"rate": rates[-1], "gradient_norm": means["norm"]}, step)

    def _saved(self) -> None:
        if self.training.world.first:
            save_checkpoint(self.training.average, Path(self.options.out) / "checkpoint.pt")

    def _validate(self) -> None:
        dtype = "bfloat16" if self.training.settings.bfloat16 else "float32"
        scores = validate(self.training.average, self.videos, self.options.val_prompt, dtype)
        if not scores:
            return
        rounded = {name: round(score, 4) for name, score in scores.items()}
        append_line(self.log, {"step": self.training.step, "J": rounded})
        self.progress.write(f"step {self.training.step}: J {scores['mean']:.3f} on {len(scores) - 1} videos")
        if self.board is not None:
            self.board.add("J", scores, self.training.step)
