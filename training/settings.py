"""An experiment's settings: one small TOML file, checked when read."""

import math
import tomllib
from dataclasses import astuple, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import numpy.typing as npt

from cloudjob.errors import UsageError
from cloudjob.model.contract import Contract
from training.patch import ALL_BANDS, BANDS

EXPERIMENTS = Path(__file__).parent / "experiments"
ABSENT = -0.25
"""Reflectance that stands for an absent band: no band has it."""


BOUNDS = {
    "data.patches": (0, math.inf),
    "data.validation_share": (0, 0.9),
    "data.blends": (0, math.inf),
    "data.simulated": (0, math.inf),
    "data.widened": (0, 100),
    "training.epochs": (1, math.inf),
    "training.until": (0, math.inf),
    "training.samples": (0, math.inf),
    "training.batch": (1, math.inf),
    "training.crop": (1, math.inf),
    "training.rate": (0, 10),
    "training.decay": (0, 10),
    "training.average": (0, 0.99999),
    "training.seed": (0, math.inf),
}
"""Least and largest of numbers; what the network may be, its contract checks."""


@dataclass(frozen=True)
class Network:
    """`SimpleUNet` arguments, and how many of red, green, blue, near infrared and `swir16` it sees.

    Attributes:
        bands: 3 or 4; with 5, `swir16` is optional.
        widths: see `SimpleUNet`.
        stem: see `SimpleUNet`.
        dilation: see `SimpleUNet`.
        smooth: see `SimpleUNet`.
        outside: what it sees outside of an image: "mirror", or "zero".
        mean: subtracted from the reflectance, per band.
        std: divides what is left, per band.
        resolution: of a pixel in metres, for the contract; 0 is what most of the labelled patches have.
        resolutions: other pixel sizes in metres at which its masks were measured, for the contract.
        tile: side of the tiles of large scenes, for the contract.
        halo: pixels of context beyond a tile, for the contract.
    """

    bands: int = 4
    widths: tuple[int, ...] = (64, 128, 256)
    stem: int = 1
    dilation: int = 1
    smooth: bool = False
    outside: str = "zero"
    mean: tuple[float, ...] = (0.25, 0.25, 0.25, 0.35, 0.25)
    std: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25, 0.25)
    resolution: float = 0
    resolutions: tuple[float, ...] = ()
    tile: int = 1024
    halo: int = 24


@dataclass(frozen=True)
class Data:
    """Which patches are used for what; patterns are of scenes' names, as in a shell.

    Attributes:
        patches: how many labelled patches to train on, drawn by the seed; 0 is all. Where there are fewer, as many
            different crops of them.
        held_out: scenes that are never touched by training.
        validation: scenes of the training side that choose the best epoch, threshold and buffer.
        validation_share: share of the other scenes that join them, drawn by the seed; at least one.
        ignored: patches (by name, not by scene) that are left out, for nobody can tell what they show.
        teacher: scenes whose target is what `ukis-csmask` thinks of them (a probability), not their label.
        confirmed: scenes whose label is by an algorithm; cloud counts only where `ukis-csmask` agrees, and what has
            no label is clear where it is sure of that.
        agreeing: scenes whose label is by an algorithm; they count where `ukis-csmask` agrees, with its probability.
        blended: scenes of which crops are seen through each other, two by two, and put to `ukis-csmask`; clear ones may
            be among them.
        blends: of these, how many are made.
        clear: scenes known to be without any cloud, beside those whose data set says so.
        frozen: scenes of snow and ice without `swir16`, which is made up for them: dark where they are white.
        simulated: grounds and skies to simulate.
        widened: pixels by which the clouds of labels and of the teacher are widened: people differ in how far outside
            a cloud they draw its edge, and who uses a mask would rather lose a clear pixel than keep a hazy one.
    """

    patches: int = 0
    held_out: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    validation_share: float = 0.0
    ignored: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    confirmed: tuple[str, ...] = ()
    agreeing: tuple[str, ...] = ()
    blended: tuple[str, ...] = ()
    blends: int = 240
    clear: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    simulated: int = 400
    widened: int = 0

    @property
    def taught(self) -> tuple[str, ...]:
        """Scenes whose target is not their label alone."""
        return (*self.teacher, *self.agreeing, *self.confirmed)


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of sample; they are divided by their sum.

    Attributes:
        labelled: crops of labelled patches.
        clear: crops of known clear patches, among them snow, ice and sand; some of simulated ground.
        pasted: clouds of a labelled patch on clear ground.
        clouded: simulated clouds on clear or labelled ground.
        simulated: simulated clouds on simulated ground.
    """

    labelled: float = 1.0
    clear: float = 0.0
    pasted: float = 0.0
    clouded: float = 0.0
    simulated: float = 0.0

    def shares(self) -> npt.NDArray[np.float64]:
        """The shares in the order of the attributes; their sum is 1."""
        shares = np.array([self.labelled, self.clear, self.pasted, self.clouded, self.simulated], np.float64)
        return np.asarray(shares / shares.sum())


@dataclass(frozen=True)
class Training:
    """The loop.

    Attributes:
        epochs: passes for which the learning rate is planned.
        until: passes after which training ends all the same; 0 is all of them.
        samples: crops of an epoch, each a new one; 0 shows each of the `patches` once.
        batch: crops of a step.
        crop: side of a crop in pixels.
        rate: peak learning rate of AdamW, reached after a warm-up and lowered along half a cosine.
        decay: weight decay.
        average: decay per step of the running average of the weights, which is what is kept; 0 for none.
        keep: the epoch whose checkpoint is kept: the "best" on the validation scenes, or the "last".
        seed: of everything that is random.
    """

    epochs: int = 10
    until: int = 0
    samples: int = 0
    batch: int = 8
    crop: int = 256
    rate: float = 1e-3
    decay: float = 1e-2
    average: float = 0.0
    keep: str = "best"
    seed: int = 0


@dataclass(frozen=True)
class Settings:
    """An experiment.

    Attributes:
        name: of the model.
        version: of the model.
        network: what is trained.
        data: on what.
        mix: shares of real and simulated samples.
        training: how.
        training_data: what it was trained on, one line per source, for the contract; told by the patches unless given.
        before: stages trained before this one, each from the weights of the one before it. In the file each is a table
            `[[before]]` of what it does otherwise than the last.
    """

    name: str
    version: str = "1"
    network: Network = field(default_factory=Network)
    data: Data = field(default_factory=Data)
    mix: Mix = field(default_factory=Mix)
    training: Training = field(default_factory=Training)
    training_data: tuple[str, ...] = ()
    before: tuple["Settings", ...] = ()


def read(name: Path | str) -> Settings:
    """The settings in a TOML file, or in that of this name in `EXPERIMENTS`.

    Raises:
        UsageError: there is no such file, it is no TOML, or a name or a type in it is not known.
    """
    path = Path(name) if str(name).endswith(".toml") else EXPERIMENTS / f"{name}.toml"
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="settings lie in training/experiments/") from None
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    before = table.pop("before", [])
    if not isinstance(before, list) or not all(isinstance(stage, dict) for stage in before):
        raise UsageError(f"{path}: before is {before!r}; expected a table [[before]] for each stage")
    last = _checked({"name": path.stem, **table}, str(path))
    stages = [_checked(_merged({"name": path.stem, **table}, stage), f"{path}: before") for stage in before]
    return replace(last, before=tuple(stages))


def _merged(table: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The table with what the other says otherwise, key by key."""
    both = {key: {**table[key], **value} for key, value in other.items() if isinstance(table.get(key), dict)}
    return {**table, **other, **both}


