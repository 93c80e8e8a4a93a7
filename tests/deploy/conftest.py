"""Fixtures of the deployment tests: servers that several of them use."""

import pytest

from .machines import three
from .servers import nginx, postgres, stac_api
from .simulated import make
from .skips import pytest_make_collect_report, pytest_runtest_makereport

__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]


@pytest.fixture(scope="session")
def database():
    """How clients find a PostgreSQL server, as environment variables."""
    with postgres() as environment:
        yield environment


@pytest.fixture(scope="session")
def stac_server(database, tmp_path_factory):
    """(address, log) of a STAC API on that server."""
    with stac_api(tmp_path_factory.mktemp("stac"), database) as served:
        yield served


@pytest.fixture(scope="session")
def images(request, tmp_path_factory):
    """(address, access log) of nginx in front of the real scenes."""
    from conftest import REAL

    with nginx(tmp_path_factory.mktemp("nginx"), REAL.parent) as served:
        yield served


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """A folder with the demo's catalog and what a run on this machine makes of it; see simulated.py."""
    return make(tmp_path_factory.mktemp("simulated"))


@pytest.fixture
def hosts(tmp_path):
    """Three machines; see machines.py."""
    with three(tmp_path) as made:
        yield made
