"""Takes the pictures of docs/dashboard.md from a running cluster, by hand:

sk8 dashboard &          # prints ADDRESS
.venv/bin/python tests/support/dashboard_pictures.py ADDRESS docs/pictures
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.support.browser import browser_page


async def take(address: str, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for scheme in ("dark", "light"):
        async with browser_page(color_scheme=scheme) as page:
            await page.goto(address)
            await page.locator(".pod.good").nth(2).click()
            await page.get_by_role("heading", name="Conditions").wait_for()
            await page.screenshot(path=directory / f"dashboard-machines-{scheme}.png")
            if scheme == "dark":
                continue
            await page.get_by_role("link", name="Health").click()
            await page.get_by_role("row", name="leader").first.wait_for()
            await page.screenshot(path=directory / "dashboard-health.png")


if __name__ == "__main__":
    asyncio.run(take(sys.argv[1], Path(sys.argv[2])))
