"""report.html in a real browser: nothing complains, nothing leaves the file, every figure is there and fits."""

import json
import os
import select
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from made_up import controlled_analysis
from PIL import Image

from jaxdiv.report import report, survey
from jaxdiv.report.published import PAPER_MEASURED
from jaxdiv.task2vec.coefficient import diversity

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no chromium or google-chrome on this machine")
# The browser reads commands from descriptor 3 and answers on 4. Both are first moved out of each other's way.
LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3); os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


class Browser:
    """A headless browser over its DevTools protocol: JSON messages that end in a zero byte."""

    def __init__(self, folder):
        commands, self.write = os.pipe()
        self.read, answers = os.pipe()
        line = [PROGRAM, *FLAGS, f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(commands), str(answers), *line],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self.left, self.events, self.last = b"", [], 0

    def message(self, deadline):
        while b"\0" not in self.left:
            ready, _, _ = select.select([self.read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            piece = os.read(self.read, 1 << 20)
            assert piece, "the browser has ended"
            self.left += piece
        first, _, self.left = self.left.partition(b"\0")
        return json.loads(first)

    def do(self, method, session=None, **parameters):
        """Sends a command and returns its result; events that come meanwhile are kept."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters}
        os.write(self.write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        deadline = time.monotonic() + 60
        while (found := self.message(deadline)).get("id") != self.last:
            self.events.append(found)
        assert "error" not in found, found
        return found["result"]

    def open(self, url, width, scheme="light"):
        """Loads a page in a window of that width; returns its session, complaints and requests."""
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Log", "Runtime", "Page"):
            self.do(f"{domain}.enable", session)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.do("Emulation.setDeviceMetricsOverride", session, **size)
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.do("Emulation.setEmulatedMedia", session, features=media)
        self.events.clear()
        self.do("Page.navigate", session, url=url)
        deadline = time.monotonic() + 60
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.message(deadline))
        self.do("Runtime.evaluate", session, expression="new Promise(requestAnimationFrame)", awaitPromise=True)
        said = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        complaints = [event["params"] for event in self.events if event["method"] in said]
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return session, complaints, asked

    def ask(self, session, expression):
        found = self.do("Runtime.evaluate", session, expression=expression, returnByValue=True, awaitPromise=True)
        return found["result"].get("value")

    def close(self):
        os.close(self.write)
        os.close(self.read)
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with everything in it but most of the methods."""
    folder = tmp_path_factory.mktemp("page")
    found = controlled_analysis(subsets=2)
    keep = lambda rows: tuple(row for row in rows if getattr(row, "method", None) in (None, "pt", "ho_maml_10"))
    parts = {name: keep(rows) for name, rows in vars(found).items() if isinstance(rows, tuple)}
    found = replace(found, **parts)
    pixels = np.random.default_rng(0).integers(0, 255, (60, 15, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((750, 3000), Image.Resampling.NEAREST).save(folder / "sheet.png")
    sheets = {"low-1": folder / "sheet.png"}
    return report.write_report(folder, found, {}, {}, contact_sheets=sheets).as_uri()


# Two frames: what depends on whether a table scrolls is drawn a frame after the table.
OPEN_ALL = """(async () => {
  document.querySelectorAll("details").forEach(details => details.open = true);
  for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);
})()"""
MEASURE = """(() => {
  const box = element => { const r = element.getBoundingClientRect(); return [r.left, r.right, r.width, r.height]; };
  return {
    window: innerWidth,
    page: document.documentElement.scrollWidth,
    figures: [...document.querySelectorAll("svg, img")].map(box),
    tables: [...document.querySelectorAll(".wide")].map(box),
    scrolls: [...document.querySelectorAll(".wide")].map(wide => wide.scrollWidth > wide.clientWidth),
    hints: [...document.querySelectorAll(".wide .hint")].map(hint => hint.getBoundingClientRect().height > 10),
    rows: [...document.querySelectorAll(".panels:has(.key)")].map(row => {
      const boxes = [...row.children].map(box), right = row.getBoundingClientRect().right;
      return [right - Math.max(...boxes.slice(-1).map(b => b[1])), right - Math.max(...boxes.map(b => b[1]))];
    }),
    lost: [...document.querySelectorAll("nav a")].filter(a => !document.querySelector(a.getAttribute("href"))).length,
    links: document.querySelectorAll("nav a").length,
    paper: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
  };
})()"""


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_shows_every_figure_within_its_width_and_asks_for_nothing(browser, page, width, scheme):
    session, complaints, asked = browser.open(page, width, scheme)
    assert complaints == []
    assert asked[0] == page and all(url.startswith("data:") for url in asked[1:])
    browser.ask(session, OPEN_ALL)
    found = browser.ask(session, MEASURE)
    assert found["window"] == width and found["page"] <= width
    # Figures 1 and 3: two methods; 2: one panel; 4: one MAML method; 5: two methods, two metrics; a contact sheet.
    assert len(found["figures"]) == 2 + 1 + 2 + 1 + 4 + 1
    for left, right, wide, tall in found["figures"]:
        assert wide > 200 and tall > 200 and left >= 0 and right <= width
    assert found["tables"] and all(left >= 0 and right <= width for left, right, _, _ in found["tables"])
    # The key of the numbers takes what the panels of a row leave: no cell is empty.
    assert found["rows"] and all(abs(gap) < 1 for gaps in found["rows"] for gap in gaps)
    # A table that is wider than the page says so, and no other does.
    assert any(found["scrolls"]) and not all(found["scrolls"]) and found["hints"] == found["scrolls"]
    assert found["links"] > 5 and found["lost"] == 0
    bright = lambda colour: sum(map(int, colour[4:-1].split(","))) > 3 * 128
    assert (bright(found["paper"]), bright(found["ink"])) == ((True, False) if scheme == "light" else (False, True))


def test_this_check_would_see_a_request_and_a_complaint(browser, tmp_path):
    (tmp_path / "bad.html").write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("no")</script>')
    _, complaints, asked = browser.open((tmp_path / "bad.html").as_uri(), 390)
    assert "http://127.0.0.1:9/x.png" in asked and complaints


def test_the_page_forbids_the_requests_that_it_does_not_make(browser, page, tmp_path):
    with open(page.removeprefix("file://")) as file:
        text = file.read()
    (tmp_path / "changed.html").write_text(text.replace("<h1>", '<img src="http://127.0.0.1:9/x.png"><h1>'))
    _, complaints, _ = browser.open((tmp_path / "changed.html").as_uri(), 390)
    assert any("Content Security Policy" in json.dumps(complaint) for complaint in complaints)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_the_page_of_ones_own_folders_fits_too(browser, tmp_path, width, scheme):
    rng = np.random.default_rng(0)
    tasks = {name: np.exp(rng.normal(size=(6, 20))) for name in ("birds", "moths-of-a-long-name", "c")}
    how = PAPER_MEASURED | {"probe": "resnet18", "weights": "imagenet", "tasks": 6}
    rows = [
        dict(zip(("diversity", "ci_low", "ci_high"), diversity(of_tasks), strict=True)) | how | {"benchmark": name}
        for name, of_tasks in tasks.items()
    ]
    sources = {name: survey.Source((f"/a/long/path/to/{name}",), (9,), 300, {}) for name in tasks}
    page = survey.write_survey(tmp_path, survey.Survey(rows, tasks, sources), {}, {}, {}).as_uri()
    session, complaints, asked = browser.open(page, width, scheme)
    assert complaints == [] and asked[0] == page and all(url.startswith("data:") for url in asked[1:])
    found = browser.ask(session, MEASURE)
    assert found["page"] <= width and len(found["figures"]) == 3 * 3 and len(found["tables"]) == 4
    assert all(left >= 0 and right <= width for left, right, _, _ in found["figures"] + found["tables"])
    assert found["links"] >= 5 and found["lost"] == 0
