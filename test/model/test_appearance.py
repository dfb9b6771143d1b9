"""Recognition by appearance: what matches, and what speaks for a mask."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sam2_ros.model.appearance import Appearance, agreement, color_shares, coverage_of
from sam2_ros.model.config import ModelConfig
from sam2_ros.model.network import BINS, EVIDENCE, MATCH_LIMIT, Reference
from sam2_ros.tracking.recognition import box_around

SIDE, DIM = 8, 16
PICTURE = torch.full((1, 3, 4 * SIDE, 4 * SIDE), 0.5)


@pytest.fixture
def appearance() -> Appearance:
    torch.manual_seed(0)
    return Appearance(4, 6, 12, DIM).eval().requires_grad_(False)


def tokens(shown: Tensor, generator: torch.Generator) -> Tensor:
    """``[1, hw, D]``: cells where ``shown`` (``[h, w]`` bool) point one way, the others another one."""
    kinds = F.one_hot(shown.flatten().long(), DIM).float()
    return F.normalize(kinds + 0.1 * torch.randn(kinds.shape, generator=generator), dim=1)[None]


def square(top: int, left: int, size: int = 3) -> Tensor:
    shown = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    shown[top : top + size, left : left + size] = True
    return shown


def mask_logits(shown: Tensor) -> Tensor:
    """``[1, 4h, 4w]``, 5 within and -5 outside."""
    return 10 * F.interpolate(shown[None, None].float(), scale_factor=4)[0] - 5


def reference_of(cells: Tensor, coverage: Tensor) -> Reference:
    return Reference(cells, coverage, torch.zeros(len(cells), 1, BINS**2 + BINS))


def named(evidence: Tensor) -> dict[str, float]:
    return dict(zip(EVIDENCE, evidence[0].tolist(), strict=True))


def test_cells_like_the_object_match_wherever_they_are(appearance: Appearance) -> None:
    generator = torch.Generator().manual_seed(1)
    before, now = square(0, 0), square(4, 5)
    reference = reference_of(tokens(before, generator), before.flatten()[None].float())
    match = appearance.match(tokens(now, generator), reference)
    assert torch.equal(match.logits[0] > 0, now)
    assert match.prototype.norm(dim=1) == pytest.approx(1, abs=1e-5)


def test_slots_without_a_prompted_frame_change_nothing(appearance: Appearance) -> None:
    generator = torch.Generator().manual_seed(2)
    before, image = square(1, 1), tokens(square(2, 4), generator)
    cells, coverage = tokens(before, generator), before.flatten()[None].float()
    alone = appearance.match(image, reference_of(cells, coverage))
    rest = torch.cat((cells, torch.randn(cells.shape, generator=generator)), dim=1)
    padded = appearance.match(image, reference_of(rest, torch.cat((coverage, torch.full_like(coverage, -1)), dim=1)))
    torch.testing.assert_close(padded.logits, alone.logits)
    torch.testing.assert_close(padded.prototype, alone.prototype)


def test_an_object_of_which_no_cell_is_known_is_said_to_be_unknown() -> None:
    coverage = torch.zeros(2, SIDE**2)
    coverage[0, 3] = 0.5
    assert reference_of(torch.zeros(2, SIDE**2, DIM), coverage).known.tolist() == [True, False]


def test_evidence_speaks_for_the_right_mask_and_against_others(appearance: Appearance) -> None:
    generator = torch.Generator().manual_seed(3)
    now, elsewhere = square(4, 5), square(0, 0)
    reference = reference_of(tokens(square(1, 1), generator), square(1, 1).flatten()[None].float())
    match = appearance.match(tokens(now, generator), reference)
    one = torch.ones(1)
    right = named(appearance.evidence(match, PICTURE, mask_logits(now), one, one))
    wrong = named(appearance.evidence(match, PICTURE, mask_logits(elsewhere), one, one))
    nothing = named(appearance.evidence(match, PICTURE, torch.full((1, 4 * SIDE, 4 * SIDE), -5.0), one, one))
    assert right["match within"] > 0 > wrong["match within"]
    assert right["matched share"] == pytest.approx(1) and wrong["matched share"] == 0
    assert right["share of matches"] > 0.9 and wrong["share of matches"] < 0.1
    assert right["prototype"] > 0.9 > 0.5 > wrong["prototype"]
    assert wrong["best match outside"] > 0 > right["best match outside"]
    assert nothing["match within"] == -MATCH_LIMIT and nothing["prototype"] == -1
    assert right["log area"] == pytest.approx(np.log(9 / SIDE**2 + 1e-4), abs=1e-4)


def test_objects_of_a_batch_are_judged_as_alone(appearance: Appearance) -> None:
    generator = torch.Generator().manual_seed(4)
    image = tokens(square(2, 2), generator)
    shapes = [square(0, 0), square(3, 3), square(5, 1)]
    references = [reference_of(tokens(shape, generator), shape.flatten()[None].float()) for shape in shapes]
    together = reference_of(torch.cat([r.tokens for r in references]), torch.cat([r.coverage for r in references]))
    logits = torch.cat([mask_logits(shape) for shape in shapes])
    scores, ious = torch.tensor([1.0, -2.0, 30.0]), torch.tensor([0.9, 0.2, 0.5])
    found = appearance.evidence(appearance.match(image, together), PICTURE, logits, scores, ious)
    for index, reference in enumerate(references):
        part = slice(index, index + 1)
        alone = appearance.evidence(appearance.match(image, reference), PICTURE, logits[part], scores[part], ious[part])
        torch.testing.assert_close(found[part], alone)


def test_colours_agree_with_themselves_and_in_other_light_more_than_with_other_ones() -> None:
    def shares(*color: float) -> Tensor:
        picture = torch.tensor(color).view(1, 3, 1, 1).expand(1, 3, 16, 16)
        return color_shares(picture, torch.ones(1, 16, 16))

    blue, darker, red = shares(0.2, 0.3, 0.8), shares(0.17, 0.25, 0.68), shares(0.8, 0.3, 0.2)
    assert blue[:, : BINS**2].sum() == pytest.approx(1, abs=1e-4) and blue[:, BINS**2 :].sum() == pytest.approx(
        1, abs=1e-4
    )
    assert agreement(blue, blue[:, None])[0].tolist() == pytest.approx([1, 1], abs=1e-3)
    assert agreement(darker, blue[:, None])[0, 0] > 0.5 > 0.1 > agreement(red, blue[:, None])[0, 0]
    # The frame that agrees best counts; one without an object agrees with nothing.
    known = torch.stack((red, torch.zeros_like(red), blue), dim=1)
    assert agreement(blue, known)[0].tolist() == pytest.approx([1, 1], abs=1e-3)
    assert color_shares(PICTURE, torch.full((1, 32, 32), -1.0)).sum() == 0


def test_coverage_is_the_share_of_a_cell() -> None:
    logits = torch.full((1, 16, 16), -1.0)
    logits[0, :2, :4] = 1  # the upper half of the first cell
    coverage = coverage_of(logits, 4)
    assert coverage[0, 0] == 0.5 and float(coverage.sum()) == 0.5


def test_box_holds_the_cells_that_match_and_no_other_group() -> None:
    logits = np.full((SIDE, SIDE), -6, np.float32)
    logits[2:5, 3:7] = 4
    logits[0, 0] = 3  # elsewhere, and alone
    assert box_around(logits).tolist() == [[3, 2], [7, 5]]
    alone = np.full((SIDE, SIDE), -6, np.float32)
    alone[7, 7] = 1
    assert box_around(alone).tolist() == [[7, 7], [8, 8]]


def test_configuration_refuses_a_metric_for_another_encoder() -> None:
    with pytest.raises(ValueError, match="appearance_dim is 64; accepted: 0 with trunk 'hiera'"):
        ModelConfig(name="tiny", appearance_dim=64)
