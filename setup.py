"""The README as a package page: every link and picture by its whole address. All else is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import setup

# A release puts its owner's name here.
PAGES, FILES = "https://github.com/OWNER/jaxdiv/blob/main/", "https://raw.githubusercontent.com/OWNER/jaxdiv/main/"


def whole(found: re.Match) -> str:
    return f"{found[1]}{FILES if found[1].startswith('!') else PAGES}{found[2]})"


readme = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
readme = re.sub(r"(!?\[[^\]]*\]\()(?!https?:|#)([^)]*)\)", whole, readme)
setup(long_description=readme, long_description_content_type="text/markdown")
