"""A checkpoint is a contract: weights in safetensors, and beside them what they may be used on.

The file's header carries, under the key `mlm`, a STAC item with the Machine Learning Model extension
(https://github.com/stac-extensions/mlm, v1.4.0). Nothing is ever unpickled.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from cloudjob.errors import ContractError
from cloudjob.grid import Tiling
from cloudjob.unet import SimpleUNet

MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
HINT = "make one with `python -m training`, or leave --checkpoint out to use the one that ships"


SMALL_TILE = 1024
"""Tiles of this side or less are not cut smaller: the halo would cost more than the tile."""


@dataclass(frozen=True)
class Contract:
    """What a network was made for; it holds for training and for every job.

    Attributes:
        name: of the model.
        version: of the model.
        bands: common names of the input bands, in the network's order.
        mean: per band, subtracted from the reflectance (0 to 1 and above).
        std: per band, divides what is left; the network sees (reflectance − mean) / std.
        optional_bands: those of `bands` that a scene may lack; the network was trained with and without them. Where
            there are data is decided by the others.
        absent_fill: reflectance the network sees in place of an optional band where it is absent; such as no band has.
        resolution: pixel size in metres the network was made for.
        tile: side in pixels of the tiles a large scene is cut into; see `tiling`.
        halo: pixels of context read beyond each side of a tile, before rounding to the network's stride.
        outside_fill: what the network sees outside the scene and where there are no data: a reflectance, or "mirror"
            for the mirror image of what lies inside (`cloudjob.predict.mirror`).
        brightest: reflectance above this is taken for this, in training too: no ground or cloud is as bright (glint is,
            and broken numbers are).
        threshold: probability from which a pixel is cloud, above 0 and below 1.
        buffer: metres by which clouds are widened unless the user says otherwise.
        widths: `SimpleUNet` argument.
        stem: `SimpleUNet` argument.
        dilation: `SimpleUNet` argument.
        smooth: `SimpleUNet` argument.
        training_data: what it was trained on, one line per source.
        metrics: measured on data it did not see: name → number.
    """

    name: str
    version: str
    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    optional_bands: tuple[str, ...] = ()
    absent_fill: float = 0.0
    resolution: float = 10.0
    tile: int = 1024
    halo: int = 24
    outside_fill: float | str = 0.0
    brightest: float = 2.0
    threshold: float = 0.5
    buffer: float = 0.0
    widths: tuple[int, ...] = (64, 128, 256)
    stem: int = 1
    dilation: int = 1
    smooth: bool = False
    training_data: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.bands) == len(self.mean) == len(self.std) > 0:
            raise ContractError(f"the checkpoint has {len(self.bands)} bands but {len(self.mean)} means")
        if not all(value > 0 for value in self.std):
            raise ContractError(f"the checkpoint's value scaling divides by {self.std}; expected numbers above 0")
        if unknown := set(self.optional_bands) - set(self.bands):
            raise ContractError(f"the checkpoint's optional band {min(unknown)!r} is none of its bands {self.bands}")
        if not self.required_bands:
            raise ContractError(f"all bands of the checkpoint are optional: {self.bands}; expected one that is not")
        if isinstance(self.outside_fill, str) and self.outside_fill != "mirror":
            raise ContractError(f"the checkpoint's outside_fill is {self.outside_fill!r}; expected a number or mirror")
        if not self.brightest > 0:
            raise ContractError(f"the checkpoint's brightest reflectance is {self.brightest}; expected above 0")
        if not 0 < self.threshold < 1:
            raise ContractError(f"the checkpoint's threshold is {self.threshold}; expected above 0 and below 1")
        if self.stem < 1 or self.tile < 1 or self.tile % self.stride or self.halo < 0:
            raise ContractError(
                f"the checkpoint's tile {self.tile} and halo {self.halo} do not fit the network's stride {self.stride}"
            )

    @property
    def required_bands(self) -> tuple[str, ...]:
        """The bands that every scene must have, in the network's order."""
        return tuple(band for band in self.bands if band not in self.optional_bands)

    @property
    def stride(self) -> int:
        """Windows must begin and have sides at multiples of this many pixels."""
        return int(self.stem * 2 ** (len(self.widths) - 1))

    def padding(self, buffer_pixels: float = 0) -> int:
        """Pixels to read beyond each side of a tile: halo and buffer, rounded up to the stride."""
        return math.ceil((self.halo + buffer_pixels) / self.stride) * self.stride

    def tiling(self, height: int, width: int, buffer_pixels: float = 0) -> Tiling:
        """How a scene of this size is cut: a pure function of it, of this contract and of the buffer.

        Large tiles have less halo for their size. A scene of fewer than three of them across is cut into smaller ones,
        for several workers to share it and for a small bbox not to ask for all of it.
        """
        side = self.tile
        while side > SMALL_TILE and min(height, width) <= 2 * side and side // 2 % self.stride == 0:
            side //= 2
        return Tiling(height, width, side, self.padding(buffer_pixels), self.stride)

    def network(self) -> SimpleUNet:
        """The untrained network."""
        return SimpleUNet(len(self.bands), self.widths, self.stem, self.dilation, self.smooth)


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights, its contract and the file's SHA-256 (hexadecimal)."""

    contract: Contract
    network: SimpleUNet
    sha256: str


