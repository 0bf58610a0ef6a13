"""The guest that the tests of one module share: booted once, since it answers in tens of milliseconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from needs import need
from nsbook.guest import Guest


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    need("uml")
    with Guest.boot() as it:
        yield it
