"""A store on a fresh SQLite file, and a small lab to fill it with boards, campaigns and jobs.

The store's own tests run it on PostgreSQL as well: see ``db/conftest.py``.
"""

import contextlib
import shutil
import socket
import threading

import pytest
import uvicorn
from sqlalchemy import update

from tailfleet_coordinator.agent_bundle import Bundle
from tailfleet_coordinator.artifacts import Artifacts
from tailfleet_coordinator.client import Fleet
from tailfleet_coordinator.curves import CurveReader, file_curve
from tailfleet_coordinator.db import migrate
from tailfleet_coordinator.db.engine import Now, open_engine
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.db.tables import JobTable, MachineUseTable
from tailfleet_coordinator.settings import Settings
from tailfleet_coordinator.web.access import hashed
from tailfleet_coordinator.web.api import create_app
from tailfleet_coordinator.web.context import Context
from tailfleet_schema.board import BoardFacts, BoardKind, Hardware, Software
from tailfleet_schema.campaign import CampaignRequest
from tailfleet_schema.curve import Part, Unit, UnitResult
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.messages import Outcome
from tailfleet_schema.workload import Geometry, ModelSpec, Workload

LEASE_SECONDS = 60.0
CLAIMABLE_SECONDS = 30.0

TINY = ModelSpec(
    "tiny",
    "VisionTransformer",
    Geometry(
        depth=4, dim=16, heads=2, mlp_dim=32, tokens=17, prefix=1, image_size=16, patch_size=4, channels=3, classes=10
    ),
)


def facts_of(kind=BoardKind.PHYSICAL, machine="machine-1", torch="2.0", profile="jetson-tx2"):
    return BoardFacts(
        kind,
        Hardware(machine, "aarch64", "cpu", 4, 1 << 30),
        Software("linux", "5", "3.10", "0.1", torch=torch),
        profile if kind is BoardKind.VIRTUAL else None,
    )


def stairs(tokens):
    """A time in ns with a cliff between 8 and 9 tokens."""
    return 1_000_000 + 1000 * tokens + (500_000 if tokens > 8 else 0)


class Lab:
    """A store, and short ways to put things into it, to see what is stored, and to move time."""

    facts_of = staticmethod(facts_of)

    def __init__(self, url):
        self.url = url
        self.store = Store(url)
        self._engine = open_engine(url).execution_options(tailfleet_writing=True)
        self.model = TINY
        self.store.put_model(TINY)

    def close(self):
        self.store.close()
        self._engine.dispose()

    def board(self, name, kind=BoardKind.PHYSICAL, machine="machine-1", seen=True):
        facts = facts_of(kind, machine)
        self.store.create_enrolment(name, facts.virtual_profile, hashed(f"enrol-{name}"), 60)
        self.store.enroll(hashed(f"enrol-{name}"), facts, hashed(f"{name}-token"))
        (board_id,) = self.store.find_boards([name])
        if seen:
            self.store.see_board(board_id, facts, None)
        return board_id

    def campaign(self, campaign_id, *board_names, **request):
        asked = CampaignRequest(**{"models": ["tiny"], "boards": list(board_names), "methods": ["topk"], **request})
        self.store.create_campaign(campaign_id, asked, self.store.find_boards(list(board_names)))
        return asked

    def sweep(self, campaign_id, board_id, counts=(5, 17), rounds=2, effort=None):
        """A queued sweep; its order."""
        units = [Unit(Part.MODEL, n, n) for n in counts]
        job = Job(f"{campaign_id}-{board_id}", JobKind.SWEEP, Workload(self.model), units, rounds, 1, 0, effort=effort)
        assert self.store.create_job(campaign_id, board_id, "tiny", job)
        return job

    def curve(self, campaign_id, board_name, counts=(2, 5, 8, 9, 13, 17), rounds=4, ns=stairs, **workload):
        """The id of a curve of ``board_name``, filed with ``ns(count)`` as its times and one call in a block."""
        self.campaign(campaign_id, board_name)
        (board_id,) = self.store.find_boards([board_name])
        if self.store.get_board(board_id).kind is BoardKind.VIRTUAL:
            workload["backend"] = "virtual"
        whole = [Unit(Part.SENTINEL, 17, 17), *(Unit(Part.MODEL, n, n) for n in counts)]
        job = Job(f"{campaign_id}-curve", JobKind.SWEEP, Workload(self.model, **workload), whole, rounds, 1, 0)
        assert self.store.create_job(campaign_id, board_id, "tiny", job)
        self.claim(board_id)
        results = [UnitResult(u, r, [ns(u.tokens)], peak_memory_bytes=1 << 20) for r in range(rounds) for u in whole]
        self.add(board_id, job, 1, results)
        self.store.finish_job(board_id, job.id, 1, Outcome.DONE, None, "")
        return file_curve(self.store, job.id)

    def claim(self, board_id):
        return self.store.claim_job(board_id, LEASE_SECONDS, CLAIMABLE_SECONDS)

    def add(self, board_id, job, attempt, results):
        return self.store.add_results(board_id, job.id, attempt, results, LEASE_SECONDS)

    def sql(self, statement, *arguments):
        """Straight to the database, past the store: rows as tuples. Each ``?`` stands for an argument."""
        if self._engine.dialect.name == "postgresql":
            statement = statement.replace("?", "%s")
        with self._engine.begin() as connection:
            found = connection.exec_driver_sql(statement, arguments or None)
            return [tuple(row) for row in found] if found.returns_rows else []

    def write(self, statement):
        """Change stored rows past the store; ``Now(seconds)`` is the database's clock."""
        with self._engine.begin() as connection:
            connection.execute(statement)

    def expire(self):
        """An hour passes for every lease and every use of a machine."""
        self.write(update(JobTable).where(JobTable.lease_expires_at.is_not(None)).values(lease_expires_at=Now(-3600)))
        self.write(update(MachineUseTable).values(expires_at=Now(-3600)))


