"""The report: what is on the page, what a browser makes of it, and what stops it."""

import base64
import html
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml
from playwright.sync_api import Browser
from support.browser import chromium, opened
from support.results import due, experiment, measured, open_loop, record

from figures import catalogue, report, style
from harness.analysis import policies
from harness.cell import CellSpec
from harness.measure.records import RequestRecord

_SCRIPT = "<script>alert(1)</script> & <b>"
_LONG = "a-path-that-has-no-place-to-break/" * 12
_CAPTION = (
    "Tier replay: a made-up figure with a caption that is long enough for several lines, < & >."
)


def _claim(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"C{number}",
        "claim": "Doc-QA: ARC raises the hit rate over LRU",
        "source": "paper",
        "tier": "replay",
        "figure": "fig3",
        "quantity": "hit_rate",
        "unit": "points",
        "expect": "up",
        "margins": [0.67, 1.5],
        "paper": 5.3,
        "ours": 5.25,
        "ci95": [5.0, 5.4],
        "workload_ci95": None,
        "noise": None,
        "noise_df": None,
        "share": 0.99,
        "share_ci95": [0.944, 1.02],
        "power": 0.98,
        "wrong_half": 0.01,
        "wrong_none": 0.0,
        "verdict": "reproduced",
        "reason": "The share of the paper's effect lies within the margins.",
        "points": [
            {
                "at": "50k tokens",
                "paper": 10.8,
                "ours": 10.2,
                "ci95": [9.8, 10.6],
                "allowed": [7.2, 16.2],
            }
        ],
        **changes,
    }


_TTFT_POINT = {
    "at": "50k tokens",
    "paper": -12.6,
    "ours": -3.0,
    "ci95": None,
    "allowed": [-18.9, -8.4],
    "plain": -4.1,
    "equal_hits": 0.2,
    "did": None,
}
_NOTHING = ("paper", "ours", "ci95", "share", "share_ci95", "power", "wrong_half", "wrong_none")
_NOT_RUN: dict[str, Any] = {**dict.fromkeys(_NOTHING), "points": []}
_CLAIMS = [
    _claim(1),
    _claim(2, tier="cpu", figure="online-ttft", unit="%", ours=-3.0, noise=1.4)
    | {"verdict": "smaller", "points": [_TTFT_POINT], "workload_ci95": [-4.0, -1.0]},
    _claim(3, verdict="refuted", reason=_SCRIPT, ours=-0.04, ci95=None, share_ci95=None),
    _claim(4, **_NOT_RUN, verdict="not run", reason=_LONG, figure="fig5"),
    _claim(5, source="ours", claim="Conversation: ARC lowers the hit rate " + "x" * 80)
    | {"paper": None, "share": None, "share_ci95": None, "power": None, "verdict": "undecided"},
    _claim(1, **_NOT_RUN, verdict="not run", tier="gpu", reason="Config cpu has no tier gpu."),
    _claim(2, **_NOT_RUN, verdict="not run", tier="gpu", reason="Config cpu has no tier gpu."),
]

_DISTURBED = "waiting for a core took 18 % of its time, steal 3 %"


def _made(spec: CellSpec) -> Sequence[RequestRecord] | str:
    if spec.policy == "dbl":
        return f"{_SCRIPT} {_LONG}"
    send = due if spec.load.mode == "open-loop" else record
    return [send(i, 100 * i, 50, cached_tokens=40) for i in range(3)]


@pytest.fixture
def folder(root: Path, tmp_path: Path) -> Path:
    """The results of a config with figures of both tiers, and the config in ``config.yaml``."""
    made = measured(
        root,
        tmp_path,
        _made,
        experiment(tier="replay", policies=["lru", "dbl", "arc"], seeds=[42, 43]),
        experiment(loads=[open_loop(8)], repeats=2),
    )
    described = made.config.model_dump(mode="json", exclude_unset=True)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(described))
    cells = made.cells.assign(
        engine_version="0.32.0",
        patches_sha256="999e9774e9d29fe8" * 4,
        machine="A CPU, 2 cores",
        measured_at=[f"2026-11-{10 + day}T00:00:00Z" for day in range(len(made.cells))],
        git="b5fc7d5a9c0e" * 3,
        disturbed=made.cells["tier"].map({"cpu": _DISTURBED}),
    )
    cells.to_csv(tmp_path / "cells.csv", index=False)
    table = policies.compare(cells, [])
    policies.write(table, tmp_path / "policies.csv", tmp_path / "policies.md")
    (tmp_path / "claims.json").write_text(json.dumps(_CLAIMS))
    for name, entry in catalogue.entries(made.config).items():
        figure = plt.figure(figsize=(11, 3))
        style.face(figure, f"{entry.title}. {_CAPTION}")
        style.save(figure, _png(tmp_path, name), tmp_path / "figures" / f"{name}.pdf")
    return tmp_path


def _png(folder: Path, name: str) -> Path:
    return folder / "figures" / f"{name}.png"


