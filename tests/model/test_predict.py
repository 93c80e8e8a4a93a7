import dataclasses
import math
import weakref
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import make_checkpoint
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation
from torch.cuda._utils import _get_device_index

from cloudjob.classes import CLEAR, CLOUD, NO_DATA
from cloudjob.demo import simulate
from cloudjob.errors import SceneError
from cloudjob.grid import Tiling
from cloudjob.model import predict, unet
from cloudjob.model.checkpoint import Checkpoint, load
from cloudjob.model.exact import SETTINGS
from cloudjob.model.labels import classify, widen
from cloudjob.model.share import SHARE


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((4, height, width), np.float32)


def untiled(model: predict.Model, reflectance: np.ndarray, halo: int) -> np.ndarray:
    """The whole scene in one window, with the same surroundings as its tiles."""
    height, width = reflectance.shape[1:]
    side = -(-max(height, width) // 16) * 16
    tiling = Tiling(height, width, side, halo, model.contract.stride)
    whole, _ = predict.probability(model, predict.cut(reflectance, tiling.padded((0, 0))))
    return whole[halo : halo + height, halo : halo + width]


def test_tiles_of_simple_unet_are_those_of_the_whole_scene() -> None:
    """Exact where the halo covers the receptive field and windows begin at multiples of the poolings."""
    checkpoint = make_checkpoint(widths=(64, 128, 256))
    model = predict.prepare(checkpoint, "cpu")
    reflectance = scene(150, 139)  # three by three tiles of 64, ragged on both sides
    whole = untiled(model, reflectance, 24)
    tiling = Tiling(150, 139, 64, 24, 4)
    for tile in tiling.all():
        core, padded = tiling.core(tile), tiling.padded(tile)
        part, _ = predict.probability(model, predict.cut(reflectance, padded))
        difference = np.abs(predict.trim(part, padded, core) - whole[core.slices])
        assert difference.max() <= 1e-5
    mask = predict.mask(model, reflectance)
    assert (mask == (whole >= 0.5)).all()
    assert 0.05 < mask.mean() < 0.95  # it can tell


class Red(torch.nn.Module):
    """A network that sees one pixel, and in it one band."""

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return tiles[:, :1]


def test_a_buffer_reaches_over_the_edges_of_tiles() -> None:
    model = dataclasses.replace(predict.prepare(make_checkpoint(), "cpu"), network=Red())
    reflectance = np.zeros((4, 150, 139), np.float32)
    reflectance[0, [0, 62, 140], [100, 20, 70]] = 1
    reflectance[0, 100, 100] = 0.3  # more than 0.5, by the sigmoid, and less than 0.9
    mask = predict.mask(model, reflectance, threshold=0.9, buffer=400)
    np.testing.assert_array_equal(mask, widen(reflectance[0] == 1, (40, 40)))


def test_a_halo_that_is_too_small_would_be_noticed() -> None:
    model = predict.prepare(make_checkpoint(), "cpu")
    reflectance = scene(128, 128)
    part, _ = predict.probability(model, reflectance[:, :64, :64])
    assert np.abs(part - untiled(model, reflectance, 24)[:64, :64]).max() > 1e-3


def test_folding_and_channels_last_change_nothing() -> None:
    checkpoint = make_checkpoint(widths=(8, 16), stem=2)
    for module in checkpoint.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    window = scene(64, 64)
    with torch.inference_mode():
        straight = torch.sigmoid(checkpoint.network((torch.from_numpy(window)[None] - 0.2) / 0.2))[0, 0].numpy()
    model = predict.prepare(checkpoint, "cpu")
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.network.modules())
    folded, _ = predict.probability(model, window)
    np.testing.assert_allclose(folded, straight, atol=1e-4)  # the random network is steep


