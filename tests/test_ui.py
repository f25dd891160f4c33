"""The whole way in a real browser: an empty home, `kb dev`, materialize by clicking, read the report, review, approve.

Needs Chromium (`apt-get install chromium`, or UI_TEST_CHROMIUM) and playwright. UI_TEST_SCREENSHOTS keeps the pictures.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
KB = [sys.executable, "-c", "from kb_pipeline.cli.app import run; run()"]
DISHES = ("onion", "pumpkin", "lentil", "tomato", "leek", "potato", "carrot", "barley")
TOML = '[tenants.kitchen]\nsource = "docs"\n[eval]\nqueries = 20\nlatency_tolerance = 1e5\n'
REVIEW = '[promotion]\nmode = "review"\n[index]\npreset = "dev"\nexact_below = 1\n'
PATIENCE_MS = 120_000


def chromium() -> str:
    """Path of a Chromium; skips the test where there is none."""
    installed = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    found = os.environ.get("UI_TEST_CHROMIUM") or next(filter(None, installed), None)
    if not found:
        pytest.skip("no chromium here: install it (apt-get install chromium), or name one in UI_TEST_CHROMIUM")
    return found


def free_port() -> int:
    """One that nobody is given in the seconds until `kb dev` takes it: those of connections begin at 32768."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 200):
        with socket.socket() as free:
            try:
                free.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("no free port")


