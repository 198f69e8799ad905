"""Fixtures that several test files share."""

import pytest

from rlhf_lib import assets, reviews


@pytest.fixture(scope="session")
def rated() -> reviews.Reviews:
    """The real rated sentences; tests that need them are skipped where they can be neither found nor fetched."""
    try:
        return reviews.load()
    except assets.AssetError as error:
        pytest.skip(str(error))
