"""The version of sr-deploy. This module imports nothing, so every other module may import it."""

__version__ = "0.1.0"


def built_from() -> str | None:
    """Return the commit that this package was built from; None in a checkout, or if the build did not know it.

    12 digits, with a plus sign if the source differed from the commit. `setup.py` writes the file.
    """
    from pathlib import Path

    try:
        return Path(__file__).with_name("COMMIT").read_text("utf-8").strip() or None
    except OSError:
        return None
