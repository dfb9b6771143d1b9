"""Reading MobileSAM's checkpoint: folding, and the refusal of another file."""

from pathlib import Path

import pytest
import torch
from torch import nn

from recipes.embedded.mobilesam import fold_batch_norm, image_encoder_state, load_mobilesam


def test_folded_convolution_equals_convolution_and_normalisation() -> None:
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(6, 10, 3, bias=False), nn.BatchNorm2d(10).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        assert tensor is not None
        nn.init.normal_(tensor)
    assert norm.running_var is not None
    nn.init.uniform_(norm.running_var, 0.1, 4.0)
    state = {f"x.c.{name}": value for name, value in convolution.state_dict().items()}
    state |= {f"x.bn.{name}": value for name, value in norm.state_dict().items()}
    folded = nn.Conv2d(6, 10, 3)
    weight, bias = fold_batch_norm(state, "x.")
    folded.load_state_dict({"weight": weight, "bias": bias})
    image = torch.randn(2, 6, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(folded(image), norm(convolution(image)), rtol=1e-4, atol=1e-5)


def test_classifier_is_left_out_and_names_are_ours() -> None:
    state = {
        "image_encoder.head.weight": torch.zeros(1),
        "image_encoder.norm_head.bias": torch.zeros(1),
        "image_encoder.layers.1.blocks.0.attn.qkv.bias": torch.ones(3),
        "image_encoder.neck.2.weight": torch.ones(2),
        "mask_decoder.iou_token.weight": torch.zeros(1),
    }
    assert set(image_encoder_state(state)) == {"trunk.stages.1.blocks.0.attn.qkv.bias", "neck.conv2.weight"}


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mobile_sam.pt"
    path.write_bytes(b"not the checkpoint")
    with pytest.raises(ValueError, match="SHA-256"):
        load_mobilesam(path)
