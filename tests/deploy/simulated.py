"""The demo's catalog, half as large, for tests with machines: and the masks that a run on this machine makes of it."""

import jobs
import numpy as np

from cloudjob.demo.collection import collection

SCENES = 6


def make(folder):
    """Fill a folder: `catalog`, and the OUT `reference`. Anybody may read both."""
    collection(folder / "catalog", shrink=2)
    where = ("--out", folder / "reference", "--workers", 1)
    done = jobs.cloudjob("run", *jobs.EVERYWHERE, "--catalog", folder / "catalog/items.json", *where)
    assert done.code == 0, done.stderr
    for path in (folder, *folder.parents[:2], *folder.rglob("*")):  # pytest keeps its folders to itself
        path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
    return folder


def assert_same_masks(out, reference):
    """Both have the same scenes with the same masks. Slots may differ: they are handed out in order of arrival."""
    ours, theirs = (dict(masks_by_scene(each)) for each in (out, reference))
    assert len(ours) == SCENES
    assert ours.keys() == theirs.keys()
    for key, mask in theirs.items():
        np.testing.assert_array_equal(ours[key], mask)


def masks_by_scene(out):
    """((group, scene), mask) of every slot."""
    slots = jobs.slots(out)
    for group, arrays in jobs.masks(out).items():
        for scene, mask in zip(slots[group], arrays["cloud"], strict=True):
            yield (group, scene), mask
