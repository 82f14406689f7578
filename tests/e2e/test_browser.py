"""The report in a real browser: no request, no error, fits a phone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "report"))

from made_up_audits import HOSTILE, make_audit
from made_up_results import arrays_of, make_bench, make_results

from peftlab.report.audit.html import render_audit
from peftlab.report.html import render
from peftlab.report.leaderboard.board import make_board
from peftlab.report.leaderboard.html import render_leaderboard

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="NOT CHECKED: the report in a browser; no chromium here"
)
SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--remote-debugging-pipe",
)  # fmt: skip
# The browser listens on descriptor 3 and answers on 4.
AS_3_AND_4 = (
    "import fcntl, os, sys; "
    "r, w = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3]); "
    "os.dup2(r, 3); os.dup2(w, 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """A headless browser that is spoken to over two pipes (DevTools protocol)."""

    def __init__(self, profile):
        read, self._to = os.pipe()
        self._from, write = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", AS_3_AND_4, str(read), str(write), BROWSER, *SWITCHES,
             f"--user-data-dir={profile}"],
            pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read)
        os.close(write)
        self._number, self._rest, self.session, self.events = 0, b"", None, []

    def _read(self):
        while b"\0" not in self._rest:
            more = os.read(self._from, 1 << 16)
            assert more, "the browser is gone"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]
            self.events.append(found)

    def open(self, url, width):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session, self.events = found["sessionId"], []
        for part in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{part}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=844,
                  deviceScaleFactor=1, mobile=True)  # fmt: skip
        self.call("Page.navigate", url=url)
        while not self.of("Page.loadEventFired"):
            self.events.append(self._read())
        self.value("1")  # whatever was on its way has come

    def of(self, method):
        return [event["params"] for event in self.events if event.get("method") == method]

    def value(self, expression):
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def close(self):
        self.session = None
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)


def write_leaderboard(page, more=""):
    """Write a leaderboard whose names all end in ``more``."""
    results = make_bench(("badnets", "insent", "soft", "latent"),
                         ("none", "psim", "psim-official", "onion", "pure", "cube", "dbs"),
                         ("lora", "prefix"))  # fmt: skip
    for cell in results["cells"]:
        for key in ("attack", "tuner"):
            cell[key] += more
        cell["defence"] += "" if cell["defence"] == "none" else more
    links = {cell["id"]: f"scores/{cell['id']}.parquet" for cell in results["cells"]}
    page.write_text(render_leaderboard(results, make_board(results), links))


@pytest.fixture(
    scope="module",
    params=[
        "full",
        "one cell",
        "empty",
        "audit, hostile",
        "audit, stopped",
        "leaderboard",
        "leaderboard, hostile",
    ],
)
def report(request, tmp_path_factory):
    """Pages of made-up results: with every figure, small ones, one of nothing, a hostile one."""
    kind = request.param
    page = tmp_path_factory.mktemp("report") / "report.html"
    if kind.startswith("audit"):
        hostile = HOSTILE if "hostile" in kind else ""
        stop = "gate-config" if "stopped" in kind else ""
        page.write_text(render_audit(make_audit(hostile=hostile, stop=stop, failed=not stop)))
        return page
    if kind.startswith("leaderboard"):
        write_leaderboard(page, HOSTILE if "hostile" in kind else "")
        return page
    results, arrays = {"schema": "peftlab.results/1", "cells": []}, {}
    if kind == "full":
        results = make_results()
        arrays = {c["id"]: arrays_of(c) for c in results["cells"] if c["defence"] != "none"}
    elif kind == "one cell":
        results = make_results(("badnets",), ("lora",), ("none", "psim"), (0,))
    page.write_text(render(results, arrays))
    return page


@pytest.fixture
def browser(tmp_path):
    started = Browser(tmp_path / "profile")
    yield started
    started.close()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.timeout(120)
def test_the_report_in_a_browser(browser, report, width):
    browser.open(report.as_uri(), width)
    asked = [event["request"]["url"] for event in browser.of("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert [url for url in asked if url.startswith("file:")] == [report.as_uri()]
    assert browser.of("Runtime.exceptionThrown") == []
    logged = [event["entry"] for event in browser.of("Log.entryAdded")]
    assert [entry for entry in logged if entry["level"] == "error"] == []
    spoken = [event["type"] for event in browser.of("Runtime.consoleAPICalled")]
    assert not {"error", "assert"} & set(spoken)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("document.body.innerText.length") > 100
    assert browser.value("document.title")


SHOWN = "[...document.querySelectorAll('#cells tbody tr')].filter(r => r.offsetParent).length"


@pytest.mark.timeout(120)
def test_the_leaderboard_filters_and_sorts(browser, tmp_path):
    write_leaderboard(tmp_path / "leaderboard.html")
    browser.open((tmp_path / "leaderboard.html").as_uri(), 1280)

    def choose(change):
        browser.value(
            f"f = document.getElementById('filters'); {change}; f.dispatchEvent(new Event('input'))"
        )
        return browser.value(SHOWN), browser.value("f.elements.shown.value")

    every = 4 * 7 * 2 * 2
    assert choose("1") == (every, f"{every} of {every} combinations")
    assert choose("f.elements.attack.value = '1'") == (28, f"28 of {every} combinations")
    assert choose("f.elements.kind.value = 'control'")[0] == 14
    assert choose("f.elements.senseless.checked = true")[0] == 12  # cube, through two tuners
    heads = "[...document.querySelectorAll('#maps thead th')].filter(h => h.offsetParent).length"
    before = browser.value(heads)
    assert choose("f.elements.defence.value = '1'")[0] == 2
    assert 0 < browser.value(heads) < before
    browser.value("f.reset()")
    assert choose("1")[0] == every

    column = "[...document.querySelectorAll('#board tbody tr')].map(r => r.cells[1].innerText)"
    click = "h = document.querySelectorAll('#board thead th')[1]; h.querySelector('button').click()"
    orders = []
    for way in ("descending", "ascending"):
        browser.value(click)
        assert browser.value("h.getAttribute('aria-sort')") == way
        shown = browser.value(column)
        known = [float(one.split()[0]) for one in shown if one[0].isdigit()]
        assert known == sorted(known, reverse=way == "descending")
        assert all(not one[0].isdigit() for one in shown[len(known) :])  # what is missing is last
        orders.append(known)
    assert orders[0] != orders[1]
    assert browser.of("Runtime.exceptionThrown") == []