def save(network: SimpleUNet, contract: Contract, path: str | Path) -> None:
    """Write a checkpoint; the same weights and contract give the same bytes."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    header = {"mlm": json.dumps(to_mlm(contract), sort_keys=True)}
    Path(path).write_bytes(safetensors.torch.save(state, metadata=header))


def load(path: str | Path | None = None) -> Checkpoint:
    """Read a checkpoint and check it against its contract.

    Args:
        path: the file, or None for the one in the package.

    Raises:
        ContractError: there is no such file, it is no safetensors file (a pickle, say), it is truncated, has no
            MLM record, or its weights do not fit the architecture it names.
    """
    path = Path(path) if path is not None else shipped()
    return parse(read_file(path), str(path))


def read_file(path: Path) -> bytes:
    """The bytes of a checkpoint's file; `parse` checks them.

    Raises:
        ContractError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ContractError(f"checkpoint {path}: {error.strerror}", hint=HINT) from None


def parse(data: bytes, path: str) -> Checkpoint:
    """Like `load`, from the bytes of a file whose name is `path`."""
    try:
        header = _header(data)
        state = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError) as error:
        kind = " (it looks like a pickle, which is never opened)" if data[:2] in (b"PK", b"\x80\x02") else ""
        raise ContractError(f"checkpoint {path} is not a whole .safetensors file{kind}: {error}", hint=HINT) from None
    if "mlm" not in header:
        raise ContractError(f"checkpoint {path} has no MLM record in its header", hint=HINT)
    try:
        contract = from_mlm(json.loads(header["mlm"]))
        network = contract.network()
    except ContractError as error:
        raise ContractError(f"checkpoint {path}: {error}", hint=HINT) from None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ContractError(f"checkpoint {path}: its MLM record cannot be read: {error!r}", hint=HINT) from None
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ContractError(
            f"checkpoint {path}: its weights are not those of SimpleUNet({len(contract.bands)}, "
            f"widths={contract.widths}, stem={contract.stem}): {first}",
            hint=HINT,
        ) from None
    if not all(torch.isfinite(tensor).all() for tensor in network.state_dict().values()):
        raise ContractError(f"checkpoint {path} has weights that are not finite numbers", hint=HINT)
    return Checkpoint(contract, network.eval(), hashlib.sha256(data).hexdigest())


def shipped() -> Path:
    """The checkpoint in the package."""
    return Path(str(resources.files("cloudjob") / "checkpoints" / "cloudjob-s2.safetensors"))


