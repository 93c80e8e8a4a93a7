"""Labelled patches on disk, whatever their layout, as reflectance and label.

Layouts known: 38-Cloud / 95-Cloud (Mohajerani and Saeedi 2019, arXiv:1901.10077), On Cloud N (DrivenData 2022,
doi 10.34911/rdnt.hfq6m7), STAC item collections with a `label` asset, and chips (`NAME.tif` with `NAME_label.tif`).
"""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloudjob.errors import ContractError, UsageError
from training.patch import ALL_BANDS, BANDS, Layer, Patch, any_of, opened, read_layer


@dataclass(frozen=True)
class Found:
    """Patches of a folder, and how many were left out because they hold no data."""

    patches: tuple[Patch, ...]
    dropped: int


def gather(folders: Sequence[Path]) -> Found:
    """The patches of several folders.

    Raises:
        ContractError: a file that a layout promises is missing.
        UsageError: nothing of a known layout is in a folder, or two patches have one name.
    """
    found = [find(folder) for folder in folders]
    patches = tuple(patch for part in found for patch in part.patches)
    names = Counter(patch.name for patch in patches)
    if twice := [name for name, times in names.items() if times > 1]:
        both = " and ".join(str(patch.layers[0].path) for patch in patches if patch.name == twice[0])
        raise UsageError(
            f"{len(twice)} patches are there twice, such as {twice[0]}: {both}",
            hint="name each data set once, and give different images different names",
        )
    return Found(patches, sum(part.dropped for part in found))


def find(folder: Path) -> Found:
    """The patches of a data set, recognised by its layout; a folder of data sets gives all of them.

    Raises:
        ContractError: a file that the layout promises is missing.
        UsageError: nothing of a known layout is there.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100  (`.` has no name, and a link's is its own)
    folders = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())] if folder.is_dir() else []
    for candidates in ([folder], folders[1:]):
        found = [reader(path) for path in candidates for known, reader in LAYOUTS if known(path)]
        if found:
            return Found(tuple(p for part in found for p in part.patches), sum(part.dropped for part in found))
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder", hint="--data takes the folder of a data set")
    raise UsageError(
        f"{folder} holds no labelled patches in a layout that is known",
        hint="known are 38-Cloud and 95-Cloud (train_red/…), On Cloud N (train_features/…), "
        "STAC (items.json with label assets), chips (NAME.tif with NAME_label.tif) and, in folders called surfaces and "
        "swir, clear ground and chips with infrared (NAME.tif)",
    )


def split(patches: Sequence[Patch], patterns: Sequence[str]) -> tuple[tuple[Patch, ...], tuple[Patch, ...]]:
    """(patches of the other scenes, patches of the scenes whose name matches one of the patterns)."""
    chosen = {patch.scene for patch in patches if any_of(patch.scene, patterns)}
    return tuple(p for p in patches if p.scene not in chosen), tuple(p for p in patches if p.scene in chosen)


def find_38_cloud(folder: Path) -> Found:
    """38-Cloud and 95-Cloud as distributed: `train_red*/red_NAME.TIF` …, `train_gt*/gt_NAME.TIF`, CSVs of names.

    Landsat 8 level 1 numbers: top-of-atmosphere reflectance = number × 2e-5 − 0.1, before the sun angle (USGS,
    Landsat 8 Data Users Handbook, section 5.2). Cloud is 255 in the masks. The CSV of non-empty patches, in the folder
    or beside it, drops the others (more than 80 % without data); it may name patches that lie elsewhere, as 95-Cloud's
    does. Without it the patches without any data are dropped.
    """
    files = {band: _files_of(folder, band) for band in (*BANDS, "gt")}
    if not files["nir"]:  # networks of three bands need none
        del files["nir"]
    names = sorted(set().union(*files.values()))
    kept = _nonempty(folder)
    patches = []
    for name in names:
        if kept and name not in kept:
            continue
        for band, there in files.items():
            if name not in there:
                path = folder / f"train_{band}" / f"{band}_{name}.TIF"
                raise ContractError(f"{path}: there is no such file", hint="is the data set complete?")
        layers = tuple(Layer(files[band][name], 1, 2e-5, -0.1) for band in BANDS if band in files)
        scene = re.sub(r"^patch_\d+_\d+_by_\d+_", "", name)
        patches.append(Patch(name, scene, "38-cloud", layers, files["gt"][name], cloud=255, resolution=30, level="l1c"))
    found = Found(tuple(patches), 0) if kept else _drop_empty(patches)
    return Found(found.patches, len(names) - len(found.patches))


def _files_of(folder: Path, band: str) -> dict[str, Path]:
    """Name of the patch → file of one band; the folders of 95-Cloud end in `_additional_to38cloud`."""
    files = [path for sub in sorted(folder.glob(f"train_{band}*")) if sub.is_dir() for path in sorted(sub.iterdir())]
    files = [path for path in files if path.suffix.lower() == ".tif" and not path.name.startswith(".")]
    return {path.stem.removeprefix(f"{band}_"): path for path in files}


def _nonempty(folder: Path) -> set[str]:
    """Names in the lists of non-empty patches, which Kaggle keeps beside the folder."""
    names: set[str] = set()
    for path in (*folder.glob("training_patches*nonempty.csv"), *folder.parent.glob("training_patches*nonempty.csv")):
        with path.open(newline="") as lines:
            names |= {row[0] for row in csv.reader(lines) if row and row[0].startswith("patch_")}
    return names


def find_on_cloud_n(folder: Path) -> Found:
    """On Cloud N as distributed: `train_features/CHIP/B02.tif` … and `train_labels/CHIP.tif` (Sentinel-2 L2A).

    Chips of one place and time are one scene when `train_metadata.csv` tells (`location`, `datetime`).
    """
    scenes: dict[str, str] = {}
    metadata = folder / "train_metadata.csv"
    if metadata.exists():
        with metadata.open(newline="") as lines:
            scenes = {row["chip_id"]: f"{row['location']} {row['datetime']}" for row in csv.DictReader(lines)}
    patches = []
    features = folder / "train_features"
    for chip in sorted(path for path in features.iterdir() if path.is_dir() and not path.name.startswith(".")):
        layers = tuple(Layer(chip / f"{key}.tif", 1, 1e-4) for key in ("B04", "B03", "B02", "B08"))
        label = folder / "train_labels" / f"{chip.name}.tif"
        for path in (*(layer.path for layer in layers), label):
            if not path.exists():
                raise ContractError(f"{path}: there is no such file", hint="is the data set complete?")
        patches.append(Patch(chip.name, scenes.get(chip.name, chip.name), "on-cloud-n", layers, label))
    return _drop_empty(patches)


def find_stac(folder: Path) -> Found:
    """A STAC item collection `items.json` with assets red, green, blue, nir and, for some, `label`."""
    path = folder / "items.json"
    at = str(path)
    try:
        items = json.loads(path.read_text())["features"]
        patches = []
        for item in items:
            at = f"{path}: item {item['id']}"
            patches.append(_stac_patch(folder, item))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ContractError(
            f"{at}: {error!r}",
            hint='assets red, green, blue and nir each need an href and "raster:bands": [{"scale": …, "offset": …}]',
        ) from None
    return _drop_empty(patches)


def _stac_patch(folder: Path, item: dict[str, dict[str, dict[str, object]]]) -> Patch:
    layers = []
    for band in BANDS:
        asset: dict[str, object] = item["assets"][band]
        raster = asset["raster:bands"][0]  # type: ignore[index]
        scale, offset = float(raster["scale"]), float(raster.get("offset", 0))
        layers.append(Layer(folder / str(asset["href"]), 1, scale, offset))
    label = folder / str(item["assets"]["label"]["href"]) if "label" in item["assets"] else None
    scl = folder / str(item["assets"]["scl"]["href"]) if "scl" in item["assets"] else None
    name = str(item["id"])
    return Patch(name, name, _source(name), tuple(layers), label, scl)


def _source(name: str) -> str:
    """Ours hold patches of several data sets, named first."""
    return name.split("-", maxsplit=1)[0]


def find_chips(folder: Path) -> Found:
    """Chips `NAME.tif` (red, green, blue, near infrared; reflectance = number × 0.0016) and `NAME_label.tif`.

    A file's own scale and offset go before that number, floats are reflectance, and its own pixel size is believed.
    """
    return _drop_empty(list(_chips(folder, 0.0016, labelled=True)))


def find_surfaces(folder: Path) -> Found:
    """Chips without labels (reflectance = number × 0.0032), known to be clear unless the name begins `cloudy-`."""
    return _drop_empty(list(_chips(folder, 0.0032, labelled=False)))


def find_swir(folder: Path) -> Found:
    """Chips of five or six bands (`ALL_BANDS`; reflectance = number × 0.0016), some with `NAME_label.tif`.

    Those whose name begins as one of `CLEAR_NAMES` are known to be clear.
    """
    patches = []
    for path in _images(folder):
        layers, _ = _layers(path, len(ALL_BANDS), 0.0016)
        label = path.with_name(f"{path.stem}_label.tif")
        patches.append(
            Patch(
                path.stem,
                re.sub(r"_r\d+_c\d+$|_c\d+$", "", path.stem),
                _source(path.stem),
                layers,
                label if label.exists() else None,
                clear=path.stem.startswith(CLEAR_NAMES),
                level="l1c" if any(word in path.stem for word in L1C_NAMES) else "l2a",
            )
        )
    return _drop_empty(patches)


CLEAR_NAMES = ("clear-", "hls-", "california-")
L1C_NAMES = ("33UUU", "coast", "ukis-csmask")
"""In `swir`, whose other chips are surface reflectance."""


def _chips(folder: Path, scale: float, *, labelled: bool) -> Iterator[Patch]:
    for path in _images(folder):
        label = path.with_name(f"{path.stem}_label.tif")
        scene = re.sub(r"_r\d+_c\d+$", "", path.stem)  # windows of one scene
        layers, resolution = _layers(path, len(BANDS), scale)
        clear = not labelled and not path.stem.startswith("cloudy-")
        if labelled and not label.exists():
            raise ContractError(f"{label}: there is no such file", hint="is the data set complete?")
        file = label if labelled else None
        yield Patch(path.stem, scene, _source(path.stem), layers, file, clear=clear, resolution=resolution)


def _images(folder: Path) -> list[Path]:
    """The images among `NAME.tif` and `NAME_label.tif`.

    Raises:
        ContractError: a label has no image, for that is called .TIF or .tiff, say.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.tif")) if not path.name.startswith(".")}
    for name, path in files.items():
        if name.endswith("_label") and name.removesuffix("_label") not in files:
            raise ContractError(
                f"{path} has no image {name.removesuffix('_label')}.tif", hint="chips are NAME.tif and NAME_label.tif"
            )
    return [path for name, path in files.items() if not name.endswith("_label")]


