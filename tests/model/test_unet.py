"""The networks: printed as specified, and the sizes that are promised for the one that ships."""

import pytest
import torch

from cloudjob.model import checkpoint
from cloudjob.model.checkpoint import untrained
from cloudjob.model.mlm import shipped
from cloudjob.model.unet import SimpleUNet

DOUBLE = """DoubleConv(
    (conv): Sequential(
      (0): Conv2d({a}, {b}, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
      (1): BatchNorm2d({b}, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
      (2): ReLU(inplace=True)
      (3): Conv2d({b}, {b}, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
      (4): BatchNorm2d({b}, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
      (5): ReLU(inplace=True)
    )
  )
"""
POOL = "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)\n"


@pytest.mark.parametrize("bands", [3, 4])
def test_prints_as_specified(bands):
    begin = (
        "SimpleUNet(\n  (enc1): "
        + DOUBLE.format(a=bands, b=64)
        + "  (pool1): "
        + POOL
        + "  (enc2): "
        + DOUBLE.format(a=64, b=128)
        + "  (pool2): "
        + POOL
        + "  (bottleneck): "
        + DOUBLE.format(a=128, b=256)
    )
    printed = str(SimpleUNet(bands))
    assert printed.startswith(begin)
    assert printed.endswith("  (final): Conv2d(64, 1, kernel_size=(1, 1), stride=(1, 1))\n)")


def test_specified_network_has_the_parameters_of_its_description():
    assert sum(p.numel() for p in SimpleUNet(4).parameters()) == 1_865_985


@pytest.mark.parametrize(("widths", "stem"), [((64, 128, 256), 1), ((8, 16, 24, 32), 2), ((8, 8), 4)])
def test_gives_one_logit_per_pixel(widths, stem):
    network = SimpleUNet(4, widths, stem).eval()
    side = 2 * stem * 2 ** (len(widths) - 1)
    with torch.no_grad():
        assert network(torch.rand(2, 4, side, 3 * side)).shape == (2, 1, side, 3 * side)


def bands(network):
    return network.enc1.conv[0].in_channels // network.stem**2


def multiply_adds(network, side=128):
    """Of all convolutions, per pixel of the input, without strips, whose overlap is the price of their memory."""
    total = 0

    def count(layer, _, output):
        nonlocal total
        shape = layer.weight.shape
        kernel = layer.weight.numel() // (shape[1] if isinstance(layer, torch.nn.ConvTranspose2d) else shape[0])
        per_output = kernel // 4 if isinstance(layer, torch.nn.ConvTranspose2d) else kernel  # its taps do not overlap
        total += per_output * output.numel()

    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    network.eval()(torch.zeros(1, bands(network), side, side))
    for hook in hooks:
        hook.remove()
    return total / side**2


def context(network, side):
    """Rows of the image that change a pixel in its middle: the receptive field's height, or a little less."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.constant_(module.weight, 0.01)
            torch.nn.init.zeros_(module.bias)
    image = torch.ones(1, bands(network), side, side, requires_grad=True)
    network.eval()(image)[0, 0, side // 2, side // 2].backward()  # positive everywhere: no ReLU hides anything
    (rows,) = torch.nonzero(image.grad[0].abs().sum(dim=(0, 2)), as_tuple=True)
    return int(rows.max() - rows.min()) + 1


def test_cost_of_the_specified_network():
    assert multiply_adds(SimpleUNet(4)) == pytest.approx(387_392, rel=0.01)


def test_shipped_network_is_small_cheap_and_sees_far():
    terms = checkpoint.load().contract
    assert shipped().stat().st_size <= 8e6
    assert multiply_adds(untrained(terms)) <= 50_000
    assert context(untrained(terms), 384) >= 200
    assert terms.stride <= 16


def test_specified_network_sees_up_to_44_pixels():
    assert 40 <= context(SimpleUNet(4), 64) <= 44  # by where the pixel lies in its 4 × 4 block


def test_smoothed_logits_carry_no_pattern_of_two_pixels():
    torch.manual_seed(0)
    rough = SimpleUNet(4, (8, 8), stem=2).eval()
    smooth = SimpleUNet(4, (8, 8), stem=2, smooth=True).eval()
    smooth.load_state_dict(rough.state_dict())
    with torch.no_grad():
        rough.final.weight.zero_()
        smooth.final.weight.zero_()
        for network in (rough, smooth):
            network.final.bias.copy_(torch.tensor([1.0, -1.0, -1.0, 1.0]))  # a chessboard
        image = torch.rand(1, 4, 16, 16)
        assert rough(image).abs().min() == 1
        assert smooth(image)[0, 0, 1:-1, 1:-1].abs().max() < 1e-6
        for network in (rough, smooth):
            network.final.bias.fill_(0.7)
        assert torch.allclose(smooth(image), rough(image))
