"""Recognition by appearance: whether a mask shows the prompted object, and where in the image the object may be.

SAM 2 has nothing like it. Its memory attention carries appearance and position in the same few channels, so that in a
small network a mask can drift onto other things. Here, a metric compares every cell of the image with the cells of the
prompted frames, on the object and beside it (soft nearest neighbours: Goldberger et al., "Neighbourhood Components
Analysis", 2004). Tracked masks never enter the reference, so that a wrong mask cannot spoil it. Only models with
``ModelConfig.appearance_dim`` have it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model.dispatch import linear
from sam2_ros.model.network import BESIDE, BINS, EVIDENCE, MATCH_LIMIT, PLAIN_LEAST, Match, Reference

SCORE_LIMIT = 8.0  # and object scores
NO_AREA = 1e-4  # share of the frame that is added before the logarithm of an area
CHROMA_LIMIT = 0.4  # chroma is clamped to ± this; at most 1
BEST, OTHERS = 5, 3  # cells whose mean is the best match anywhere, and outside the mask
COVERED, COVERED_OF_MOST = 0.6, 0.7  # least coverage of an object's cell, and as a share of its fullest cell
TOUCHED = 0.2  # coverage from which a cell lies within a mask


class Appearance(nn.Module):
    """The metric, and linear classifiers that judge masks by it; ``fine`` and ``coarse`` are the encoder's channels."""

    mean: Tensor
    spread: Tensor

    def __init__(self, fine: int, coarse: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(coarse + fine))  # of each channel; its standard deviation is `spread`
        self.register_buffer("spread", torch.ones(coarse + fine))
        self.layers = nn.Sequential(nn.Linear(coarse + fine, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.sharpness = nn.Parameter(torch.tensor(12.0))  # of a match, per unit of cosine
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.offset = nn.Parameter(torch.tensor(0.0))
        self.tracked = nn.Linear(len(EVIDENCE), 1)  # for a mask from the memory
        self.found = nn.Linear(len(EVIDENCE), 1)  # for a mask from a search of the image

    def embed(self, stride_8: Tensor, stride_16: Tensor) -> Tensor:
        """Unit vectors ``float32 [B, hw, dim]`` of the cells of stride 16, from the encoder's maps."""
        with torch.autocast(stride_16.device.type, enabled=False):
            fine = F.avg_pool2d(stride_8.float(), 2)
            cells = torch.cat((stride_16.float(), fine), dim=1).flatten(2).transpose(1, 2)
            return F.normalize(self.layers((cells - self.mean) / self.spread), dim=-1)

    def match(self, tokens: Tensor, reference: Reference) -> Match:
        """Compares the cells of one image (``[1, hw, D]``, or ``[B, hw, D]``) with the reference of ``B`` objects."""
        coverage, known = reference.coverage, reference.tokens.float()
        own = coverage > (COVERED_OF_MOST * coverage.amax(dim=1, keepdim=True)).clamp(BESIDE, COVERED)
        beside = (coverage >= 0) & (coverage < BESIDE)
        kinds = torch.stack((own, beside), dim=2).float()  # [B, M, 2]
        near = self._near(tokens, known, kinds)
        logs = near.clamp(min=1e-30).log() - 0.5 * kinds.sum(dim=1, keepdim=True).clamp(min=1).log()
        side = math.isqrt(int(tokens.shape[1]))  # also where it is traced
        logits = (self.gain * (logs[..., 0] - logs[..., 1]) + self.offset).unflatten(1, (side, side))
        prototype = F.normalize((known * coverage.clamp(min=0)[..., None]).sum(dim=1), dim=-1)
        return Match(logits.clamp(-MATCH_LIMIT, MATCH_LIMIT), tokens, prototype, reference.colors)

    def _near(self, tokens: Tensor, known: Tensor, kinds: Tensor) -> Tensor:
        """Similarity of each cell to all reference cells of each of two kinds, ``[B, hw, 2]``."""

        def alike(cosines: Tensor) -> Tensor:
            # A cosine is at most 1, so that the exponential cannot overflow.
            if torch.is_grad_enabled():
                return torch.exp(self.sharpness * (cosines - 1))
            return cosines.sub_(1).mul_(self.sharpness).exp_()

        if torch.is_grad_enabled() or known.device.type != "cpu":
            return alike(tokens @ known.transpose(1, 2)) @ kinds
        # One object at a time: all at once would take more memory than anything else in a frame.
        rows = zip(tokens.expand(len(known), -1, -1), known, kinds.transpose(1, 2), strict=True)
        return torch.stack([linear(alike(linear(cells, others, None)), kind, None) for cells, others, kind in rows])

    def evidence(self, match: Match, picture: Tensor, logits: Tensor, scores: Tensor, ious: Tensor) -> Tensor:
        """The evidence for ``B`` masks, ``[B, len(EVIDENCE)]``.

        ``picture`` is the image in the size of the masks (``[1, 3, H, W]`` RGB, 0 to 1). The other arguments belong to
        the masks: ``logits`` ``[B, H, W]``; ``scores`` (logits) and predicted ``ious`` ``[B]`` of the decoder.
        """
        mask = (logits > 0).float().flatten(1)
        cells = match.logits.flatten(1)  # [B, hw]
        cover = coverage_of(logits, int(match.logits.shape[1]))
        within = cover / cover.sum(dim=1, keepdim=True).clamp(min=1e-6)
        around = F.max_pool2d(cover.unflatten(1, match.logits.shape[1:])[:, None], 3, 1, 1).flatten(1) > 0
        pooled = F.normalize((match.tokens * cover[..., None]).sum(dim=1), dim=-1)
        likely = torch.sigmoid(cells)
        empty = mask.amax(dim=1) == 0
        found = (
            scores.clamp(-SCORE_LIMIT, SCORE_LIMIT),
            ious,
            (mask.mean(dim=1) + NO_AREA).log(),
            (torch.sigmoid(logits).flatten(1) * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1),
            cells.topk(BEST, dim=1).values.mean(dim=1),
            torch.where(empty, -1.0, (pooled * match.prototype).sum(dim=1)),
            torch.where(empty, -MATCH_LIMIT, (within * cells).sum(dim=1)),
            (within * (cells > 0)).sum(dim=1),
            (likely * (cover > TOUCHED)).sum(dim=1) / likely.sum(dim=1).clamp(min=1e-3),
            cells.masked_fill(around, -MATCH_LIMIT).topk(OTHERS, dim=1).values.mean(dim=1),
            *agreement(color_shares(picture, logits), match.colors).unbind(dim=1),
        )
        return torch.stack(found, dim=1).float()


class PlainAppearance(Appearance):
    """The metric of models that have none: the encoder's map of stride 16, less its mean over the image. Nothing is
    trained. It finds things, and does not judge tracked masks."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        # Numbers, not tensors: this object lives as long as the process, on any device.
        self.sharpness, self.gain, self.offset = 12.0, 2.0, 0.0  # type: ignore[assignment]

    def embed(self, stride_8: Tensor, stride_16: Tensor) -> Tensor:
        cells = stride_16.float().flatten(2).transpose(1, 2)
        return F.normalize(cells - cells.mean(dim=1, keepdim=True), dim=-1)

    def found(self, evidence: Tensor) -> Tensor:  # type: ignore[override]
        """Above 0: prototype and chroma together are as good as :data:`PLAIN_LEAST` asks for."""
        wanted = [EVIDENCE.index(name) for name in ("prototype", "chroma")]
        least = PLAIN_LEAST["prototype"] + PLAIN_LEAST["chroma"]
        return evidence[..., wanted].sum(dim=-1, keepdim=True) - least


PLAIN = PlainAppearance()


def coverage_of(logits: Tensor, side: int) -> Tensor:
    """The share of each of ``side`` × ``side`` cells that the masks ``[B, H, W]`` cover, ``[B, side²]``."""
    return F.adaptive_avg_pool2d((logits > 0).float()[:, None], side).flatten(1)


def color_shares(picture: Tensor, logits: Tensor) -> Tensor:
    """Colour histograms of the masks' pixels, ``[B, BINS² + BINS]``: chroma, then brightness.

    Chroma is red minus green, and their mean minus blue. Each histogram sums to 1, or to 0 for an empty mask; two
    neighbouring bins share a pixel. ``picture`` is ``[1, 3, H, W]`` (RGB, 0 to 1), ``logits`` ``[B, H, W]``.
    """
    red, green, blue = picture[0].float().flatten(1)
    warm, cold = _bins((red - green) / CHROMA_LIMIT), _bins((0.5 * (red + green) - blue) / CHROMA_LIMIT)
    mask = (logits > 0).float().flatten(1)  # [B, N]
    mask = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
    chroma = (mask[:, :, None] * warm).transpose(1, 2) @ cold
    return torch.cat((chroma.flatten(1), mask @ _bins(2 * (red + green + blue) / 3 - 1)), dim=1)


def _bins(values: Tensor) -> Tensor:
    """Values ``[N]`` from -1 to 1 → their shares of ``BINS`` bins, ``[N, BINS]``."""
    place = (values.clamp(-1, 1) + 1) * ((BINS - 1) / 2)
    return F.relu(1 - (place[:, None] - torch.arange(BINS, device=values.device)).abs())


def agreement(now: Tensor, known: Tensor) -> Tensor:
    """Bhattacharyya coefficients ``[B, 2]`` of chroma and brightness, with the best of the ``known`` ``[B, S, …]``."""
    both = (now[:, None] * known).clamp(min=0).sqrt()
    return torch.stack([part.sum(dim=2).amax(dim=1) for part in both.split((BINS**2, BINS), dim=2)], dim=1)
