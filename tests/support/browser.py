"""Debian's Chromium without a window, driven by Playwright, and what accessibility checks say of its page."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from typing import Any

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, async_playwright

CHROMIUM = shutil.which("chromium")
PATIENCE_MS = 60_000
"""How long the page may take for what it is waited for; a busy box is no failure."""
_SIZE = {"width": 1280, "height": 800}


@contextlib.asynccontextmanager
async def browser_page(**context: Any) -> AsyncIterator[Page]:
    """An empty page of a fresh profile. The browser runs as root here, hence without its sandbox. When the test is
    over: the page broke no rule of its own Content-Security-Policy and threw nothing."""
    assert CHROMIUM, "Debian's chromium is not installed: infra/bootstrap.sh --tests"
    complaints: list[str] = []
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"], timeout=PATIENCE_MS
        )
        try:
            profile = await browser.new_context(viewport=_SIZE, ignore_https_errors=True, **context)
            page = await profile.new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda said: "Content Security Policy" in said.text and complaints.append(said.text))
            yield page
        finally:
            await browser.close()
    assert not complaints, complaints


async def accessibility_problems(page: Page) -> list[str]:
    """What axe-core finds of WCAG 2.2 A and AA, a line each."""
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    found = await Axe().run(page, options=rules)
    return [
        f"{problem['id']}: {problem['help']}: {node['html'][:200]} {node.get('failureSummary', '')[:200]}"
        for problem in found.response["violations"]
        for node in problem["nodes"]
    ]
