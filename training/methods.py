"""What is compared on the same pixels: our networks, a threshold on brightness, the provider's SCL and the peer."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from cloudjob.errors import ContractError
from cloudjob.model import predict
from training import peer
from training.patch import ALL_BANDS, Float, Patch, Reflectance, empty
from training.score import SCL, Case, brightness


def likelihood(model: predict.Model, reflectance: Reflectance) -> Float:
    """Probability (height, width) for reflectance (bands, height, width), 0 for no data, tiled as a job does.

    Raises:
        ContractError: the network takes other bands than there are, or tells more than cloud.
    """
    contract, known = model.contract, ALL_BANDS[: len(reflectance)]
    if len(contract.classes) > 1 or not set(contract.bands) <= set(known):
        raise ContractError(
            f"{contract.name} takes {', '.join(contract.bands)} and gives {len(contract.classes)} classes; expected "
            f"bands among {', '.join(known)}, and cloud alone"
        )
    if lacking := [band for band in contract.required_bands if np.isnan(reflectance[known.index(band)]).all()]:
        raise ContractError(
            f"{contract.name} needs {lacking[0]}, which an image lacks",
            hint="measure it on images that have it: without, it takes all for no data",
        )
    image = np.where(empty(reflectance), np.nan, reflectance)[[known.index(band) for band in contract.bands]]
    height, width = image.shape[1:]
    tiling = contract.tiling(height, width)
    result = np.zeros((height, width), np.float32)
    for tile in tiling.all():
        core, padded = tiling.core(tile), tiling.padded(tile)
        found, _ = predict.probability(model, predict.cut(image.astype(np.float32), padded))
        result[core.slices] = predict.trim(found, padded, core)
    return result


def cases(
    model: predict.Model, patches: Iterable[Patch], *, with_peer: bool, beside: Sequence[predict.Model] = ()
) -> Iterator[Case]:
    """All methods on each patch in turn: a data set is larger than memory."""
    for patch in patches:
        reflectance, label = patch.read(len(ALL_BANDS))
        scores = {"cloudjob": likelihood(model, reflectance), "brightness": brightness(reflectance)}
        scores |= {other.contract.name: likelihood(other, reflectance) for other in beside}
        if with_peer:
            scores["ukis-csmask"] = peer.probability(reflectance, patch.level)
        if (provided := patch.provider()) is not None:
            scores[SCL] = provided.astype(np.float32)
        yield Case(patch, reflectance, label, scores)