class Kitchen:
    """A working folder with a running `kb dev`."""

    def __init__(self, work: Path, url: str, environment: dict[str, str]) -> None:
        self.work = work
        self.url = url
        self.environment = environment

    def kb(self, *words: str) -> str:
        """What a `kb` command prints."""
        done = subprocess.run(
            [*KB, *words], cwd=self.work, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> dict[str, Any]:
        """`kb status --json` of the tenant."""
        return json.loads(self.kb("status", "--json"))["kitchen"]

    def graphql(self, query: str) -> Any:
        """What the webserver answers to a query."""
        request = urllib.request.Request(
            f"{self.url}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["data"]

    def runs(self) -> list[str]:
        """States of the runs a person started (the sensors of `kb dev` may start others), newest first."""
        return [run["status"] for run in self.started()]

    def started(self) -> list[dict[str, Any]]:
        """The runs a person started, newest first. Schedules have their own: this test may run at two at night."""
        found = self.graphql("{ runsOrError { ... on Runs { results { status runConfigYaml tags { key } } } } }")
        runs = found["runsOrError"]["results"]
        automatic = {"dagster/sensor_name", "dagster/schedule_name"}
        return [run for run in runs if automatic.isdisjoint(tag["key"] for tag in run["tags"])]

    def wait_for_runs(self, count: int) -> None:
        """Until a person has started so many runs and all have succeeded; a failed one ends the test."""
        end = time.monotonic() + 600
        while (states := self.runs()).count("SUCCESS") < count:
            assert "FAILURE" not in states, states
            assert time.monotonic() < end, states
            time.sleep(1)
        assert len(states) == count, states


@pytest.fixture
def kitchen(tmp_path: Path) -> Generator[Kitchen]:
    """`kb dev` on an empty home of its own, with a server of its own."""
    chromium()
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    work = tmp_path / "work"
    (work / "docs").mkdir(parents=True)
    for dish in DISHES:
        (work / "docs" / f"{dish}.md").write_text(
            f"# {dish.title()} soup\n\nBoil the {dish} slowly, add stock and let it simmer for an hour before you "
            f"serve the {dish} soup.\n\n## Keeping\n\nThe {dish} soup keeps three days in a cold place.\n"
        )
    (work / "kb.toml").write_text(TOML)
    port = free_port()
    home = Path("/tmp") / f"kb-ui-{os.getpid()}-{port}"
    foreign = ("DAGSTER_HOME", "DAGSTER_PG_URL", "KB_CONFIG", "KB_DSN")
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    environment |= {"KB_HOME": str(home), "PYTHONPATH": str(Path(__file__).parent.parent)}
    log = (tmp_path / "dev.log").open("w")
    server = subprocess.Popen(
        [*KB, "dev", "--port", str(port)], cwd=work, env=environment, stdout=log, stderr=subprocess.STDOUT
    )
    here = Kitchen(work, f"http://127.0.0.1:{port}", environment)
    try:
        end = time.monotonic() + 600
        while True:
            assert server.poll() is None and time.monotonic() < end, (tmp_path / "dev.log").read_text()
            try:
                partitions = here.graphql(
                    '{ assetNodeOrError(assetKey: {path: ["documents"]}) '
                    "{ ... on AssetNode { partitionKeysByDimension { partitionKeys } } } }"
                )
                if "kitchen" in partitions["assetNodeOrError"]["partitionKeysByDimension"][0]["partitionKeys"]:
                    break
            except (OSError, KeyError, IndexError, TypeError):
                pass
            time.sleep(1)
        yield here
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(120)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()
        subprocess.run([*KB, "db", "stop"], cwd=work, env=environment, capture_output=True, check=False)
        shutil.rmtree(home, ignore_errors=True)


def test_materialize_read_review_and_approve_in_the_browser(kitchen: Kitchen, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    pictures = Path(os.environ.get("UI_TEST_SCREENSHOTS") or tmp_path / "pictures")
    pictures.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), headless=True, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        materialize_all(page, kitchen)
        kitchen.wait_for_runs(1)
        status = kitchen.status()
        assert (status["live"]["build_id"], status["live"]["method"], status["waiting"]) == (1, "exact", None)
        page.goto(f"{kitchen.url}/locations/kb_pipeline/asset-groups/knowledge_base")
        page.get_by_text("live_index").first.wait_for()
        page.wait_for_timeout(4000)
        page.screenshot(path=pictures / "asset-graph.png")

        read_report(page, kitchen, "eval run 1")
        page.screenshot(path=pictures / "report-in-ui-light.png")

        (kitchen.work / "kb.toml").write_text(TOML + REVIEW)
        materialize_all(page, kitchen)
        kitchen.wait_for_runs(2)
        status = kitchen.status()
        assert (status["live"]["build_id"], status["waiting"]["build_id"]) == (1, 2)
        assert "build 2 passed and waits for a person" in kitchen.kb("status")
        page.goto(f"{kitchen.url}/assets/live_index?view=checks&checkDetail=nothing_waits")
        page.get_by_text("Build 2 passed and waits for a person").or_(
            page.get_by_text("how_to_decide")
        ).first.wait_for()
        page.wait_for_timeout(1500)
        page.screenshot(path=pictures / "waiting-check.png")
        page.goto(f"{kitchen.url}/assets/live_index?partition=kitchen&view=partitions")
        page.get_by_text("waiting", exact=True).first.wait_for()
        page.screenshot(path=pictures / "waiting-asset.png")

        # Materializing everything again, or approving a build that does not wait, changes nothing.
        materialize_all(page, kitchen)
        kitchen.wait_for_runs(3)
        assert kitchen.status()["live"]["build_id"] == 1

        for runs in (4, 5, 6):  # the launchpad may replace what is typed while it still loads: a person looks again
            approve(page, kitchen, build_id=2)
            kitchen.wait_for_runs(runs)
            if "build_id: 2" in kitchen.started()[0]["runConfigYaml"]:
                break
        status = kitchen.status()
        assert (status["live"]["build_id"], status["waiting"]) == (2, None)
        assert (status["live"]["promoted_by"], status["live"]["why"]) == ("Ada", "read it in the browser")

        dark = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
        dark.set_default_timeout(PATIENCE_MS)
        read_report(dark, kitchen, "eval run")
        dark.screenshot(path=pictures / "report-in-ui-dark.png")
        report = status["last_eval"]["report"]
        for scheme in ("light", "dark"):
            for width in (1280, 390):
                asked: list[str] = []
                view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                view.on("request", lambda request, asked=asked: asked.append(request.url))
                view.goto(f"file://{report}")
                assert view.locator("h1").inner_text() == "kitchen"
                assert "Pass" in view.locator(".badge").inner_text()
                assert view.locator("svg:visible").count() >= 3
                assert asked == [f"file://{report}"], "the report asks for nothing"
                wide = view.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, f"the page is {wide} px wide in a window of {width} px"
                view.screenshot(path=pictures / f"report-{scheme}-{width}.png", full_page=True)
                view.close()
        browser.close()


def materialize_all(page: Any, kitchen: Kitchen) -> None:
    """Clicks *Materialize all* in the asset graph, for all partitions (there is one)."""
    page.goto(f"{kitchen.url}/locations/kb_pipeline/asset-groups/knowledge_base")
    page.get_by_role("button", name="Materialize all").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="All", exact=True).click()
    dialog.get_by_role("button", name="Launch 1 run").click()
    dialog.wait_for(state="hidden")


def read_report(page: Any, kitchen: Kitchen, title: str) -> None:
    """Opens the Markdown report of the asset, with its verdict and plots."""
    page.goto(f"{kitchen.url}/assets/eval_report?partition=kitchen&view=partitions")
    page.get_by_text("Show Markdown").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("heading", name=title).first.wait_for()
    assert "PASS" in dialog.inner_text()
    plots = dialog.locator("img")
    drawn = "images => images.length >= 3 && images.every(one => one.complete && one.naturalWidth > 100)"
    end = time.monotonic() + PATIENCE_MS / 1000
    while not plots.evaluate_all(drawn):
        assert time.monotonic() < end, "every plot is drawn"
        page.wait_for_timeout(200)


def approve(page: Any, kitchen: Kitchen, *, build_id: int) -> None:
    """Materializes `live_index` alone with the approval in the launchpad, which takes a person a second try at times:
    it has no partition when one is typed before their list is there."""
    before = len(kitchen.started())
    for _ in range(4):
        type_approval(page, kitchen, build_id)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if len(kitchen.started()) > before:
                return
            page.wait_for_timeout(500)
    raise AssertionError("the launchpad started no run")


def type_approval(page: Any, kitchen: Kitchen, build_id: int) -> None:
    """Chooses the partition, writes the configuration and clicks *Materialize*."""
    page.goto(f"{kitchen.url}/assets/live_index")
    page.get_by_role("button", name="Materialize").first.click(modifiers=["Shift"])
    dialog = page.get_by_role("dialog")
    dialog.get_by_placeholder("Partition").click()
    page.wait_for_timeout(1000)
    page.keyboard.type("kitchen")
    page.wait_for_timeout(500)
    page.keyboard.press("Enter")
    wanted = {"approve": {"build_id": build_id, "by": "Ada", "why": "read it in the browser"}}
    config = json.dumps({"ops": {"live_index": {"config": wanted}}})
    # The choice of a partition fetches that one's configuration, which replaces what stands there when it comes.
    editor = page.locator(".CodeMirror").first
    for _ in range(20):
        editor.evaluate("(node, text) => node.CodeMirror.setValue(text)", config)
        page.wait_for_timeout(3000)
        if editor.evaluate("node => node.CodeMirror.getValue()") == config:
            break
    dialog.get_by_role("button", name="Materialize").click()
