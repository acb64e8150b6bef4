"""What the tests of a review's files share."""

import pytest
from tiny_case import tiny_result

from medpanoptic.io import write_result


@pytest.fixture
def case(tmp_path):
    """A result folder with three lesions."""
    folder = tmp_path / "case"
    write_result(tiny_result(), folder, formats=["csv"])
    return folder
