"""What the tests of reliability share with those of the flows."""

from tests.flows.conftest import tiny  # noqa: F401 - a fixture