def _write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    arguments = [folder / "config.yaml", folder, folder / "report.html"]
    monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments)])
    return report.main()


@pytest.fixture
def page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page as text."""
    assert _write(folder, monkeypatch) == 0
    return (folder / "report.html").read_text()


def _words(markup: str) -> str:
    """Return what a piece of the page says."""
    said = " ".join(re.sub("<[^>]*>", " ", markup).split())
    return html.unescape(re.sub(" (?=[,.;)])", "", said))


def _article(page: str, name: str) -> str:
    """Return the part of the page about a figure."""
    found = re.search(rf'<article class="figure" id="{name}".*?</article>', page, re.DOTALL)
    assert found
    return found[0]


def test_claims_come_first_with_all_that_is_known(page: str) -> None:
    assert page.index('<table id="claims-table"') == page.index("<table")
    said = _words(page)
    counts = "1 ✓ reproduced, 1 ↓ smaller, 0 ↑ larger, 1 ✗ refuted, 1 ? undecided, 3 ○ not run."
    assert counts in said
    titles = "Claim Paper, mean Ours, mean Share Power Verdict Tier Figure"
    assert titles in said
    # Half of a digit goes to the even one.
    assert "C1. Doc-QA: ARC raises the hit rate over LRU +5.3 points +5.2 points" in said
    # The share and its interval, and the power beside both errors.
    numbers = "+5.0 to +5.4 0.99 0.94 to 1.02 98% half: 1%, none: 0%"
    assert f"{numbers} ✓ reproduced replay fig3 The share of the paper's effect" in said
    assert f"\N{MINUS SIGN}3.0 % {numbers} ↓ smaller cpu online-ttft" in said
    # What is exact has no interval; what is of no size no share and no power.
    assert "+5.3 points 0.0 points 0.99 98% half: 1%, none: 0% ✗ refuted" in said
    nothing = "\N{EN DASH}"
    assert f"{nothing} +5.2 points +5.0 to +5.4 {nothing} {nothing} ? undecided" in said
    assert "In points." in said
    assert (
        "In %; standard error of the mean from run to run: 1.40; another draw of the workload: "
        "\N{MINUS SIGN}4.0 to \N{MINUS SIGN}1.0. Ours is through hits" in said
    )
    values = "50k tokens +10.8 +10.2 +9.8 to +10.6 +7.2 to +16.2"
    assert f"at paper ours 95 % interval margins {values}" in said
    beside = "ratio of means equal hits without a line 50k tokens"
    assert f"95 % interval margins {beside} " in said
    assert f"\N{MINUS SIGN}4.1 +0.2 {nothing}" in said
    # Not a row each.
    assert said.count("has no tier gpu") == 1
    assert "has no tier gpu: C1, C2 with what is measured there." in said
    assert said.index("The paper's claims C1.") < said.index("Claims of our own C5.")


def test_claims_and_figures_lead_to_each_other(page: str) -> None:
    assert '<a href="#fig3">fig3</a>' in page
    # This config has none.
    assert "fig5" in page
    assert 'href="#fig5"' not in page
    assert "C1 (replay): ✓ reproduced" in _words(_article(page, "fig3"))
    targets = set(re.findall(r' id="([^"]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= targets


def test_what_was_given_is_never_markup(page: str) -> None:
    assert "<script" not in page
    assert html.escape(_SCRIPT) in page


def test_figure_has_picture_caption_tier_cells_and_origin(folder: Path, page: str) -> None:
    names = ["fig3", "fig7", "online-ttft", "online-hitrate", "online-t1share", "policies"]
    assert re.findall(r'<article class="figure" id="([^"]+)"', page) == names
    fig3 = _article(page, "fig3")
    assert base64.b64encode(_png(folder, "fig3").read_bytes()).decode() in fig3
    said = _words(fig3)
    assert _CAPTION in said
    assert "tier replay" in said
    # Two seeds each; DBL's were not run.
    assert "6 cells, 2 of them not valid" in said
    cell = (
        "docqa-quality-batch1-100000-s42-replay-arc arc 100,000 100k one request at a time 42 0.400"
    )
    assert f"{cell} 355.9 predicted yes" in said
    nothing = "\N{EN DASH}"
    assert f"{nothing} {nothing} {nothing} no: not run: {_SCRIPT}" in said
    assert "nan" not in said
    assert "vLLM 0.32.0 patches, sha256 999e9774e9d2 machine A CPU, 2 cores" in said
    assert "measured 2026-11-14 00:00 UTC to 2026-11-19 00:00 UTC git revision b5fc7d5a9c0e" in said
    measured_ttft = _words(_article(page, "online-ttft"))
    assert "lru 9,984 100k open loop, Poisson arrivals, 8 requests/s 42 0.400 50.0" in measured_ttft
    assert f" measured yes; disturbed: {_DISTURBED}" in measured_ttft
    assert "disturbed" not in said
    # What the noise is told by.
    assert "-lru-again1 " in measured_ttft


@pytest.mark.parametrize("outcome", ["not run", "not drawn"])
def test_figure_that_is_none_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    placeholder = style.not_run if outcome == "not run" else style.not_drawn
    figure = placeholder(catalogue.FIGURES["fig7"].title, f"{_SCRIPT} {_LONG}")
    style.save(figure, _png(folder, "fig7"), folder / "figures" / "fig7.pdf")
    assert _write(folder, monkeypatch) == 0
    page = (folder / "report.html").read_text()
    assert f"fig7 replay, {outcome} online-ttft cpu online-hitrate" in _words(page)
    fig7 = _article(page, "fig7")
    assert f"tier replay: {outcome}, as the caption says" in fig7
    assert f"{_SCRIPT} {_LONG.strip()}" in _words(fig7)


def test_machines_that_differ_are_all_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = pd.read_csv(folder / "cells.csv")
    cells.loc[cells["seed"] == 43, "machine"] = "Another CPU, 8 cores"
    cells.to_csv(folder / "cells.csv", index=False)
    assert _write(folder, monkeypatch) == 0
    said = _words(_article((folder / "report.html").read_text(), "fig3"))
    assert "machine A CPU, 2 cores; Another CPU, 8 cores" in said


def test_policies_are_in_a_table(page: str) -> None:
    assert "docqa-quality: 2 rows" in _words(page)
    assert re.search(r"100,000 (arc|lru) engine 2 0.400 0.000", _words(page))


def test_commands_run_what_they_say(checkout: Path, page: str) -> None:
    draw, measure = map(
        html.unescape, re.findall("<pre>(.*?)</pre>", _article(page, "fig3"), re.DOTALL)
    )
    for command, reason in ((draw, None), (measure, "Forced execution")):
        run = subprocess.run(
            ["bash", "-c", f"{shlex.quote(sys.executable)} -m {command} --dry-run"],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert "results/cpu/figures/fig3.png" in run.stdout
        for seed in (42, 43) if reason else ():
            job = run.stdout.partition(f"output: results/cpu/cells/replay-docqa-quality-s{seed}\n")
            assert reason in job[2].partition("\n\n")[0]


def test_sections_that_are_named_exist(root: Path, page: str) -> None:
    headings = re.findall(r"^## (.*)", (root / "ARTIFACT.md").read_text(), re.MULTILINE)
    named = re.findall(
        r'<a href="../../ARTIFACT.md#([^"]+)">ARTIFACT.md, <cite>([^<]+)</cite></a>', page
    )
    assert named
    for anchor, heading in named:
        assert heading in headings
        assert anchor == heading.lower().replace(" ", "-")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: _png(folder, "fig7").unlink(), "fig7.png: no figure: No such file"),
        (lambda folder: _png(folder, "fig7").write_text("none"), "fig7.png: no figure: not a PNG"),
        (
            lambda folder: plt.imsave(_png(folder, "fig7"), [[0.0]]),
            "fig7.png: has no caption in it",
        ),
        (lambda folder: (folder / "claims.json").unlink(), "claims.json: not readable: "),
        (lambda folder: (folder / "claims.json").write_text("{"), "claims.json: not readable: "),
    ],
)
def test_what_is_missing_is_named_and_nothing_written(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    break_it: Any,
    message: str,
) -> None:
    break_it(folder)
    assert _write(folder, monkeypatch) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not list(folder.glob("*report.html*"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.mark.usefixtures("page")
@pytest.mark.parametrize("width", [390, 1280])
def test_browser_shows_it_whole(browser: Browser, folder: Path, width: int) -> None:
    with opened(browser, folder / "report.html", width) as (tab, wrong):
        # Closed ones hide what is too wide.
        for is_open in (False, True):
            tab.evaluate(f"document.querySelectorAll('details').forEach(d => d.open = {is_open:d})")
            page_width, window_width = tab.evaluate(
                "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
            assert page_width <= window_width
        widths = tab.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert len(widths) == 6
        assert all(widths)
        assert tab.evaluate("document.querySelector('table').id") == "claims-table"
        levels = tab.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName[1])")
        assert levels == [*"12", *"2", *"333333", *"22"]
        assert (
            tab.evaluate("document.querySelectorAll('th:not([scope]), img:not([alt])').length") == 0
        )
        assert wrong == []


@pytest.mark.usefixtures("page")
@pytest.mark.parametrize("width", [390, 1280])
def test_picture_opens_wider_than_the_page_in_its_place(
    browser: Browser, folder: Path, width: int
) -> None:
    with opened(browser, folder / "report.html", width) as (tab, _):
        picture = tab.locator("#fig3 img")
        assert picture.evaluate("image => image.clientWidth") < width
        picture.click()
        assert picture.evaluate("image => image.clientWidth") > width
        assert picture.evaluate("image => image.closest('summary').clientWidth") < width
