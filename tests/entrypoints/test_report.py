"""The report stage after the other stages, and its page in a browser: from disk and in the UI of a server."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from tests.entrypoints.conftest import Called
from tests.tracking_server import tracking_server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# .ci/run demands the browser; elsewhere its tests skip without one
DEMANDED = os.environ.get("CXR_BROWSER") == "required"
LOOKS = [(scheme, width) for scheme in ("light", "dark") for width in (400, 1400)]
# of the page that shows it: what must be seen inside
SEEN = """() => ({
    wide: document.documentElement.scrollWidth - window.innerWidth,
    blind: [...document.images].filter(image => image.naturalWidth === 0).length,
    pictures: document.images.length,
    dark: getComputedStyle(document.body).backgroundColor !== 'rgb(255, 255, 255)',
    told: document.querySelector('.banner').getBoundingClientRect().height,
})"""


@pytest.fixture
def copied(whole_chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The finished chain's store, in a copy of its database that a test may write to."""
    shutil.copy(whole_chain / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield whole_chain
    mlflow.set_tracking_uri(None)


def runs(stage: str) -> list[Run]:
    return mlflow.search_runs(
        filter_string=f"tags.stage = '{stage}'", order_by=["attributes.start_time DESC"], output_format="list"
    )


def page_of(run: Run) -> str:
    return Path(
        mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="report.html")
    ).read_text()


def test_main_leaves_the_report_with_the_decision_on_its_parent(copied: Path) -> None:
    (parent,), (report,), (register,) = runs("main"), runs("report"), runs("register")
    page = page_of(parent)
    assert page == page_of(report)
    assert parent.data.tags["report_run"] == report.info.run_id
    assert register.data.tags["decision"] in page.replace("&#39;", "'")
    for stage in ("split", "train", "evaluate", "explain", "register"):
        assert runs(stage)[0].info.run_id in page
    assert report.data.metrics["report/bytes"] == len(page.encode()) < 20e6
    assert "package: torch" in page
    assert runs("evaluate")[0].data.tags["headline"] in report.data.tags["mlflow.note.content"]


def test_a_second_report_is_the_first_and_a_model_is_enough(
    copied: Path, call: Callable[..., Called], phantom_folder: Path
) -> None:
    done = call("report", model="models:/cxr-resnet50/1", store=copied / "store", device="cpu")
    assert done.code == 0, done.err
    (report,) = runs("report")
    assert f"report: reusing run {report.info.run_id}" in done.out


def test_without_stress_tests_and_register_a_shorter_report_says_so(
    copied: Path, call: Callable[..., Called]
) -> None:
    client = mlflow.MlflowClient()
    for run in runs("register") + runs("explain"):
        client.delete_run(run.info.run_id)
    model = runs("train")[0].info.run_id
    done = call("explain", model=model, store=copied / "store", device="cpu", stress="off")
    assert done.code == 0, done.err
    done = call("report", model=model, store=copied / "store", device="cpu")
    assert done.code == 0, done.err
    page = page_of(runs("report")[0])
    assert "none: this evaluate run has no register run" in page
    assert "they were switched off (stress=off)" in page
    assert "Class averages, all findings" in page


def test_a_run_of_another_stage_is_refused_by_name(copied: Path, call: Callable[..., Called]) -> None:
    wrong = runs("split")[0].info.run_id
    done = call("report", model=wrong, store=copied / "store", device="cpu")
    assert (done.code, "expected a finished train run" in done.err) == (1, True)
    assert "Traceback" not in done.err


@pytest.fixture(scope="module")
def browser() -> "Iterator[object]":
    """A headless Chromium of the system."""
    if not CHROMIUM:
        if DEMANDED:
            pytest.fail("CXR_BROWSER=required, and no chromium is on the PATH")
        pytest.skip("no chromium on the PATH")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Visit:
    """A page in its own context, with what it asked for and complained of."""

    def __init__(self, browser, scheme: str, width: int) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.asked: list[tuple[str, str]] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append((request.frame.url, request.url)))
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, message) -> None:
        # what the UI itself complains of is not ours
        if message.location["url"].startswith(("file:", "blob:")) and message.type in ("error", "warning"):
            self.complaints.append(message.text)


def assert_seen(seen: dict[str, int], scheme: str) -> None:
    assert seen["wide"] <= 0, "the page scrolls sideways"
    assert seen["blind"] == 0
    assert seen["pictures"] > 10
    assert seen["dark"] == (scheme == "dark")
    assert seen["told"] > 0


def test_from_disk_it_reads_at_both_widths_in_both_schemes(browser, copied: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page_of(runs("report")[0]))
    for scheme, width in LOOKS:
        visit = Visit(browser, scheme, width)
        visit.page.goto((tmp_path / "report.html").as_uri())
        assert_seen(visit.page.evaluate(SEEN), scheme)
        assert visit.complaints == []
        assert [url for _, url in visit.asked if not url.startswith(("file:", "data:"))] == []
        visit.page.click('nav a[href="#scope"]')
        visit.page.wait_for_function(
            "Math.abs(document.getElementById('scope').getBoundingClientRect().top) < 100"
        )
        visit.context.close()


def test_in_the_artifact_view_of_a_server_it_reads_the_same(browser, copied: Path, tmp_path: Path) -> None:
    report = runs("report")[0].info
    where = f"#/experiments/{report.experiment_id}/runs/{report.run_id}/artifacts/report.html"
    with tracking_server(tmp_path) as server:
        for scheme in ("light", "dark"):
            visit = Visit(browser, scheme, 1400)
            visit.page.goto(f"{server.uri}/{where}")
            viewer = visit.page.wait_for_selector("iframe.mlflow-html-iframe", timeout=60_000)
            frame = viewer.content_frame()
            frame.wait_for_selector("footer", state="attached", timeout=60_000)
            frame.wait_for_function("document.readyState === 'complete'")
            for width in ("100%", "400px"):  # on a screen of 400 pixels the UI leaves its viewer no room at all
                viewer.evaluate(f"frame => frame.style.width = '{width}'")
                assert_seen(frame.evaluate(SEEN), scheme)
            own = [url for asker, url in visit.asked if asker == frame.url and url != frame.url]
            assert [url for url in own if not url.startswith("data:")] == []
            assert visit.complaints == []
            visit.context.close()


def test_the_experiments_description_leads_to_a_table_with_its_columns(
    browser, copied: Path, tmp_path: Path
) -> None:
    with mlflow.start_run(run_name="measured"):  # the chain's few patients carry no macro average
        mlflow.log_metrics({f"test/auroc{end}/macro_14": 0.7 for end in ("", "_low", "_high")})
    with tracking_server(tmp_path) as server:
        visit = Visit(browser, "light", 1600)
        visit.page.goto(f"{server.uri}/#/experiments/0/runs?workflowType=machine_learning")
        with visit.context.expect_page() as opened:
            visit.page.click("text=results, best first", timeout=60_000)
        table = opened.value
        for name in ("test/auroc/macro_14", "test/auroc_low/macro_14", "test/auroc_high/macro_14"):
            table.wait_for_selector(f".ag-header-cell :text-is('{name}')", timeout=60_000)
        assert table.locator(".ag-pinned-left-cols-container :text-is('measured')").count() > 0
        visit.context.close()
