import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import make_checkpoint

from cloudjob.errors import ContractError
from cloudjob.model import checkpoint
from cloudjob.model.checkpoint import load, record, save
from cloudjob.model.contract import Contract
from cloudjob.model.mlm import from_mlm


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    made = make_checkpoint(training_data=("simulated",), metrics={"iou": 0.5})
    save(made.network, made.contract, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def test_what_is_saved_is_loaded(saved: Path) -> None:
    made, read = make_checkpoint(training_data=("simulated",), metrics={"iou": 0.5}), load(saved)
    assert read.contract == made.contract
    x = torch.rand(1, 4, 32, 32)
    assert torch.equal(read.network(x), made.network(x))


def test_the_same_network_is_the_same_file(saved: Path, tmp_path: Path) -> None:
    read = load(saved)
    save(read.network, read.contract, tmp_path / "again.safetensors")
    assert load(tmp_path / "again.safetensors").sha256 == read.sha256


def rewrite(path: Path, **properties: object) -> None:
    """Change the MLM record of a checkpoint."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    item = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["mlm"])
    item["properties"].update(properties)
    path.write_bytes(safetensors.torch.save(safetensors.torch.load(data), {"mlm": json.dumps(item)}))


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(make_checkpoint().network.state_dict(), path)
    with pytest.raises(ContractError, match="looks like a pickle, which is never opened"):
        load(path)
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(ContractError, match="looks like a pickle"):
        load(path)


@pytest.mark.parametrize("size", [0, 5, 100, 5000, -1])
def test_truncated(saved: Path, size: int) -> None:
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(ContractError, match=f"{saved.name} is not a whole .safetensors file"):
        load(saved)


@pytest.mark.parametrize(
    "content", [b"# Masks of clouds\n", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", b'{"type": "Feature"}']
)
def test_another_kind_of_file_is_told_from_one_that_is_cut_off(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(content)
    with pytest.raises(ContractError, match=r"README.md is no checkpoint: neither a .safetensors nor an .onnx file"):
        load(tmp_path / "README.md")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"none.safetensors: No such file"):
        load(tmp_path / "none.safetensors")


def test_no_record(tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ContractError, match="has no MLM record"):
        load(path)


def test_another_architecture(saved: Path) -> None:
    rewrite(saved, **{"mlm:architecture": "SegFormer"})
    with pytest.raises(ContractError, match="architecture is 'SegFormer'; expected 'SimpleUNet'"):
        load(saved)


def test_other_bands(saved: Path) -> None:
    item = checkpoint.record(make_checkpoint(bands=("red", "green", "blue"), mean=(0.2,) * 3, std=(0.2,) * 3).contract)
    rewrite(saved, **{"mlm:input": item["properties"]["mlm:input"]})
    with pytest.raises(ContractError, match="takes 4 bands but it names 3"):
        load(saved)


def test_another_scaling(saved: Path) -> None:
    item = checkpoint.record(make_checkpoint().contract)
    item["properties"]["mlm:input"][0]["value_scaling"][1]["type"] = "min-max"
    rewrite(saved, **{"mlm:input": item["properties"]["mlm:input"]})
    with pytest.raises(ContractError, match="value scaling is 'min-max'; expected 'z-score'"):
        load(saved)


def test_weights_of_another_size(saved: Path) -> None:
    rewrite(saved, **{"mlm:hyperparameters": {"in_channels": 4, "widths": [4, 8, 16], "stem": 1, "dilation": 1}})
    with pytest.raises(ContractError, match=r"weights are not those of SimpleUNet\(4, widths=\(4, 8, 16\)"):
        load(saved)


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    made = make_checkpoint()
    with torch.no_grad():
        made.network.final.bias.fill_(float("nan"))
    save(made.network, made.contract, tmp_path / "nan.safetensors")
    with pytest.raises(ContractError, match="not finite numbers"):
        load(tmp_path / "nan.safetensors")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"threshold": 1.0}, "threshold is 1.0; expected above 0 and below 1"),
        ({"std": (0.0,) * 4}, "divides by"),
        ({"brightest": 0.0}, "brightest reflectance is 0.0; expected above 0"),
        ({"tile": 62}, "do not fit the network's stride 4"),
        ({"mean": (0.1,)}, "4 bands but 1 means"),
        ({"optional_bands": ("swir16",)}, "optional band 'swir16' is none of its bands"),
        ({"optional_bands": ("red", "green", "blue", "nir")}, "all bands of the checkpoint are optional"),
        ({"outside_fill": "grey"}, "outside_fill is 'grey'; expected a number or mirror"),
        ({"name": "net\nerror: all is lost"}, r"name is 'net\\nerror: all is lost'; expected a text of one line"),
        ({"version": "1\x1b[2J"}, r"version is '1\\x1b\[2J'; expected a text of one line"),
        ({"training_data": ("a", "b\u2028c")}, r"training_data is 'b\\u2028c'; expected a text of one line"),
        ({"metrics": {"iou\r": 0.5}}, "metrics is None; expected another type"),
    ],
)
def test_contracts_that_make_no_sense(change: dict[str, object], says: str) -> None:
    with pytest.raises(ContractError, match=says):
        replace(make_checkpoint().contract, **change)  # type: ignore[arg-type]


def test_padding_is_halo_and_buffer_rounded_up() -> None:
    contract = Contract("a", "1", ("red",), (0.0,), (1.0,), widths=(8, 8, 8), stem=4, halo=44)
    assert contract.stride == 16
    assert [contract.padding(buffer) for buffer in (0, 4, 4.1, 20)] == [48, 48, 64, 64]


def test_the_record_is_a_stac_item() -> None:
    import pystac

    item = pystac.Item.from_dict(checkpoint.record(make_checkpoint().contract))
    assert item.properties["mlm:total_parameters"] == sum(p.numel() for p in make_checkpoint().network.parameters())


@pytest.mark.parametrize(
    ("shape", "tile"),
    [((10980, 10980), 2048), ((4097, 5000), 2048), ((4096, 10980), 1024), ((2152, 2104), 1024), ((100, 100), 1024)],
)
def test_small_scenes_are_cut_into_smaller_tiles(shape: tuple[int, int], tile: int) -> None:
    contract = Contract("deep", "1", ("red",), (0.0,), (1.0,), tile=2048, halo=92, widths=(4, 8, 8, 8), stem=2)
    tiling = contract.tiling(*shape)
    assert (tiling.tile, tiling.halo, tiling.stride) == (tile, 96, 16)
    assert contract.tiling(*shape, 10).halo == 112


def test_optional_bands_and_fills_are_kept_and_older_files_have_none(tmp_path: Path) -> None:
    more = {"optional_bands": ("nir",), "absent_fill": -0.25, "outside_fill": "mirror", "smooth": True, "stem": 2}
    made = make_checkpoint(**more)
    save(made.network, made.contract, tmp_path / "net.safetensors")
    contract = load(tmp_path / "net.safetensors").contract
    assert contract == made.contract
    assert contract.required_bands == ("red", "green", "blue")
    old = record(make_checkpoint().contract)
    for key in ("optional_bands", "absent_fill"):
        del old["properties"]["cloudjob:contract"][key]
    del old["properties"]["mlm:hyperparameters"]["smooth"]
    assert from_mlm(old) == make_checkpoint().contract
