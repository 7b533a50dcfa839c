"""Takes the pictures of docs/dashboard.md from a running cluster, by hand:

sk8 dashboard &          # prints ADDRESS
.venv/bin/python tests/support/dashboard_pictures.py ADDRESS docs/pictures
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from browser import browser_page
from playwright.async_api import expect


async def take(address: str, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        async with browser_page(color_scheme=scheme) as page:
            await page.goto(address)
            await page.locator(".pod.good").nth(2).click()
            await expect(page.get_by_role("heading", name="Conditions")).to_be_visible()
            await page.screenshot(path=directory / f"dashboard-machines-{scheme}.png")
            if scheme == "dark":
                return
            for view, ready in (("Health", "row:leader"), ("Chaos", "img:fault")):
                await page.get_by_role("link", name=view).click()
                role, name = ready.split(":")
                await expect(page.get_by_role(role, name=name).first).to_be_visible()  # type: ignore[arg-type]
                await page.screenshot(path=directory / f"dashboard-{view.lower()}.png")


if __name__ == "__main__":
    asyncio.run(take(sys.argv[1], Path(sys.argv[2])))
