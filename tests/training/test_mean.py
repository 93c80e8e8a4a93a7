"""The mean of two checkpoints' weights."""

from dataclasses import replace
from pathlib import Path

import torch
from click.testing import CliRunner

from cloudjob.model import checkpoint
from cloudjob.model.unet import SimpleUNet
from training.mean import main

SMALL = {"widths": (4, 8), "stem": 1, "dilation": 1, "smooth": False}


def made(path: Path, seed: int, bands: int = 4) -> Path:
    torch.manual_seed(seed)
    shipped = checkpoint.load().contract
    contract = replace(
        shipped, bands=shipped.bands[:bands], mean=(0.25,) * bands, std=(0.25,) * bands, optional_bands=(),
        halo=20, metrics={"iou": float(seed)}, version=str(seed), threshold=seed / 10, buffer=10.0 * seed, **SMALL,
    )  # fmt: skip
    checkpoint.save(SimpleUNet(bands, **SMALL), contract, path)
    return path


def test_each_weight_is_the_mean_and_the_record_is_that_of_the_later(tmp_path: Path) -> None:
    before, after, out = made(tmp_path / "a.safetensors", 1), made(tmp_path / "b.safetensors", 2), tmp_path / "c"
    told = CliRunner().invoke(main, [str(before), str(after), str(out)], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    first, second, both = (checkpoint.load(path).unet.state_dict() for path in (before, after, out))
    differ = 0
    for name, tensor in both.items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, (first[name] + second[name]) / 2, atol=1e-7), name
            differ += not torch.equal(tensor, second[name])
    assert differ > 5
    contract = checkpoint.load(out).contract
    assert (contract.version, contract.metrics) == ("2", {})
    assert (contract.threshold, contract.buffer) == (0.1, 10), "as chosen before"


def test_networks_of_two_forms_have_none(tmp_path: Path) -> None:
    before, after, out = made(tmp_path / "a.safetensors", 1, 3), made(tmp_path / "b.safetensors", 2), tmp_path / "c"
    told = CliRunner().invoke(main, [str(before), str(after), str(out)])
    assert told.exit_code == 3
    assert "not of one form" in told.output
    assert not out.exists()
