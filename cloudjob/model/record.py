"""The record of a network in ONNX: a STAC item with the MLM extension, whose words come from closed lists.

What a record does not say, or says in words that are not known here, is refused: nothing is guessed, and nothing that
it holds is ever run. (https://github.com/stac-extensions/mlm, v1.4.0)
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cloudjob.classes import CLEAR, CLOUD, NAMES, THIN_CLOUD
from cloudjob.errors import ContractError
from cloudjob.model.bounds import MANY, short
from cloudjob.model.contract import Contract, Graph

BANDS = (
    *("coastal", "blue", "green", "red", "rededge071", "rededge075", "rededge078"),
    *("nir", "nir08", "nir09", "cirrus", "swir16", "swir22"),
)
"""Sentinel-2's bands B01 to B12 by their common names (https://github.com/stac-extensions/eo, v2.0.0)."""
_ESA = dict(zip([*(f"B{number}" for number in range(1, 9)), "B8A", "B9", "B10", "B11", "B12"], BANDS, strict=True))

SCALINGS = ("z-score", "z-score-per-tile", "scale", "offset", "min-max", "clip", "clip-min", "clip-max")
ACTIVATIONS = ("sigmoid", "softmax", "none")
REDUCTIONS = ("threshold", "argmax")
DIMENSIONS = ["batch", "channel", "height", "width"]

REQUIRED = ("resolution", "halo", "outside_fill", "activation", "reduction", "classes")
KNOWN = (*REQUIRED, "resolutions", "tile", "stride", "brightest", "threshold", "buffer", "training_data", "metrics")
"""Words of `cloudjob:contract`."""

UNLIMITED = 1e6
"""Of `brightest` and of limits: a reflectance that nothing has."""

LIMIT = 1e39
"""Of any number of a record: beyond float32, whose largest some write for no limit."""

MOST = 10
"""Of a mean, a deviation, a range or a limit of reflectance."""

LARGEST = 4096
"""Pixels of a tile's or window's side, at most: 64 MB per band."""


def from_record(item: Mapping[str, Any]) -> Contract:
    """The contract of a network in ONNX.

    Raises:
        ContractError: the record lacks something, or has a word or number that makes no sense; it names it.
    """
    told = _object(item, "properties")
    _one_of(told.get("mlm:framework"), ("ONNX",), "mlm:framework")
    taken, given = _one(told, "mlm:input"), _one(told, "mlm:output")
    own = _object(told, "cloudjob:contract")
    for name in own:
        _one_of(name, KNOWN, "cloudjob:contract's word")
    for name in REQUIRED:
        if name not in own:
            raise ContractError(f"its cloudjob:contract does not say {name}; it must say {', '.join(REQUIRED)}")
    bands = _bands(taken)
    window = _input(taken, len(bands))
    classes = _classes(own["classes"])
    _output(given, len(classes))
    reduction = _one_of(own["reduction"], REDUCTIONS, "reduction")
    if (reduction == "threshold") != (len(classes) == 1):
        raise ContractError(
            f"its reduction is {reduction!r} for {len(classes)} classes; expected threshold for one, argmax for more"
        )
    activation = _one_of(own["activation"], ACTIVATIONS, "activation")
    if activation == "softmax" and len(classes) == 1:
        raise ContractError("its activation is 'softmax' for one class, which is always 1; expected sigmoid or none")
    halo = _whole(own["halo"], "halo", 1 if window else 0, LARGEST)
    if window and window < 2 * halo + 2:
        raise ContractError(f"its inputs are {window} pixels wide, of which a halo of {halo} on each side leaves none")
    if not window and "stride" not in own:
        raise ContractError("it takes inputs of any size but does not say stride: what their sides are multiples of")
    if window and "stride" in own:
        raise ContractError(f"its inputs have one size, {window}, so it has no stride")
    stride = window - halo - 1 if window else _whole(own["stride"], "stride", 1, LARGEST)
    mean, std, clip, per_tile = _scaling(taken.get("value_scaling"), len(bands))
    return Contract(
        name=_text(told.get("mlm:name"), "mlm:name"),
        version=_text(told.get("version"), "version"),
        bands=bands,
        mean=mean,
        std=std,
        resolution=_number(own["resolution"], "resolution", above=0),
        resolutions=tuple(_number(value, "resolutions", above=0) for value in _list(own, "resolutions")),
        tile=_whole(own.get("tile", usual_tile(stride)), "tile", 1, LARGEST),
        halo=halo,
        outside_fill="mirror" if own["outside_fill"] == "mirror" else _number(own["outside_fill"], "outside_fill"),
        brightest=_number(own.get("brightest", UNLIMITED), "brightest", above=0),
        threshold=_number(own.get("threshold", 0.5), "threshold"),
        buffer=_number(own.get("buffer", 0.0), "buffer", above=-1e-9),
        graph=Graph(classes, activation, 1 if window else stride, window, clip, per_tile),
        training_data=tuple(_text(line, "training_data") for line in _list(own, "training_data")),
        metrics={
            _text(name, "metrics"): _number(value, f"metric {name}")
            for name, value in _object(own, "metrics", {}).items()
        },
    )


