"""What is tested with the testing room: the oracle and minibi's own indexes."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield
