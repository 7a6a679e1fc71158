"""Pictures for docs/report.md: `python tests/pictures_of_reports.py ARITHMETIC/report.html SVAMP/report.html docs/figures`.

Opens both pages in an installed Chromium at 1280 and 390 pixels, light and dark, says what their consoles said, and writes three
small PNG files: either page on a desk, and four views of a phone side by side. Needs the extra `browser`.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from test_report_browser import CHROMIUM

DESK, PHONE = (1280, 1180), (390, 844)
COLOURS = 128
View = tuple[str, tuple[int, int], Literal["light", "dark"], str]


def shot(page: Page, section: str) -> Image.Image:
    """The window with `section` at its top, below the row of links."""
    page.evaluate_handle("id => document.getElementById(id).scrollIntoView()", section) if section else None
    page.wait_for_timeout(300)
    return Image.open(io.BytesIO(page.screenshot()))


def main(arithmetic: str, svamp: str, folder: str) -> None:
    views: dict[str, list[View]] = {
        "report_arithmetic": [(arithmetic, DESK, "light", "")],
        "report_svamp": [(svamp, DESK, "dark", "examples")],
        "report_phone": [
            (arithmetic, PHONE, "light", ""), (arithmetic, PHONE, "dark", "teachers"),
            (svamp, PHONE, "light", "kinds"), (svamp, PHONE, "dark", "examples"),
        ],
    }  # fmt: skip
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, wanted in views.items():
            taken = []
            for file, (width, height), scheme, section in wanted:
                # The pages' policy forbids to evaluate text; here nothing strange is opened.
                context = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme=scheme, bypass_csp=True
                )
                page = context.new_page()
                page.on("console", lambda message: print("console:", message.text))
                page.on("pageerror", lambda error: print("error:", error))
                page.goto(Path(file).resolve().as_uri())
                page.wait_for_selector("html[data-drawn]", state="attached", timeout=120_000)
                taken.append(shot(page, section))
                context.close()
            beside = Image.new("RGB", (sum(one.width + 10 for one in taken) - 10, taken[0].height), "#808080")
            for i, one in enumerate(taken):
                beside.paste(one, (i * (one.width + 10), 0))
            beside.quantize(COLOURS).save(Path(folder) / f"{name}.png", optimize=True)
            print(name, beside.size, (Path(folder) / f"{name}.png").stat().st_size)


if __name__ == "__main__":
    main(*sys.argv[1:])
