"""A source or a store that starves a run: many an answer is cut, refused, empty or late, and no scene is lost."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import jobs
import numpy as np
import pytest
from bucket import Bucket, bucket
from faulty import served
from file_server import Fault, FileServer, file_server

from cloudjob.cluster import task
from cloudjob.scene import opened
from cloudjob.store.bucket import RETRY
from cloudjob.store.check import check
from cloudjob.store.out import Out

SCENES = 12

Run = Callable[[Path | str], dict[str, np.ndarray]]

PAUSE = timedelta(milliseconds=20)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FileServer, Run]]:
    """A server of small scenes, and a run on all of them whose tasks run here: it gives their masks."""
    folder = tmp_path_factory.mktemp("starving")
    checkpoint = jobs.random_checkpoint(folder / "net.safetensors")
    made = [
        jobs.make_scene(
            folder / "files", f"S{day:02}", f"2024-06-{day:02}T10:15:59Z", seed=day, shape=(90, 80), blocksize=64
        )
        for day in range(1, SCENES + 1)
    ]

    with file_server(folder / "files") as files, pytest.MonkeyPatch.context() as patch:
        catalog = jobs.write_catalog(
            folder / "items.json", [served(each, folder / "files", files.url) for each in made]
        )
        patch.setattr(opened, "PAUSE", 0.01)
        patch.setattr(task, "PAUSE", 0.01)
        patch.setenv("GDAL_HTTP_RETRY_DELAY", "0.02")

        def run(out: Path | str) -> dict[str, np.ndarray]:
            results = jobs.run_here(catalog, checkpoint, out)
            assert not {each.id: each.reason for each in results if each.reason}
            names = [f"S{day:02}" for day in range(1, SCENES + 1)] if isinstance(out, Path) else []
            return {name: jobs.mask_of(Path(out), name) for name in names}

        yield files, run


@pytest.fixture(scope="module")
def expected(source: tuple[FileServer, Run], tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What an undisturbed run makes of them."""
    return source[1](tmp_path_factory.mktemp("undisturbed") / "out")


@pytest.mark.parametrize("fault", ["cut", "short", 403, "empty", "html", "hang up", 503, "slow"])
def test_a_tenth_of_all_answers_costs_no_scene(
    fault: Fault, source: tuple[FileServer, Run], expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    files, run = source
    files.calm()
    files.slowness = 0.02
    files.scarce = fault, 0.1
    found = run(tmp_path / "out")
    met = [request.fault for request in files.asked() if request.fault]
    assert len(met) > SCENES
    assert found.keys() == expected.keys()
    for name, mask in expected.items():
        np.testing.assert_array_equal(found[name], mask, err_msg=name)


@pytest.fixture(scope="module")
def stored(source: tuple[FileServer, Run], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run leaves in a bucket."""
    files, run = source
    files.calm()
    with pytest.MonkeyPatch.context() as patch, bucket(patch) as store:
        run("s3://bucket/out")
        return masks_and_items(store)


def masks_and_items(store: Bucket) -> dict[str, bytes]:
    kept = ("out/masks.zarr/", "out/items/", "out/job.json")
    return {name: data for name, data in store.objects.items() if name.startswith(kept) and "index.json" not in name}


@pytest.mark.parametrize("fault", ["503", "-500", "hang up"])
def test_a_store_that_refuses_a_fifth_of_all_requests_loses_nothing(
    fault: str, source: tuple[FileServer, Run], stored: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it had done what was asked for before it said that it had not ("-500")."""
    files, run = source
    files.calm()
    again = {"init_backoff": timedelta(milliseconds=1), "max_backoff": PAUSE, "base": 2}
    monkeypatch.setitem(RETRY, "backoff", again)
    with bucket(monkeypatch) as store:
        store.fault, store.share = fault, 0.2  # A run of this size writes too little for a tenth to be met often
        run("s3://bucket/out")
    assert store.met["PUT"] > SCENES / 2
    assert store.met["GET"] > SCENES
    assert masks_and_items(store) == stored


@pytest.mark.parametrize(
    "hidden", ["^out/items/", "^out/masks.zarr/", "^out/items/.*S0[1-6]", "^out/(items|masks)", "."]
)
def test_what_a_store_does_not_list_is_not_masked_again(
    hidden: str, source: tuple[FileServer, Run], stored: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its finished masks were deleted, to make room for themselves."""
    files, run = source
    files.calm()
    with bucket(monkeypatch) as store:
        store.objects |= stored
        store.hidden = hidden
        run("s3://bucket/out")
        place = Out.at("s3://bucket/out")
        assert list(check(place)) == []
        assert masks_and_items(store) == stored
        assert files.asked() == []