def _header(data: bytes) -> dict[str, str]:
    """The `__metadata__` of a safetensors file: https://huggingface.co/docs/safetensors (format)."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise ValueError("its header is cut off")
    metadata: dict[str, str] = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    return metadata


def to_mlm(contract: Contract) -> dict[str, Any]:
    """The contract as a STAC item with the MLM extension."""
    bands = len(contract.bands)
    side = contract.tile + 2 * contract.padding()
    scaling = [
        {"type": "z-score", "mean": mean, "stddev": std} for mean, std in zip(contract.mean, contract.std, strict=True)
    ]
    classes = [{"value": 0, "name": "clear"}, {"value": 1, "name": "cloud"}]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM, CLASSIFICATION],
        "id": f"{contract.name}-{contract.version}",
        "geometry": {"type": "Polygon", "coordinates": [[[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]]},
        "bbox": [-180, -90, 180, 90],
        "properties": {
            "datetime": None,
            "start_datetime": "2015-06-23T00:00:00Z",  # launch of Sentinel-2A
            "end_datetime": "9999-12-31T23:59:59Z",
            "mlm:name": contract.name,
            "version": contract.version,
            "mlm:architecture": "SimpleUNet",
            "mlm:tasks": ["semantic-segmentation"],
            "mlm:framework": "pytorch",
            "mlm:framework_version": torch.__version__.split("+")[0],
            "mlm:pretrained": True,
            "mlm:total_parameters": sum(p.numel() for p in contract.network().parameters()),
            "mlm:input": [
                {
                    "name": "surface or top-of-atmosphere reflectance",
                    "bands": [{"name": band} for band in contract.bands],
                    "input": {
                        "shape": [-1, bands, side, side],
                        "dim_order": ["batch", "channel", "height", "width"],
                        "data_type": "float32",
                    },
                    "value_scaling": scaling,
                    "resize_type": None,
                    "pre_processing_function": None,
                }
            ],
            "mlm:output": [
                {
                    "name": "cloud logit",
                    "tasks": ["semantic-segmentation"],
                    "result": {
                        "shape": [-1, 1, side, side],
                        "dim_order": ["batch", "channel", "height", "width"],
                        "data_type": "float32",
                    },
                    "classification:classes": classes,
                    "post_processing_function": None,
                }
            ],
            "mlm:hyperparameters": {
                "in_channels": bands,
                "widths": list(contract.widths),
                "stem": contract.stem,
                "dilation": contract.dilation,
                "smooth": contract.smooth,
            },
            "cloudjob:contract": {
                key: value
                for key, value in asdict(contract).items()
                if key not in ("name", "version", "bands", "mean", "std", "widths", "stem", "dilation", "smooth")
            },
        },
        "links": [],
        "assets": {},
    }


def from_mlm(item: dict[str, Any]) -> Contract:
    """The contract of a STAC item made by `to_mlm`.

    Raises:
        ContractError: another architecture or value scaling than this version knows.
        KeyError, TypeError, ValueError: the record is incomplete.
    """
    properties = item["properties"]
    if properties["mlm:architecture"] != "SimpleUNet":
        raise ContractError(f"its architecture is {properties['mlm:architecture']!r}; expected 'SimpleUNet'")
    (inputs,) = properties["mlm:input"]
    arguments = properties["mlm:hyperparameters"]
    for scaling in inputs["value_scaling"]:
        if scaling["type"] != "z-score":
            raise ContractError(f"its value scaling is {scaling['type']!r}; expected 'z-score'")
    rest = dict(properties["cloudjob:contract"])
    for key in ("training_data", "optional_bands"):
        rest[key] = tuple(rest.get(key, ()))
    contract = Contract(
        name=properties["mlm:name"],
        version=properties["version"],
        bands=tuple(band["name"] for band in inputs["bands"]),
        mean=tuple(scaling["mean"] for scaling in inputs["value_scaling"]),
        std=tuple(scaling["stddev"] for scaling in inputs["value_scaling"]),
        widths=tuple(arguments["widths"]),
        stem=arguments["stem"],
        dilation=arguments["dilation"],
        smooth=arguments.get("smooth", False),
        **rest,
    )
    if arguments["in_channels"] != len(contract.bands):
        raise ContractError(
            f"its network takes {arguments['in_channels']} bands but it names {len(contract.bands)}: {contract.bands}"
        )
    return contract