class Seen(torch.nn.Module):
    """A network that notes what it is given, and under which settings."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.given: list[torch.Tensor] = []
        self.settings: list[list[object]] = []

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        self.given.append(tiles)
        self.settings.append([getattr(where, name) for where, name, _ in SETTINGS])
        return self.network(tiles)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """A simulated GPU, the second of two: what torch is told of it, while all is computed on the CPU."""

    def fraction(_part: float, device: object) -> None:
        _get_device_index(device)  # As torch's own does: without an index a device is none

    device = mock.Mock()
    device.set_per_process_memory_fraction.side_effect = fraction
    device.current_device.return_value = 1
    for name in ("current_device", "set_per_process_memory_fraction"):
        monkeypatch.setattr(torch.cuda, name, getattr(device, name))
    real = torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device=None, **how: real(self, **how))
    return device


def on_gpu(checkpoint: Checkpoint) -> tuple[predict.Model, Seen]:
    model = predict.prepare(checkpoint, "cuda")
    assert model.device.type == "cuda"
    seen = Seen(model.network)
    return dataclasses.replace(model, device=torch.device("cpu"), network=seen), seen


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_gpu_computes_no_pixel_that_is_not_wanted(number: int) -> None:
    """Batches were filled up to 16 tiles, whatever the row held; and a tile's values hang on no other's."""
    model, seen = on_gpu(make_checkpoint())
    windows = [scene(64, 96, seed) for seed in range(number)]
    together = [predict.probability(model, window)[0] for window in windows]
    assert sum(math.prod(tiles.shape[-2:]) * len(tiles) for tiles in seen.given) == number * 64 * 96
    assert {len(tiles) for tiles in seen.given} == {1}
    for window, found in zip(windows, together, strict=True):
        np.testing.assert_array_equal(predict.probability(model, window)[0], found)


@pytest.mark.usefixtures("gpu")
def test_a_gpu_computes_in_float32_as_a_cpu_does() -> None:
    """What GPUs round by default costs labels: float16 differed from the CPU's in 18 of 10,000."""
    model, seen = on_gpu(made := make_checkpoint())
    window = scene(64, 64)
    found, _ = predict.probability(model, window)
    assert {tiles.dtype for tiles in seen.given} == {torch.float32}
    assert {weights.dtype for weights in model.network.parameters()} == {torch.float32}
    assert seen.settings == [[value for _, _, value in SETTINGS]]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, predict.probability(predict.prepare(made, "cpu"), window)[0])


@pytest.mark.parametrize(("shared", "part"), [(None, 1.0), ("", 1.0), ("4", 0.25)])
def test_lanes_that_share_a_gpu_share_its_memory(
    shared: str | None, part: float, gpu: mock.Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SHARE, raising=False)
    if shared is not None:
        monkeypatch.setenv(SHARE, shared)
    assert predict.prepare(make_checkpoint(), "cuda").device == torch.device("cuda:1")
    gpu.set_per_process_memory_fraction.assert_called_once_with(part, torch.device("cuda:1"))
    gpu.reset_mock()
    predict.prepare(make_checkpoint(), "cuda:0")
    gpu.set_per_process_memory_fraction.assert_called_once_with(part, torch.device("cuda:0"))
    gpu.reset_mock()
    predict.prepare(make_checkpoint(), "cpu")
    gpu.set_per_process_memory_fraction.assert_not_called()


def test_a_network_that_overflows_fails_the_scene() -> None:
    """Its weights are numbers: what it makes of a scene with them is none, and must not pass for clear."""
    made = make_checkpoint()
    with torch.no_grad():
        for name, weights in made.unet.named_parameters():
            if weights.dim() == 4 and name.startswith(("enc1", "bottleneck")):
                weights.mul_(1e20)
                assert torch.isfinite(weights).all()
    with pytest.raises(SceneError, match="gives values that are not finite numbers"):
        predict.probability(predict.prepare(made, "cpu"), scene(64, 64))


def test_what_else_is_predicted_changes_nothing() -> None:
    model = predict.prepare(make_checkpoint(), "cpu")
    a, b, c, d = (scene(64, 64, seed) for seed in range(4))
    together = [predict.probability(model, window)[0] for window in (a, b, c, d)]
    np.testing.assert_array_equal([predict.probability(model, window)[0] for window in (d, c)][::-1], together[2:])
    np.testing.assert_array_equal(predict.probability(model, b)[0], together[1])


def test_no_data_is_seen_as_the_fill_and_marked_as_no_data() -> None:
    model = predict.prepare(make_checkpoint(outside_fill=0.1), "cpu")
    filled = scene(64, 64)
    filled[:, 20:30, 5:40] = 0.1
    holes = filled.copy()
    holes[:, 20:30, 5:40] = np.nan
    a, b = (predict.probability(model, each)[0] for each in (filled, holes))
    np.testing.assert_array_equal(a, b)
    mask = predict.mask(model, holes)
    assert (mask[20:30, 5:40] == NO_DATA).all()
    assert (mask == NO_DATA).sum() == 350


