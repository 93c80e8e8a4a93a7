"""Receipts add up to the same, whoever ended first, and a tile's sum tells its place and all its values."""

import numpy as np

from cloudjob.store.receipt import Receipt, SceneResult, merge, tile_sum


def test_the_order_in_which_tasks_end_is_not_told():
    parts = [
        Receipt(clear=1, read_seconds=0.5, device="cpu", software=("a 1", "torch 2"), warnings=("dark",)),
        Receipt(
            cloud=2, read_seconds=0.25, device="NVIDIA H200", software=("a 1", "torch 1"), warnings=("offset", "dark")
        ),
        Receipt(clear=4, read_seconds=1.0, warnings=("agreement",)),
    ]
    whole = Receipt(
        clear=5,
        cloud=2,
        read_seconds=1.75,
        device="NVIDIA H200 + cpu",
        software=("a 1", "torch 1", "torch 2"),
        warnings=("agreement", "dark", "offset"),
    )
    assert merge(parts) == merge(parts[::-1]) == whole


def test_thin_cloud_is_cloud_and_shadow_is_valid():
    receipt = Receipt(clear=3, cloud=1, thin_cloud=2, cloud_shadow=4, no_data=90)
    assert (receipt.valid, receipt.cloud_cover) == (10, 30)
    assert Receipt().cloud_cover is None


def test_the_sum_of_a_tile_is_of_its_place_and_of_all_its_values():
    mask = np.arange(64, dtype=np.uint8).reshape(8, 8)
    view, whole = mask[:, ::2], mask[:, ::2].copy()
    assert tile_sum((0, 1), view) == tile_sum((0, 1), whole)
    sums = {
        tile_sum((0, 1), whole),
        tile_sum((1, 0), whole),
        tile_sum((0, 1), whole, whole),
        tile_sum((0, 1), whole, whole + 1),
    }
    assert len(sums) == 4


def test_a_list_of_results_can_be_read_where_it_is_printed():
    assert repr(SceneResult("A", "33UUP", "done", Receipt(clear=3))).endswith(
        "id='A', group='33UUP', state='done', reason='')"
    )
