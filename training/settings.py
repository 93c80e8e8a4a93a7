"""An experiment's settings: one small TOML file, checked when read."""

import tomllib
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from cloudjob.errors import UsageError
from training.data import BANDS
from training.sample import Mix

EXPERIMENTS = Path(__file__).parent / "experiments"


@dataclass(frozen=True)
class Network:
    """`SimpleUNet` arguments, and how many of red, green, blue, near infrared it sees.

    Attributes:
        bands: 3 or 4.
        widths: see `SimpleUNet`.
        stem: see `SimpleUNet`.
        dilation: see `SimpleUNet`.
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
    mean: tuple[float, ...] = (0.25, 0.25, 0.25, 0.35)
    std: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)
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
        validation_patches: of these scenes, at most so many, drawn by the seed.
        ignored: patches (by name, not by scene) that are left out, for nobody can tell what they show.
        teacher: scenes whose target is what `ukis-csmask` thinks of them (a probability), not their label.
        confirmed: scenes whose label is by an algorithm; cloud counts only where `ukis-csmask` agrees, and what has
            no label is clear where it is sure of that.
        anew: scenes of which every crop is put to `ukis-csmask`, instead of once as a whole; half of
            them mixed with another crop of these scenes, among which clear ones may be.
        simulated: grounds and skies to simulate.
        widened: pixels by which the clouds of labels and of the teacher are widened: people differ in how far outside
            a cloud they draw its edge, and who uses a mask would rather lose a clear pixel than keep a hazy one.
    """

    patches: int = 0
    held_out: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    validation_share: float = 0.0
    validation_patches: int = 100
    ignored: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    confirmed: tuple[str, ...] = ()
    anew: tuple[str, ...] = ()
    simulated: int = 400
    widened: int = 0


@dataclass(frozen=True)
class Training:
    """The loop.

    Attributes:
        epochs: passes.
        samples: crops of an epoch, each a new one; 0 shows each of the `patches` once.
        batch: crops of a step.
        crop: side of a crop in pixels.
        rate: peak learning rate of AdamW, reached after a warm-up and lowered along half a cosine.
        decay: weight decay.
        average: decay per step of the running average of the weights, which is what is kept; 0 for none.
        keep: the epoch whose checkpoint is kept: the "best" on the validation scenes, or the "last".
        augment: zoom, turn and change the radiometry of crops.
        seed: of everything that is random.
    """

    epochs: int = 10
    samples: int = 0
    batch: int = 8
    crop: int = 256
    rate: float = 1e-3
    decay: float = 1e-2
    average: float = 0.0
    keep: str = "best"
    augment: bool = True
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
    """

    name: str
    version: str = "1"
    network: Network = field(default_factory=Network)
    data: Data = field(default_factory=Data)
    mix: Mix = field(default_factory=Mix)
    training: Training = field(default_factory=Training)
    training_data: tuple[str, ...] = ()


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
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    settings: Settings = _build(Settings, {"name": path.stem, **table}, str(path))
    if settings.network.bands not in (3, 4):
        raise UsageError(f"{path}: network.bands is {settings.network.bands}; expected 3 or 4 of {', '.join(BANDS)}")
    if settings.training.keep not in ("best", "last"):
        raise UsageError(f"{path}: training.keep is {settings.training.keep!r}; expected best or last")
    return settings


def _build(kind: Any, table: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    values = {}
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"{where}: {key!r} is not a setting", hint=f"known are {', '.join(known)}")
        if is_dataclass(hints[key]) and isinstance(value, dict):
            values[key] = _build(hints[key], value, f"{where}: {key}")
        elif isinstance(value, list):
            values[key] = tuple(value)
        elif type(value) is hints[key] or (hints[key] is float and type(value) is int):
            values[key] = value
        else:
            raise UsageError(f"{where}: {key} is {value!r}; expected {getattr(hints[key], '__name__', hints[key])}")
    return kind(**values)
