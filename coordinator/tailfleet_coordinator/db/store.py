"""The store: every query of the coordinator, each under a verb. The only truth; all else is a cache of it.

Safe to share between threads; each process opens its own. Every method is one transaction. Moments are judged by the
database's clock. Methods raise the refusals of :mod:`tailfleet_coordinator.refusals` and nothing of SQLAlchemy's
for what a caller can do wrong. Its parts, by noun, are the modules beside this one.
"""

from tailfleet_coordinator.db.store_access import AccessQueries
from tailfleet_coordinator.db.store_boards import BoardQueries
from tailfleet_coordinator.db.store_campaigns import CampaignQueries
from tailfleet_coordinator.db.store_curves import CurveQueries
from tailfleet_coordinator.db.store_jobs import JobQueries
from tailfleet_coordinator.db.store_leadership import LeadershipQueries
from tailfleet_coordinator.db.store_plans import PlanQueries
from tailfleet_coordinator.db.store_records import RecordQueries
from tailfleet_coordinator.db.store_results import ResultQueries
from tailfleet_coordinator.db.store_shipments import ShipmentQueries
from tailfleet_coordinator.db.store_workloads import WorkloadQueries


class Store(
    LeadershipQueries,
    AccessQueries,
    BoardQueries,
    WorkloadQueries,
    CampaignQueries,
    JobQueries,
    RecordQueries,
    ResultQueries,
    CurveQueries,
    PlanQueries,
    ShipmentQueries,
):
    """All queries on one database."""
