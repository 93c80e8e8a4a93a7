"""What the network is shown, and what the teacher makes of it."""

import itertools

import numpy as np
import pytest
import torch
from experiment import FOUR, THREE, write

from cloudjob.demo.simulate import CLOUD_OPACITY
from training import crop, sample, settings, state, teach
from training.sample import Samples
from training.scenery import Scenery, ridge
from training.settings import Mix

pytest_plugins = ("tiny",)
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def test_samples_depend_on_their_number_only(patches):
    mix = Mix(1, 1, 1, 1, 1)
    first, second = (Samples(patches, mix, 12, FOUR, crop=64, skies=3, epoch=2) for _ in range(2))
    for index in (5, 0, 11):
        for a, b in zip(first[index][:2], second[index][:2], strict=True):
            assert torch.equal(a, b) or torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    other = Samples(patches, mix, 12, FOUR, crop=64, skies=3, epoch=3)
    assert not all(torch.equal(first[i][0], other[i][0]) for i in range(12))


@pytest.mark.parametrize("contract", [THREE, FOUR], ids=lambda contract: contract.name)
def test_samples_hold_truth(patches, contract):
    samples = Samples(patches, Mix(1, 1, 1, 1, 1), 60, contract, crop=64, skies=6)
    clouds = 0
    for index in range(60):
        image, target, _ = samples[index]
        assert image.shape == (len(contract.bands), 64, 64)
        assert target.shape == (1, 64, 64)
        assert torch.isfinite(image).all()
        assert torch.isnan(target[0][(image == 0).all(dim=0)]).all()
        known = target[~torch.isnan(target)]
        assert ((known >= 0) & (known <= 1)).all()
        clouds += int((known > 0.5).sum())
    assert clouds > 1000


def test_crop_keeps_image_and_target_together(patches):
    samples = Samples(patches[:1], Mix(), 40, FOUR, crop=48)
    for index in range(40):
        image, target, _ = samples[index]
        known = ~torch.isnan(target[0])
        bright = image[0] > 0.35
        agree = (bright == (target[0] > 0.5))[known]
        assert agree.float().mean() > 0.9


def test_clouds_of_labels_are_widened(patches):
    narrow, wide = (Samples(patches[:1], Mix(), 1, FOUR, crop=48, widened=by)._read(patches[0])[1] for by in (0, 2))
    assert (np.isnan(narrow) == np.isnan(wide)).all()
    clouds, more = (np.nan_to_num(target) > 0 for target in (narrow, wide))
    assert (more >= clouds).all()
    rows, columns = np.nonzero(more & ~clouds)
    near = [
        clouds[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3].any()
        for row, column in zip(rows, columns, strict=True)
    ]
    assert near
    assert all(near)


def test_where_no_cloud_was_pasted_the_ground_stays_and_is_taught(patches, monkeypatch):
    monkeypatch.setattr(sample, "SNOWY", 0)
    label = np.zeros((96, 96), np.uint8)
    label[20:60, 30:70], label[60:] = 1, 255  # nobody has said what the lower third is
    write(patches[0].label, label)
    samples = Samples(patches, Mix(0, 0, 1), 1, FOUR, crop=64)
    covered, known = 0, []
    for seed in range(20):
        mixed, target = samples._pasted(np.random.default_rng(seed))
        ground = np.abs(mixed - 90 * 0.0016).max(axis=0) < 1e-4
        known.append((target[ground] == 0).mean())
        assert not (target[ground] > 0).any()
        covered += int((target == 1).sum())
    assert covered > 1000
    assert np.mean(known) > 0.85  # all but rims


def test_clouds_lie_over_made_up_snow_at_times(patches, monkeypatch):
    samples = Samples(patches, Mix(0, 0, 1, 1), 1, FOUR, crop=64, skies=6)
    for share in (0, 1):
        monkeypatch.setattr(sample, "SNOWY", share)
        for make in (samples._pasted, lambda rng: samples._clouded(rng, simulated=False)):
            shown = [make(np.random.default_rng(seed)) for seed in range(20)]
            clear = [image[:3].mean(axis=0)[target == 0] for image, target in shown]
            bright = np.mean([(ground > 0.25).mean() for ground in clear if ground.size > 200])
            assert bright > 0.3 if share else bright < 0.1
            assert sum(int((target == 1).sum()) for _, target in shown) > 1000, "clouds stand on it"