def _checked(table: dict[str, Any], path: str) -> Settings:
    settings: Settings = _build(Settings, table, path)
    if settings.network.bands not in (3, 4, 5):
        raise UsageError(
            f"{path}: network.bands is {settings.network.bands}; expected 3, 4 or 5 of {', '.join(ALL_BANDS[:5])}"
        )
    if settings.network.outside not in ("zero", "mirror"):
        raise UsageError(f"{path}: network.outside is {settings.network.outside!r}; expected zero or mirror")
    for name, (least, most) in BOUNDS.items():
        part, key = name.split(".")
        value = getattr(getattr(settings, part), key)
        if not least <= value <= most:
            expected = f"{least:g} or more" if most == math.inf else f"{least:g} to {most:g}"
            raise UsageError(f"{path}: {name} is {value}; expected {expected}")
    mix = settings.mix
    if min(astuple(mix)) < 0 or not 0 < sum(astuple(mix)) < math.inf:
        raise UsageError(f"{path}: mix is {mix}; expected shares of 0 or more, one of them above 0")
    if (mix.clouded or mix.simulated) and not settings.data.simulated:
        raise UsageError(f"{path}: data.simulated is 0; expected 1 or more, for the mix shows what is simulated")
    if settings.training.keep not in ("best", "last"):
        raise UsageError(f"{path}: training.keep is {settings.training.keep!r}; expected best or last")
    return settings


def changed(settings: Settings, *, patches: int | None = None, **training: Any) -> Settings:
    """The settings, of every stage, with what the command line says otherwise; None leaves a setting.

    Args:
        settings: as they were read.
        patches: of `Data`.
        training: of `Training`, by name; with `epochs` no `until` cuts them short.
    """
    before = tuple(changed(stage, patches=patches, **training) for stage in settings.before)
    told = {name: value for name, value in training.items() if value is not None}
    if "epochs" in told:
        told["until"] = 0
    data = settings.data if patches is None else replace(settings.data, patches=patches)
    return replace(settings, training=replace(settings.training, **told), data=data, before=before)


def contract(settings: Settings) -> Contract:
    """What the checkpoint will promise; `prepare.described` fills in what the settings leave to the patches."""
    network = settings.network
    return Contract(
        name=settings.name,
        version=settings.version,
        bands=ALL_BANDS[: network.bands],
        optional_bands=ALL_BANDS[len(BANDS) : network.bands],
        absent_fill=ABSENT if network.bands > len(BANDS) else 0.0,
        outside_fill="mirror" if network.outside == "mirror" else 0.0,
        mean=network.mean[: network.bands],
        std=network.std[: network.bands],
        widths=network.widths,
        stem=network.stem,
        dilation=network.dilation,
        smooth=network.smooth,
        resolution=network.resolution or 10,
        resolutions=network.resolutions,
        tile=network.tile,
        halo=network.halo,
        training_data=settings.training_data,
    )


def _build(kind: Any, table: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    values = {}
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"{where}: {key!r} is not a setting", hint=f"known are {', '.join(known)}")
        if is_dataclass(hints[key]) and isinstance(value, dict):
            values[key] = _build(hints[key], value, f"{where}: {key}")
        elif _fits(value, hints[key]):
            values[key] = tuple(value) if isinstance(value, list) else value
        else:
            expected = hints[key] if get_args(hints[key]) else hints[key].__name__
            raise UsageError(f"{where}: {key} is {value!r}; expected {expected}")
    return kind(**values)


def _fits(value: Any, kind: Any) -> bool:
    if get_args(kind):
        return isinstance(value, list) and all(_fits(each, get_args(kind)[0]) for each in value)
    return type(value) is kind or (kind is float and type(value) is int)
