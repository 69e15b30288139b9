"""Prepare the sources of the documentation site: pages, generated references, navigation.

    python docs/hooks --out build/docs

The folder then holds what the site is built from: `mkdocs.yml` and the pages. Pages of the
repository's root become pages of the site, and files of the repository that a page links to become
pages that show them, so that the site needs nothing outside itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pages import prepare


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python docs/hooks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("build/docs"))
    parser.add_argument("--site", type=Path, default=Path("site"), help="where the site goes")
    options = parser.parse_args()
    prepare(options.out.resolve(), options.site.resolve())


main()
