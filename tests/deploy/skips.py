"""A skip among the deployment tests is a failure, unless `allowed_skips.txt` allows it with a reason."""

from pathlib import Path

import pytest

ALLOWED = Path(__file__).with_name("allowed_skips.txt")


def allowed():
    """Test ids that may be skipped, with their reasons."""
    reasons = {}
    for line in ALLOWED.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            test, _, reason = line.partition(" # ")
            if not reason.strip():
                raise pytest.UsageError(f"{ALLOWED.name}: {test!r} has no reason after ' # '")
            reasons[test.strip()] = reason.strip()
    return reasons


def _object(report):
    if report.skipped and not hasattr(report, "wasxfail") and report.nodeid not in allowed():
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{why}\n(a skip is a failure here, unless {ALLOWED.name} names {report.nodeid} and says why)"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport():
    return _object((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report():
    return _object((yield))
