"""Networks in ONNX from outside: by the command line, on two workers of which one is killed."""

import json
from pathlib import Path

import jobs
from networks import fixed


def test_windows_of_one_size_after_a_kill(tmp_path: Path) -> None:
    """One worker; two, one of them killed; refused where the record is gone."""
    catalog = jobs.write_catalog(
        tmp_path / "items.json",
        [jobs.make_scene(tmp_path, f"S{n}", f"2024-06-0{n}T10:15:59Z", seed=n) for n in (1, 2)],
    )
    net = fixed(tmp_path / "net.onnx")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = jobs.run_job(catalog, net, whole, "--workers", "1")
    assert done.code == 0, done.stderr
    plan = jobs.sabotage(tmp_path / "marker", "after shard", 3)
    struck = jobs.run_job(catalog, net, cut, "--workers", "2", command=jobs.SABOTAGED, CLOUDJOB_TEST_SABOTAGE=plan)
    assert (tmp_path / "marker").exists()
    if struck.code:
        assert jobs.run_job(catalog, net, cut, "--workers", "2").code == 0
    jobs.assert_same(cut, whole)
    assert json.loads((whole / "job.json").read_text())["classes"] == [0, 1, 3]
    net.with_suffix(".json").unlink()
    refused = jobs.run_job(catalog, net, tmp_path / "none")
    assert (refused.code, refused.stdout) == (3, "")
    assert "has no record in its metadata" in refused.stderr
    assert not (tmp_path / "none").exists()