def usual_tile(stride: int) -> int:
    """Pixels of a tile's side where the record does not say: a multiple of the stride near 1024."""
    return max(1, round(1024 / stride)) * stride


Scaling = tuple[tuple[float, ...], tuple[float, ...], tuple[tuple[float, float], ...], bool]


def _scaling(value: Any, bands: int) -> Scaling:
    """MLM's `value_scaling` as mean and deviation per band, limits per band, and whether it is by the tile's own."""
    steps = [{"type": None}] if value is None else value
    if (
        not isinstance(steps, list)
        or len(steps) not in (1, bands)
        or not all(isinstance(one, Mapping) for one in steps)
    ):
        raise ContractError(f"its value_scaling must be null or a list of 1 or {bands} objects, one for each band")
    steps = steps * bands if len(steps) == 1 else steps
    kinds = [_kind(step) for step in steps]
    if "z-score-per-tile" in kinds:
        if set(kinds) != {"z-score-per-tile"}:
            raise ContractError("its value_scaling is z-score-per-tile for some bands only; expected for all or none")
        return (0.0,) * bands, (1.0,) * bands, (), True
    mean, std, clip = zip(*(_affine(kind, step) for kind, step in zip(kinds, steps, strict=True)), strict=True)
    if max(map(abs, mean)) > MOST or max(std) > MOST:  # The network would see one number, whatever lies on the ground
        raise ContractError(
            f"its value_scaling takes off {max(mean, key=abs):g} and divides by {max(std):g}; expected numbers of "
            "reflectance (about 0 to 1): means and deviations of numbers to 10,000 have to be divided by 10,000"
        )
    if strange := [limit for limits in clip for limit in limits if MOST < abs(limit) < UNLIMITED]:
        raise ContractError(
            f"its value_scaling clips at {strange[0]:g}; expected limits of reflectance (about 0 to 1): a network of "
            "numbers to 10,000 needs them scaled instead, by 0.0001"
        )
    unlimited = all(limits == (-math.inf, math.inf) for limits in clip)
    return mean, std, () if unlimited else clip, False


def _kind(step: Mapping[str, Any]) -> str | None:
    kind = step.get("type")
    if kind == "processing":
        expression = step.get("expression")
        if step.get("format") != "cloudjob" or expression != "z-score-per-tile":
            raise ContractError(
                f"its value_scaling runs {short(step.get('format'))} {short(expression)}, and no code of a record is "
                "ever run; expected format 'cloudjob' and expression 'z-score-per-tile'"
            )
        return "z-score-per-tile"
    return None if kind is None else _one_of(kind, SCALINGS, "value_scaling")


def _affine(kind: str | None, step: Mapping[str, Any]) -> tuple[float, float, tuple[float, float]]:
    """(subtracted, divided by, (lowest, highest)) of one band."""

    def number(name: str, **how: Any) -> float:
        return _number(step.get(name), f"value_scaling {kind}'s {name}", **how)

    low, high, without = -math.inf, math.inf, (-math.inf, math.inf)
    if kind == "z-score":
        return number("mean"), number("stddev", above=0), without
    if kind == "scale":
        return 0.0, number("value", above=0), without
    if kind == "offset":
        return number("value"), 1.0, without
    if kind == "min-max":
        low = number("minimum")
        return low, number("maximum", above=low) - low, without
    if kind in ("clip", "clip-min"):
        low = number("minimum")
    if kind in ("clip", "clip-max"):
        high = number("maximum", above=low)
    return 0.0, 1.0, (low, high)


def _bands(taken: Mapping[str, Any]) -> tuple[str, ...]:
    listed = taken.get("bands")
    if not isinstance(listed, list) or not listed:
        raise ContractError("its mlm:input names no bands; expected a list of common names, in the network's order")
    names = [band.get("name") if isinstance(band, Mapping) else band for band in listed]
    common = [_ESA.get(name.upper().replace("B0", "B")) or name.lower() for name in names if isinstance(name, str)]
    if len(common) == len(names) and common != names and set(common) <= {*BANDS}:  # Landsat has others of these names
        raise ContractError(
            f"its bands are {', '.join(map(str, names))}; expected common names, Sentinel-2's are {', '.join(common)}"
        )
    bands = tuple(_one_of(name, BANDS, "band") for name in names)
    if len(set(bands)) < len(bands):
        raise ContractError(f"its mlm:input names a band twice: {', '.join(bands)}")
    if any(isinstance(band, Mapping) and band.keys() & {"format", "expression"} for band in listed):
        raise ContractError("a band of its mlm:input is computed by an expression, and no code of a record is ever run")
    return bands


