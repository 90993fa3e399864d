"""What is tested with the testing room: the oracle and minibi's own indexes."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick(no_waiting_for_the_disk):
    """For all of them."""
