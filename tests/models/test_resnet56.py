"""ResNet-56 against the numbers of He et al. 2016, section 4.2 and table 6."""

import pytest
import torch
from torch import nn

from advtrack.models.resnet56 import ResidualBlock, ResNet56


def test_has_6n_plus_2_layers_and_the_papers_size():
    network = ResNet56(10)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
    assert len(convolutions) + len(linear) == 6 * 9 + 2
    assert all(c.kernel_size == (3, 3) for c in convolutions)
    # "0.85M" in table 6, for three input channels; option A's shortcuts have no parameters.
    parameters = sum(p.numel() for p in network.parameters()) + 2 * 16 * 9
    assert round(parameters / 1e6, 2) == 0.85
    widths = [c.out_channels for c in convolutions]
    assert widths == [16] * 19 + [32] * 18 + [64] * 18


def test_stages_halve_the_image_twice():
    network, shapes = ResNet56(3).eval(), {}
    for name in ("stage1", "stage2", "stage3"):
        getattr(network, name).register_forward_hook(lambda m, i, out, name=name: shapes.update({name: out.shape}))
    with torch.no_grad():
        logits = network(torch.rand(2, 1, 18, 22))
    assert logits.shape == (2, 3)
    assert shapes == {"stage1": (2, 16, 18, 22), "stage2": (2, 32, 9, 11), "stage3": (2, 64, 5, 6)}


@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (8, 2)])
def test_a_block_without_residual_is_its_shortcut(channels, stride):
    block = ResidualBlock(4, channels, stride).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 4, 6, 7)
    with torch.no_grad():
        y = block(x)
    assert torch.equal(y[:, :4], x[:, :, ::stride, ::stride])
    assert not y[:, 4:].any()


def test_initial_weights_follow_he_et_al():
    torch.manual_seed(0)
    convolution = ResNet56(10).stage3[4].conv1
    assert convolution.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