def _input(taken: Mapping[str, Any], bands: int) -> int:
    """Check the shape of what goes in; give the side of a window of one size, else 0."""
    for name in ("resize_type", "pre_processing_function"):
        _nothing(taken, name, "mlm:input")
    shape = _shape(_object(taken, "input"), "mlm:input", bands)
    if shape[2] != shape[3]:
        raise ContractError(f"its mlm:input has the shape {shape}; expected as many rows as columns")
    return 0 if shape[2] == -1 else _whole(shape[2], "mlm:input's side", 1, LARGEST)


def _output(given: Mapping[str, Any], classes: int) -> None:
    _nothing(given, "post_processing_function", "mlm:output")
    _shape(_object(given, "result"), "mlm:output", classes)
    listed = given.get("classification:classes")
    expected = max(2, classes)  # One output tells two classes
    if listed is not None and (not isinstance(listed, list) or len(listed) != expected):
        count = len(listed) if isinstance(listed, list) else short(listed)
        raise ContractError(f"its mlm:output has {count} classification:classes; cloudjob:contract expects {expected}")


def _shape(told: Mapping[str, Any], where: str, channels: int) -> Sequence[int]:
    order = told.get("dim_order")
    if order != DIMENSIONS:
        raise ContractError(f"its {where} has the dim_order {short(order)}; expected {', '.join(DIMENSIONS)}")
    _one_of(told.get("data_type"), ("float32",), f"{where}'s data_type")
    shape = told.get("shape")
    if not (isinstance(shape, list) and len(shape) == 4 and all(type(side) is int for side in shape)):
        raise ContractError(f"its {where} has the shape {short(shape)}; expected four whole numbers, -1 for any")
    if shape[1] != channels:
        what = "bands are named" if where == "mlm:input" else "classes are named"
        raise ContractError(f"its {where} has {shape[1]} channels but {channels} {what}")
    if shape[0] not in (-1, 1):
        raise ContractError(f"its {where} has batches of {shape[0]}; expected -1 for any, or 1")
    return shape


def _classes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MANY:
        known = ", ".join(NAMES)
        raise ContractError(f"its classes are {short(value)}; expected one of {known} for each of 1 to {MANY} outputs")
    classes = tuple(NAMES[_one_of(name, tuple(NAMES), "class")] for name in value)
    if len(classes) == 1 and classes != (CLOUD,):
        raise ContractError(f"its one class is {value[0]!r}; expected cloud")
    if len(classes) > 1 and not (CLEAR in classes and {CLOUD, THIN_CLOUD} & {*classes}):
        raise ContractError(f"its classes are {', '.join(value)}; expected clear and a kind of cloud among them")
    return classes


def _one(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = told.get(name)
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], Mapping):
        count = len(value) if isinstance(value, list) else "no"
        raise ContractError(f"it has {count} {name}; expected a list of one object")
    return value[0]


def _list(told: Mapping[str, Any], name: str) -> list[Any]:
    value = told.get(name, [])
    if not isinstance(value, list):
        raise ContractError(f"its {name} is {short(value)}; expected a list")
    return value


def _object(told: Mapping[str, Any], name: str, default: Any = None) -> Mapping[str, Any]:
    value = told.get(name, default) if isinstance(told, Mapping) else None
    if not isinstance(value, Mapping):
        raise ContractError(f"it has no {name}" if value is None else f"its {name} is no object")
    return value


def _nothing(told: Mapping[str, Any], name: str, where: str) -> None:
    if told.get(name) is not None:
        raise ContractError(
            f"its {where} has a {name}: {short(told[name])}, and no code of a record is ever run; expected null"
        )


def _one_of(value: Any, known: Sequence[str], what: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise ContractError(f"its {what} is {short(value)}; known are {', '.join(known)}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 1000:
        raise ContractError(f"its {what} is {short(value)}; expected a text of 1 to 1,000 characters")
    return value


def _whole(value: Any, what: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ContractError(f"its {what} is {short(value)}; expected a whole number from {low} to {high}")
    return value


def _number(value: Any, what: str, above: float = -math.inf) -> float:
    if type(value) not in (int, float) or not abs(value) < LIMIT or not value > above:
        limit = f" above {max(0.0, above):g}" if above > -math.inf else ""
        raise ContractError(f"its {what} is {short(value)}; expected a number{limit}")
    return float(value)