def test_what_is_brighter_than_the_contract_allows_is_seen_as_the_brightest() -> None:
    model = predict.prepare(make_checkpoint(brightest=0.5), "cpu")
    glint, cut = scene(64, 64), scene(64, 64)
    glint[:, 20:30, 5:40], cut[:, 20:30, 5:40] = 6.55, 0.5
    given = glint.copy()
    a, b = (predict.probability(model, each)[0] for each in (glint, np.minimum(cut, 0.5)))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(glint, given)  # the caller's window is as it was
    unlike, _ = predict.probability(predict.prepare(make_checkpoint(brightest=2.0), "cpu"), glint)
    assert not np.array_equal(a, unlike)


def test_a_window_without_data_needs_no_network() -> None:
    model = predict.prepare(make_checkpoint(), "cpu")
    empty = np.full((4, 64, 64), np.nan, np.float32)
    assert (predict.mask(model, empty) == NO_DATA).all()


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.floats(0, 6), st.floats(0, 6), st.sampled_from([0.0, 0.001, 0.02, 1.0])
)  # fmt: skip
@example(0, 5.0, 5.0, 0.02)
@example(0, 0.0, 5.0, 0.02)
def test_widening_is_dilation_by_an_ellipse(seed: int, down: float, across: float, share: float) -> None:
    cloud = np.random.default_rng(seed).random((40, 57)) < share
    y, x = np.mgrid[-6:7, -6:7]
    ellipse = (y * across) ** 2 + (x * down) ** 2 <= (across * down) ** 2
    ellipse &= (abs(y) <= down) & (abs(x) <= across)
    np.testing.assert_array_equal(widen(cloud, (down, across)), binary_dilation(cloud, ellipse))


def test_a_buffer_widens_clouds_but_neither_into_no_data_nor_from_it() -> None:
    likely = np.zeros((9, 9), np.float32)
    likely[4, 4] = likely[0, 0] = 1
    valid = np.ones((9, 9), bool)
    valid[4, 5] = valid[0, 0] = False
    mask = classify(likely, valid, 0.5, (1, 1))
    assert mask[4, 3] == mask[3, 4] == mask[5, 4] == mask[4, 4] == CLOUD
    assert mask[4, 5] == mask[0, 0] == NO_DATA
    assert mask[0, 1] == mask[1, 0] == mask[3, 3] == CLEAR


def test_another_number_of_bands_is_refused() -> None:
    model = predict.prepare(make_checkpoint(), "cpu")
    with pytest.raises(ValueError, match=r"shape \(3, 8, 8\); expected \(4, y, x\)"):
        predict.mask(model, np.zeros((3, 8, 8), np.float32))


FIVE = ("red", "green", "blue", "nir", "swir16")


def five_bands(**change: object) -> predict.Model:
    """A network with an optional fifth band."""
    ckpt = make_checkpoint(bands=FIVE, mean=(0.3,) * 5, std=(0.3,) * 5)
    contract = dataclasses.replace(ckpt.contract, **{"optional_bands": ("swir16",), "absent_fill": -0.25, **change})
    return predict.prepare(dataclasses.replace(ckpt, contract=contract), "cpu")


def test_an_absent_band_is_its_fill_and_what_is_there_counts() -> None:
    model = five_bands()
    whole = np.concatenate([scene(64, 64), scene(64, 64, 1)[:1]])
    absent, filled = whole.copy(), whole.copy()
    absent[4], filled[4] = np.nan, -0.25
    there, without, said = (predict.probability(model, each)[0] for each in (whole, absent, filled))
    assert np.isfinite(without).all()
    assert (without == said).all()
    assert np.abs(there - without).max() > 1e-3
    assert np.isnan(absent[4]).all(), "the caller's array is left alone"


@pytest.mark.parametrize("optional", [0, 4])
def test_where_there_are_data_is_decided_by_the_bands_that_must_be_there(optional: int) -> None:
    model = five_bands(outside_fill="mirror", optional_bands=(FIVE[optional],))
    reflectance = np.concatenate([scene(64, 64), scene(64, 64, 1)[:1]])
    reflectance[:, :, 50:] = np.nan
    reflectance[optional, :20] = np.nan
    mask = predict.mask(model, reflectance)
    assert (mask[:, 50:] == 254).all()
    assert (mask[:, :50] <= 1).all()


