"""The store's contract is one: every test of it runs on SQLite and on PostgreSQL."""

import threading

import pytest

from tailfleet_coordinator.db import migrate


@pytest.fixture(scope="session")
def postgresql_template(postgresql):
    """The name of a database of this release's form; copying it is faster than migrating each."""
    name = postgresql.create()
    migrate.prepare(postgresql.url(name))
    return name


@pytest.fixture
def postgresql_lab(open_lab, postgresql, postgresql_template):
    name = postgresql.create(postgresql_template)
    lab = open_lab(postgresql.url(name))
    yield lab
    lab.close()
    postgresql.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def lab(request):
    return request.getfixturevalue(f"{request.param}_lab")


@pytest.fixture
def together():
    """``together(act, …)``: run the acts at once, each in a thread; what each returned, or the exception it raised."""

    def run(*acts):
        ready = threading.Barrier(len(acts))
        outcomes = [None] * len(acts)

        def one(number, act):
            ready.wait()
            try:
                outcomes[number] = act()
            except Exception as error:
                outcomes[number] = error

        threads = [threading.Thread(target=one, args=(number, act)) for number, act in enumerate(acts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return outcomes

    return run


@pytest.fixture
def board(lab):
    return lab.board("nano")


@pytest.fixture
def job(lab, board):
    lab.campaign("c1", "nano")
    return lab.sweep("c1", board)
