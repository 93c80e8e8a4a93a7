"""What people look at, in a real browser: the report, wide and narrow, light and dark, and Dask's dashboard of a run.

Screenshots lie in the folder CLOUDJOB_SCREENSHOTS names, else in pytest's.
"""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import jobs
import psutil
import pytest
from playwright.sync_api import expect, sync_playwright

from cloudjob.demo import collection as demo

from .servers import require

pytestmark = pytest.mark.deploy

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox",  # Chromium's own does not work for root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDE, NARROW = (1400, 900), (390, 844)
FAILING = "S2A_33TUN_20240603_0_L2A"


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, without a profile."""
    require(CHROMIUM)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Where screenshots go."""
    folder = Path(os.environ.get("CLOUDJOB_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def watched(browser, pictures, tmp_path_factory):
    """An OUT made by a run of the demo's scenes, one of which fails, while somebody looks at the dashboard.

    Gives the OUT, the browser's errors on the dashboard, and how many drawings were there.
    """
    folder = tmp_path_factory.mktemp("browser")
    catalog = demo.collection(folder / "catalog")
    (folder / "catalog" / FAILING / "green.tif").unlink()
    what = ("--catalog", catalog, "--out", folder / "out", *jobs.EVERYWHERE, "--workers", "1")
    # Its worker stands still in the third scene: a quick machine would be done before all is drawn.
    plan = jobs.sabotage(folder / "held", "after shard", 10, number=signal.SIGSTOP)
    command = (*jobs.SABOTAGED, "run", *what)
    with jobs.started(*command, until=r"http://[\d.]+:\d+/status", CLOUDJOB_TEST_SABOTAGE=plan) as (run, address):
        page, errors = opened(browser, address, WIDE, "light")
        page.locator(".bk-Figure, canvas").first.wait_for(timeout=30_000)
        for _ in range(240):
            if (folder / "held").exists():
                break
            page.wait_for_timeout(500)
        page.wait_for_timeout(5_000)  # Dots of tasks that have ended come in late
        page.screenshot(path=pictures / "dashboard.png")
        count = page.locator("canvas").count()
        page.context.close()
        assert (folder / "held").exists(), "the run ended, or never began"
        for process in psutil.Process(run.pid).children(recursive=True):
            process.send_signal(signal.SIGCONT)
        assert run.wait(180) == 1  # One scene failed
    return folder / "out", errors, count


@pytest.fixture(scope="module")
def report(watched):
    """Address of that OUT's report."""
    out, *_ = watched
    # Its snow is a known mistake of the network; so that the alarm does not hang on that, the provider is wrong too.
    (item,) = (out / "items").glob("*/S2B_33TVN_20240608_0_L2A.json")
    told = json.loads(item.read_text())
    told["properties"]["cloudjob:provider_cloud_cover"] = 70.0
    item.write_text(json.dumps(told))
    return f"file://{written(out)}"


def written(out):
    """Path of the report that the command line writes."""
    done = subprocess.run([*jobs.CLOUDJOB, "report", out], capture_output=True, text=True, check=True, timeout=180)
    return done.stdout.strip()


def opened(browser, address, size, scheme):
    """A page in a window of its own, and a list to which its errors and requests to elsewhere are added."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    odd = []
    page.on(
        "console", lambda told: odd.append(f"{told.type}: {told.text}") if told.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: odd.append(f"error: {error}"))
    home = re.match(r"file://.*|http://[^/]+", address)[0]
    page.on("request", lambda asked: odd.append(asked.url) if not asked.url.startswith((home, "data:", "ws")) else None)
    page.goto(address)
    return page, odd


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, (1280, 800), (1200, 900), (1090, 800), NARROW, (360, 640)], ids=str)
def test_the_report_in_a_window(browser, report, pictures, size, scheme):
    page, odd = opened(browser, report, size, scheme)
    page.screenshot(path=pictures / f"report-{size[0]}-{scheme}.png", full_page=True)
    overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0
    assert page.evaluate("[...document.images].map(image => image.naturalWidth)").count(0) == 0
    assert page.locator("img").count() == 10
    assert page.get_by_role("heading", name="alarm").count() == 1
    expect(page.get_by_text(FAILING, exact=True)).to_be_visible()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
    assert light > 200 if scheme == "light" else light < 50
    # Nothing is cut off, and nothing lies above something else
    for row in page.locator("#table tbody tr").all():
        boxes = [box for cell in row.locator("td").all() if (box := cell.bounding_box()) and box["width"]]
        assert len(boxes) == (10 if size[0] > 1000 else 6)  # A narrow window shows fewer columns
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= size[0] for box in boxes)
    assert odd == []
    page.context.close()


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_sorting_and_finding(browser, report, size):
    page, odd = opened(browser, report, size, "light")

    def column(number):
        cells = page.locator(f"#table tbody tr:visible td:nth-child({number})")
        return [cell.get_attribute("data-v") for cell in cells.all()]

    def sorted_by():
        heads = page.locator("#table th[aria-sort]").all()
        return [head.inner_text().strip() for head in heads if head.get_attribute("aria-sort") != "none"]

    assert column(3) == sorted(column(3), reverse=True)
    assert len(column(3)) == 5
    for number, name in ((4, "Cloud"), (5, "Provider"), (6, "Difference"), (7, "SCL agrees"), (8, "No data")):
        button = page.get_by_role("button", name=name, exact=True)
        button.click()
        assert [float(v) for v in column(number)] == sorted(map(float, column(number)), reverse=True)
        assert sorted_by() == [name]
        button.press("Enter")
        assert [float(v) for v in column(number)] == sorted(map(float, column(number)))
    page.get_by_role("button", name="Scene", exact=True).click()
    assert column(2) == sorted(column(2))
    page.get_by_label("only those to look at").check()
    assert "S2B_33TVN_20240608_0_L2A" in column(2)
    assert len(column(2)) < 5
    page.get_by_label("only those to look at").uncheck()
    page.get_by_label("Find").fill("33tun")
    assert {name[4:9] for name in column(2)} == {"33TUN"}
    expect(page.locator("#shown")).to_have_text("2 of 5 scenes")
    page.locator(".verdict a", has_text="S2B_33TVN_20240608_0_L2A").first.click()  # Hidden by now
    expect(page.locator("#table tr:target")).to_be_in_viewport()
    assert odd == []
    page.context.close()


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_report_of_nothing(browser, pictures, tmp_path, size):
    page, odd = opened(browser, f"file://{written(tmp_path)}", size, "light")
    page.screenshot(path=pictures / f"empty-{size[0]}.png")
    expect(page.get_by_role("heading", name="Nothing here yet")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert odd == []
    page.context.close()


def test_the_dashboard_during_a_run(watched):
    _, errors, drawings = watched
    assert drawings > 6
    # Bokeh itself warns of plots that have nothing to show yet
    assert [line for line in errors if not line.startswith("warning: [bokeh")] == []
