"""A real browser without a network, and what went wrong in it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

# Set where a browser must be there, as in CI.
_REQUIRED = "KV_REQUIRE_BROWSER"
_NAMES = ("chromium", "chromium-browser", "google-chrome")
# Nothing that it fetches for itself, either.
_ARGUMENTS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-sync",
    "--no-first-run",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium; without one the test is skipped, or fails where one is required."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        (pytest.fail if os.environ.get(_REQUIRED) else pytest.skip)(
            f"no browser: none of {', '.join(_NAMES)} is on the path; install Debian's chromium"
        )
    # Its sandbox does not start for root.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*_ARGUMENTS, *sandbox])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, file: Path, width: int) -> Iterator[tuple[Page, list[str]]]:
    """Open a file in a window so many CSS pixels wide.

    Yields:
        The page, and a list that fills with the requests that it makes and the errors that it
        reports. No request but the one for the file gets anywhere.

    """
    wrong: list[str] = []

    def answer(route: Route) -> None:
        if route.request.url == file.as_uri():
            route.continue_()
            return
        wrong.append(f"request: {route.request.url}")
        route.abort()

    context = browser.new_context(viewport={"width": width, "height": 900})
    context.route("**/*", answer)
    page = context.new_page()
    page.on("console", lambda said: said.type == "error" and wrong.append(f"error: {said.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.goto(file.as_uri())
    yield page, wrong
    context.close()