def results_of(job, keep=lambda unit, number: True):
    return [UnitResult(unit, r, [1000 + r]) for r in range(job.rounds) for unit in job.units if keep(unit, r)]


Lab.results_of = staticmethod(results_of)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    path = tmp_path_factory.mktemp("database") / "empty.sqlite"
    migrate.prepare(f"sqlite:///{path}")
    return path


@pytest.fixture
def open_lab():
    """``open_lab(url)``: a lab on that database, closed when the test ends."""
    labs = []

    def opened(url):
        labs.append(Lab(url))
        return labs[-1]

    yield opened
    for lab in labs:
        lab.close()


@pytest.fixture
def sqlite_lab(open_lab, empty_database, tmp_path):
    path = tmp_path / "tailfleet.sqlite"
    shutil.copy(empty_database, path)
    return open_lab(f"sqlite:///{path}")


@pytest.fixture
def lab(sqlite_lab):
    return sqlite_lab


OPERATOR, VIEWER = "operator-token", "viewer-token"
BODY_BYTES = 256 * 1024


class Live:
    """The application behind a real socket, served by a thread; over https where it is given a certificate."""

    def __init__(self, lab, tmp_path, certificate=None, look_seconds=0.01, port=0, **settings):
        self.lab = lab
        self.settings = Settings(**{"state_dir": tmp_path, "poll_seconds": 20.0, "body_bytes": BODY_BYTES, **settings})
        self.artifacts = Artifacts(tmp_path / "artifacts")
        self.bundle = Bundle(b"an agent", "ab" * 32)
        self.operator, self.viewer = OPERATOR, VIEWER
        if lab.store.find_caller(hashed(OPERATOR)) is None:
            lab.store.replace_token("op", "operator", hashed(OPERATOR))
            lab.store.replace_token("look", "viewer", hashed(VIEWER))
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        # Who connects before the server has started waits instead of being turned away.
        listener.listen()
        self.url = "{}://127.0.0.1:{}".format("https" if certificate else "http", listener.getsockname()[1])
        context = Context(
            self.settings, lab.store, self.artifacts, self.bundle, CurveReader(lab.store), self.url, "only here"
        )
        self.app = create_app(context, look_seconds)
        tls = (lambda config, default: certificate.context) if certificate else None
        self.server = uvicorn.Server(
            uvicorn.Config(self.app, log_config=None, access_log=False, ssl_context_factory=tls)
        )
        self.thread = threading.Thread(target=self.server.run, args=([listener],))
        self.thread.start()

    def board(self, name, *arguments, **options):
        """An enrolled board whose token is ``NAME-token``; its id."""
        return self.lab.board(name, *arguments, **options)

    def close(self):
        self.app.state.let_go()
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture
def serve(lab, tmp_path):
    """Serves the lab, with other settings than the usual ones where named."""
    with contextlib.ExitStack() as stack:

        def start(**options):
            live = Live(lab, tmp_path, **options)
            stack.callback(live.close)
            return live

        yield start


@pytest.fixture
def live(serve):
    return serve()


@pytest.fixture
def fleet(live):
    with Fleet(live.url, live.operator) as fleet:
        yield fleet


@pytest.fixture
def pets(tmp_path):
    """A folder of images to send: tiny files that begin like images, and differ."""
    folder = tmp_path / "pets"
    for name, count in (("cat", 6), ("dog", 3)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + f"{name} {number}".encode())
    return folder
