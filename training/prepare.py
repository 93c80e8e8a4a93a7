"""From the patches that were found to what a network is shown: which train, which validate, and as what samples."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cloudjob.errors import UsageError
from training import data, peer, settings, teach
from training.patch import BANDS, Float, Patch, any_of
from training.sample import Samples
from training.score import MANY

VALIDATED = 100
"""Patches that validate, at most, drawn by the seed: they are looked at after every epoch."""


def divide(chosen: settings.Settings, patches: Sequence[Patch]) -> tuple[list[Patch], list[Patch]]:
    """(patches to learn from, patches to validate on), by scene; held-out and ignored ones are in neither.

    Raises:
        UsageError: there are no patches of a kind that the mix shows, or none to validate on; or the samples do not
            suit the network, the teacher or the batch.
    """
    patches = [dataclasses.replace(p, clear=True) if any_of(p.scene, chosen.data.clear) else p for p in patches]
    rest, _ = data.split(patches, chosen.data.held_out)
    rest = tuple(p for p in rest if not any_of(p.name, chosen.data.ignored))
    learn, check = (list(part) for part in data.split(rest, chosen.data.validation))
    rng = np.random.default_rng(chosen.training.seed)
    scenes = sorted({patch.scene for patch in learn if patch.label})
    share = chosen.data.validation_share
    count = max(1, round(share * len(scenes))) if share and len(scenes) > 1 else 0
    drawn = set(rng.permutation(scenes)[:count])
    check += [patch for patch in learn if patch.scene in drawn]
    if len(check) > VALIDATED:
        check = [check[number] for number in sorted(rng.permutation(len(check))[:VALIDATED])]
    learn = [patch for patch in learn if patch.scene not in drawn]
    labelled = [patch for patch in learn if patch.label]
    if chosen.data.patches and len(labelled) > chosen.data.patches:
        kept = set(rng.permutation(len(labelled))[: chosen.data.patches].tolist())
        names = {labelled[number].name for number in kept}
        learn = [patch for patch in learn if patch.label is None or patch.name in names]
    _check_mix(chosen, learn, check)
    least = min(chosen.network.bands, len(BANDS))
    if lacking := [patch for patch in (*learn, *check) if len(patch.layers) < least]:
        raise UsageError(
            f"{len(lacking)} patches have fewer than {least} bands, such as {lacking[0].name}",
            hint="network.bands = 3 needs no near infrared",
        )
    _check_samples(chosen, learn)
    return learn, check


def _check_samples(chosen: settings.Settings, learn: Sequence[Patch]) -> None:
    training, terms, sets = chosen.training, settings.contract(chosen), chosen.data
    if training.crop % terms.stride:
        raise UsageError(f"training.crop is {training.crop}; expected a multiple of the network's {terms.stride} px")
    if training.crop > peer.SIDE and any(any_of(patch.scene, sets.blended) for patch in learn):
        raise UsageError(f"training.crop is {training.crop}; the teacher sees {peer.SIDE} px (data.blended)")
    labelled = sum(any_of(patch.scene, sets.taught) or bool(patch.label and not patch.clear) for patch in learn)
    if (length := training.samples or sets.patches or labelled) < training.batch:
        raise UsageError(
            f"an epoch has {length} samples, fewer than a batch of {training.batch}",
            hint="set training.samples or data.patches higher, or training.batch lower",
        )


def _check_mix(chosen: settings.Settings, learn: Sequence[Patch], check: Sequence[Patch]) -> None:
    mix = chosen.mix
    known = any(p.label or any_of(p.scene, chosen.data.teacher) for p in learn)
    clear = any(patch.clear for patch in learn)
    if (mix.labelled or mix.pasted) and not known:
        raise UsageError(
            "there are no labelled patches to learn from", hint="give --data, or settings that simulate all"
        )
    if (mix.clear or mix.pasted or mix.clouded) and not clear:
        raise UsageError(
            "there are no patches of clear ground, which the settings' mix shows",
            hint="give --data with a folder called surfaces, or settings without clear, pasted and clouded",
        )
    if not check and chosen.training.keep == "best" and (mix.labelled or mix.clear or mix.pasted or mix.clouded):
        raise UsageError(
            "there are no scenes to validate on",
            hint="data.validation names some, data.validation_share draws some where there are two or more",
        )


def described(chosen: settings.Settings, learn: Sequence[Patch]) -> settings.Settings:
    """The settings with what they leave to the patches: resolution, and what the contract says of the data."""
    labelled = [patch for patch in learn if patch.label]
    lines = []
    sources = sorted({patch.source for patch in labelled})
    for source in sources if len(sources) <= MANY else ["data of one's own"]:
        members = [patch for patch in labelled if patch.source == source or len(sources) > MANY]
        layers = {(layer.scale, layer.offset) for patch in members for layer in patch.layers}
        told = [f"number × {scale:g}" + (f" {offset:+g}" if offset else "") for scale, offset in sorted(layers)]
        scaling = f"reflectance = {' or '.join(told[:3])}" + (" or others" if len(told) > 3 else "")
        lines.append(f"{source}: {len(members)} patches of {len({p.scene for p in members})} scenes, {scaling}")
    sizes = Counter(patch.resolution for patch in labelled)
    resolution = chosen.network.resolution or (sizes.most_common(1)[0][0] if sizes else 10)
    return dataclasses.replace(
        chosen,
        network=dataclasses.replace(chosen.network, resolution=resolution),
        training_data=chosen.training_data or tuple(lines),
    )


def samples(
    chosen: settings.Settings,
    learn: Sequence[Patch],
    soft: dict[str, Float],
    out: Path,
    *,
    folds: tuple[tuple[str, ...], ...] = (),
    workers: int = 1,
) -> Samples:
    """What the settings say is shown of these patches; `out/blends.npz` keeps what the teacher says of blends."""
    training, terms = chosen.training, settings.contract(chosen)
    groups = (chosen.data.blended, chosen.data.frozen)
    blended, frozen = (frozenset(p.name for p in learn if any_of(p.scene, names)) for names in groups)
    words = teach.Words(out / "blends.npz", training.seed, list(blended))
    shown = Samples(
        learn,
        chosen.mix,
        training.samples or chosen.data.patches,
        terms,
        crop=training.crop,
        seed=training.seed,
        skies=chosen.data.simulated,
        soft=soft,
        blended=blended,
        blends=chosen.data.blends if blended else 0,
        ask=words,
        side=peer.SIDE,
        frozen=frozen,
        whole=training.samples == 0,
        widened=chosen.data.widened,
        folds=folds,
    )
    shown.warm(workers)
    words.save()
    return shown
