"""Brevitas without the warnings that are not meant for its users."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Brevitas warns of itself when it is imported, and of torch's exporter when that runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
