"""Fixtures that several test files share."""

import pytest

from rlhf_lib import assets, reviews
from rlhf_lib.models import Policy, load_model


@pytest.fixture(scope="session")
def rated() -> reviews.Reviews:
    """The real rated sentences; tests that need them are skipped where they can be neither found nor fetched."""
    try:
        return reviews.load()
    except assets.AssetError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def smol() -> Policy:
    """SmolLM2; tests that need it are skipped where its weights can be neither found nor fetched."""
    try:
        return load_model("smol")
    except (assets.AssetError, ImportError) as error:
        pytest.skip(str(error))