def test_a_mirror_at_the_edges_is_that_of_numpy() -> None:
    inner = scene(20, 17)
    padded = np.pad(inner, ((0, 0), (6, 3), (8, 0)), constant_values=np.nan)
    predict.mirror(padded, ~np.isnan(padded[0]))
    assert (padded == np.pad(inner, ((0, 0), (6, 3), (8, 0)), mode="symmetric")).all()


def test_where_a_contract_says_mirror_that_is_what_a_network_sees() -> None:
    window = np.concatenate([scene(16, 16), scene(16, 16, 1)[:1]])
    window[:, :, :5] = np.nan
    seen, mirrored = window.copy(), window.copy()
    predict.fill(five_bands(outside_fill="mirror").contract, seen)
    predict.mirror(mirrored, ~np.isnan(window[0]))
    assert (seen == mirrored).all()


def test_what_lies_in_the_middle_of_a_gap_is_mirrored_from_the_left_and_above() -> None:
    """Either would do, but the same scene must give the same mask for good."""
    row = np.array([[[1, np.nan, 2]]], np.float32)
    for image in (row, row.swapaxes(1, 2)):
        filled = image.copy()
        predict.mirror(filled, ~np.isnan(image[0]))
        assert filled.ravel().tolist() == [1, 1, 2]


