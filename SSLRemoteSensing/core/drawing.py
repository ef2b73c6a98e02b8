"""matplotlib as it comes: what a user has set for figures of their own changes none of ours."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping


@contextlib.contextmanager
def plain_figures(style: Mapping[str, object] | None = None) -> Iterator[None]:
    """The block (or function) draws in matplotlib's defaults and `style`, into memory and files: no
    backend of windows or of a notebook is loaded, whatever MPLBACKEND and matplotlibrc say."""
    is_new = "matplotlib" not in sys.modules
    # With a backend there that this Python does not have, matplotlib cannot be imported.
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if is_new and backend:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend  # for the figures of a notebook
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        # A class or a file may be called $.
        matplotlib.rcParams.update({"text.parse_math": False} | dict(style or {}))
        yield