@pytest.mark.parametrize(("opacity", "taught"), [(0.02, 0), (0.05, np.nan), (0.1, 1)])
def test_what_is_thinner_than_any_veil_is_not_taught_as_cloud(patches, monkeypatch, opacity, taught):
    """The one real veil there is has an opacity of 0.1."""
    monkeypatch.setattr(sample, "SNOWY", 0)
    samples = Samples(patches, Mix(0, 0, 0, 1), 1, FOUR, crop=64, skies=1)
    sky = np.full((7, 384, 384), 0.6, np.float16)
    sky[0], sky[1] = opacity, 0
    monkeypatch.setattr(samples.scenery, "sky", lambda _: sky)
    _, target = samples._clouded(np.random.default_rng(1), simulated=False)
    assert np.array_equal(target, np.full((64, 64), taught), equal_nan=True)


def test_every_other_sky_is_a_deck_of_which_every_third_ends_and_every_sixth_is_a_veil():
    scenery = Scenery(3)
    decks, ended, veils = (
        [scenery.sky(number)[0] for number in numbers] for numbers in ((2, 4, 8), (0, 6, 12, 18), (1, 7, 13))
    )
    assert min(deck.min() for deck in decks) > CLOUD_OPACITY
    assert all(0.15 < (deck > CLOUD_OPACITY).mean() < 0.9 for deck in ended)
    assert all((deck == 0).mean() > 0.1 for deck in ended)
    assert all(np.quantile(veil, 0.9) < 0.95 for veil in veils)


def test_a_ridge_is_dark_and_white():
    image = ridge(np.random.default_rng(3), (96, 80))
    assert image.shape == (5, 96, 80)
    assert (image[0] > 0.5).mean() > 0.05
    assert (image[0] < 0.2).mean() > 0.05


@pytest.mark.parametrize(
    ("has", "expected"), [({}, None), ({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16)]
)
def test_half_precision_only_where_the_processor_has_it(monkeypatch, has, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert state.half(torch.device("cpu")) is expected
    for capability, half in (((7, 5), torch.float16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda has=capability: has)
        assert state.half(torch.device("cuda")) is half


def test_fixed_crops_are_shown_once_an_epoch(patches, monkeypatch):
    """In another order, zoomed and turned otherwise: only what is not zoomed can be compared."""
    cut = []

    def window(rng, image, target, side):
        cut.append(crop.window(rng, image, target, side))
        return cut[-1]

    monkeypatch.setattr(sample, "window", window)
    seen = []
    for epoch in range(4):
        cut.clear()
        samples = Samples(patches[:1], Mix(), 8, FOUR, crop=48, whole=True, epoch=epoch)
        for index in range(8):
            samples[index]
        assert len(cut) == 8
        seen.append([image.tobytes() for image, _ in cut if image.shape[1] == 48])
    for one, other in itertools.combinations(seen, 2):
        assert len(one) == len(set(one)) > 2
        assert len({*one, *other}) <= 8
        assert one[:2] != other[:2]
    assert len({*itertools.chain(*seen)}) == 8, "all of them, and nothing else"


def test_algorithms_clouds_count_only_where_the_teacher_agrees(patches, tmp_path):
    label = np.zeros((96, 96), np.uint8)
    label[20:60, 30:70] = 1
    label[70:90] = 255  # the algorithms disagree
    write(patches[0].label, label)
    said = np.zeros((96, 96), np.float16)
    said[20:40] = 1
    said[80:84] = 0.5
    said[84:88] = 1
    np.savez(tmp_path / "teacher.npz", cloudy=said)
    chosen = settings.Data(confirmed=("cloudy",))
    target = teach.targets(patches, chosen, tmp_path / "teacher.npz")["cloudy"]
    assert (target[20:40, 30:70] == 1).all()
    assert np.isnan(target[40:60, 30:70]).all()
    assert (target[:20, :90] == 0).all()
    assert (target[70:80, :90] == 0).all(), "the teacher is sure that it is clear"
    assert np.isnan(target[80:88]).all(), "what it takes for cloud may be snow"
    assert (target[88:90, :90] == 0).all()
    assert np.isnan(target[:, 90:]).all()