@given(st.integers(0, 1_000_000), st.floats(0.02, 0.98))
def test_a_mirror_fills_everything_with_what_is_inside_and_leaves_that(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    image = rng.random((2, 13, 11), np.float32)
    inside = rng.random((13, 11)) < share
    inside[rng.integers(13), rng.integers(11)] = True
    filled = np.where(inside, image, np.nan)
    predict.mirror(filled, inside)
    assert (filled[:, inside] == image[:, inside]).all()
    known = {tuple(pixel) for pixel in image[:, inside].T}
    assert all(tuple(pixel) in known for pixel in filled.reshape(2, -1).T)


def test_each_pixel_is_mirrored_along_its_row_or_its_column_whichever_is_nearer() -> None:
    """Below an edge that is nearly level the row's next pixel may be hundreds away, and the column's one."""
    inside = np.ones((8, 9), bool)
    inside[5:, 4:] = inside[6:, 2:] = False
    image = np.arange(72, dtype=np.float32).reshape(1, 8, 9)
    filled = np.where(inside, image, np.nan)
    predict.mirror(filled, inside)
    assert filled[0, 5, 7] == image[0, 4, 7]
    assert filled[0, 7, 8] == image[0, 2, 8]
    assert filled[0, 7, 3] == image[0, 7, 0], "two away along the row, three along the column"
    assert filled[0, 6, 2] == image[0, 6, 1], "as near to both"


def test_tiles_along_a_nearly_level_edge_are_nearly_those_of_the_whole() -> None:
    """Data that end along a line with a slope of one in ten, as where an acquisition begins.

    Along rows a tile does not see as far as the whole does: 73 of 1,000 pixels differed. Those left are at a corner.
    """
    model = five_bands(outside_fill="mirror")
    reflectance = np.concatenate([scene(150, 390), scene(150, 390, 1)[:1]])
    reflectance[:, np.arange(150)[:, None] + np.arange(390) / 10 > 90] = np.nan
    whole = untiled(model, reflectance, 32)
    tiling = Tiling(150, 390, 64, 32, 4)
    differ = known = 0
    for tile in tiling.all():
        core, padded = tiling.core(tile), tiling.padded(tile)
        part, inside = predict.probability(model, predict.cut(reflectance, padded))
        there = predict.trim(inside, padded, core)
        differ += np.count_nonzero((np.abs(predict.trim(part, padded, core) - whole[core.slices]) > 1e-4) & there)
        known += np.count_nonzero(there)
    assert differ < 0.01 * known


def test_tiles_of_a_mirrored_scene_are_those_of_the_whole() -> None:
    model = five_bands(outside_fill="mirror")
    reflectance = np.concatenate([scene(150, 139), scene(150, 139, 1)[:1]])
    whole = untiled(model, reflectance, 32)
    tiling = Tiling(150, 139, 64, 32, 4)
    for tile in tiling.all():
        core, padded = tiling.core(tile), tiling.padded(tile)
        part, _ = predict.probability(model, predict.cut(reflectance, padded))
        assert np.abs(predict.trim(part, padded, core) - whole[core.slices]).max() <= 1e-4


@pytest.fixture(scope="module")
def shipped() -> predict.Model:
    return predict.prepare(load(), "cpu")


def test_the_shipped_networks_halo_reaches_as_far_as_a_pixel_depends_on_others(shipped: predict.Model) -> None:
    halo, stride = shipped.contract.halo, shipped.contract.stride
    core = slice(10 * stride, 11 * stride)

    def spoilt(column: int) -> bool:
        """Whether what is no number in a column is seen from the core, whose first pixel a tile may begin with."""
        image = torch.rand(1, 5, 16, 21 * stride, generator=torch.Generator().manual_seed(0))
        image[..., column] = math.nan
        with torch.inference_mode():
            return bool(shipped.network(image)[..., core].isnan().any())

    assert [spoilt(column) for column in (core.start - halo - 1, core.start - halo)] == [False, True]
    assert [spoilt(column) for column in (core.stop + halo - 1, core.stop + halo)] == [True, False]


def test_the_shipped_networks_masks_are_those_of_one_tile_for_all(shipped: predict.Model) -> None:
    """In tiles so small that what a pixel depends on lies in several of them."""
    rng = np.random.default_rng(0)
    reflectance, _ = simulate.overlay(simulate.ground(rng, (380, 680))[0], simulate.sky(rng, (380, 680)))
    small = dataclasses.replace(shipped, contract=dataclasses.replace(shipped.contract, tile=64))
    whole = untiled(shipped, reflectance, 128)
    tiling = small.contract.tiling(*reflectance.shape[1:])
    assert (tiling.tile, tiling.halo) == (64, 128)
    for tile in tiling.all():
        core, padded = tiling.core(tile), tiling.padded(tile)
        part, _ = predict.probability(small, predict.cut(reflectance, padded))
        assert np.abs(predict.trim(part, padded, core) - whole[core.slices]).max() <= 1e-4
    mask = predict.mask(small, reflectance)
    assert (mask == predict.mask(shipped, reflectance)).all()
    assert 0.05 < mask.mean() < 0.95


def test_a_window_without_any_data_is_filled_too() -> None:
    contract = five_bands(outside_fill="mirror").contract
    nothing = np.full((5, 16, 16), np.nan, np.float32)
    predict.fill(contract, nothing)
    assert np.isfinite(nothing).all()


def test_a_window_that_nobody_keeps_is_gone_while_the_network_runs() -> None:
    """A lane's memory at its peak is the network's: the window is as large as some of its layers."""
    model = predict.prepare(make_checkpoint(), "cpu")
    assert isinstance(model.network, torch.nn.Module)
    handed: list[weakref.ref[np.ndarray]] = []
    gone: list[bool] = []

    def window() -> np.ndarray:
        made = scene(64, 64)
        handed.append(weakref.ref(made))
        return made

    first = model.network.get_submodule("enc1.conv.0")
    first.register_forward_pre_hook(lambda *_: gone.append(handed[0]() is None))
    predict.probability(model, window())
    assert gone == [True]


def test_a_tile_that_is_folded_is_let_go_of_before_the_network_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was held to the end."""
    model = predict.prepare(make_checkpoint(stem=2), "cpu")
    assert isinstance(model.network, torch.nn.Module)
    given: list[weakref.ref[torch.Tensor]] = []
    gone: list[bool] = []
    fold = torch.nn.functional.pixel_unshuffle

    def folded(tile: torch.Tensor, stem: int) -> torch.Tensor:
        given.append(weakref.ref(tile))
        return fold(tile, stem)

    monkeypatch.setattr(torch.nn.functional, "pixel_unshuffle", folded)
    model.network.get_submodule("enc1.conv.3").register_forward_pre_hook(lambda *_: gone.append(given[0]() is None))
    predict.probability(model, scene(64, 64))
    assert gone == [True]


@pytest.mark.parametrize("strip", [2, 6, 64])
def test_strips_change_no_value_and_what_lies_between_convolutions_is_never_there_whole(
    monkeypatch: pytest.MonkeyPatch, shipped: predict.Model, strip: int
) -> None:
    network, rows = shipped.network, []
    assert isinstance(network, torch.nn.Module)
    image = torch.rand(2, 5, 304, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = network(image)  # `STRIP` is higher than its levels are
        monkeypatch.setattr(unet, "STRIP", strip)
        hook = network.get_submodule("dec1.conv.3").register_forward_pre_hook(lambda _, at: rows.append(at[0].shape[2]))
        parts = network(image)
        hook.remove()
    assert (whole - parts).abs().max() <= 1e-5
    assert max(rows) == strip + 2 * unet.REACH