def _layers(path: Path, most: int, scale: float) -> tuple[tuple[Layer, ...], float]:
    """The bands of a chip, and the side of its pixels in metres: 10 where it has no place on a projection.

    Raises:
        ContractError: it cannot be read, or says itself that its bands are others, or in another order.
    """
    with opened(path) as raster:
        for band, colour, words in zip(BANDS, raster.colorinterp, raster.descriptions, strict=False):
            told = {WORDS[word] for word in re.split(r"\W+", f"{colour.name} {words}".lower()) if word in WORDS}
            if told - {band}:
                raise ContractError(
                    f"{path} says that its band {BANDS.index(band) + 1} is {min(told - {band})}; expected {band}",
                    hint="chips hold red, green, blue, near infrared, in this order",
                )
        count = min(raster.count, most) if raster.count >= 3 else len(BANDS)  # which are missing, `Patch.read` says
        unsaid = (scale if "int" in raster.dtypes[0] else 1.0), 0.0  # floats are reflectance
        own = [*zip(raster.scales, raster.offsets, strict=True), *[(1.0, 0.0)] * count][:count]
        place = raster.crs is not None and raster.crs.is_projected
        resolution = abs(raster.transform.a) * raster.crs.linear_units_factor[1] if place else 10
    scalings = [unsaid if each == (1, 0) else each for each in own]
    return tuple(Layer(path, index + 1, *each) for index, each in enumerate(scalings)), resolution


WORDS = {name: name for name in BANDS} | {"b04": "red", "b03": "green", "b02": "blue", "b08": "nir"}
"""For bands, in the descriptions of chips."""


def _drop_empty(patches: list[Patch]) -> Found:
    kept = tuple(patch for patch in patches if _holds_data(patch.layers[0]))
    return Found(kept, len(patches) - len(kept))


def _holds_data(layer: Layer) -> bool:
    try:
        return bool(read_layer(layer.path, layer.index).any())
    except ContractError:  # said where patches are read, of all that have faults at once
        return True


LAYOUTS = (
    (lambda folder: any(folder.glob("train_red*")), find_38_cloud),
    (lambda folder: (folder / "train_features").is_dir(), find_on_cloud_n),
    (lambda folder: (folder / "items.json").is_file(), find_stac),
    (lambda folder: folder.name == "swir", find_swir),
    (lambda folder: folder.name != "swir" and any(folder.glob("*_label.tif")), find_chips),
    (lambda folder: folder.name == "surfaces", find_surfaces),
)
