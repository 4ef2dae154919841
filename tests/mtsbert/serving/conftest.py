"""Fixtures that start the real server on a free port, with the small checkpoint."""

from contextlib import ExitStack

import pytest

from mtsbert.exports.pipeline import load_pipeline


@pytest.fixture(scope="session")
def ask(checkpoint):
    """The pipeline that the servers answer with."""
    return load_pipeline(str(checkpoint))


@pytest.fixture(scope="session")
def servers():
    """The module that starts servers; tests are skipped without the packages that it needs."""
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        pytest.importorskip(package, reason=f"{package} is not installed (requirements-serve.txt)")
    from tests.mtsbert.serving import servers

    return servers


@pytest.fixture(scope="session")
def server(servers, ask):
    """A client of a server with the limits that are the default."""
    with servers.running(servers.GatedInference(ask)) as client:
        yield client


@pytest.fixture
def serve(servers, ask):
    """Starts a server of its own for a test; returns a client and the model behind it."""
    with ExitStack() as stack:

        def start(pipeline=ask, **options):
            inference = servers.GatedInference(pipeline)
            return stack.enter_context(servers.running(inference, **options)), inference

        yield start
