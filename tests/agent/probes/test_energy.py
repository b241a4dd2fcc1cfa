"""Energy counters and momentary power: what they are of, and that they only grow."""

import pytest

from tailfleet_agent import probes
from tailfleet_agent.probes import Energy, nvml

PACKAGE = "sys/class/powercap/intel-rapl:0/"
SECOND = "sys/class/powercap/intel-rapl:1/"


class Card(nvml.Session):
    """A GPU with these two figures, and no library to open."""

    def __init__(self, energy_mj, power_mw=None):
        self._figures = energy_mj, power_mw

    def energy_mj(self):
        return self._figures[0]

    def power_mw(self):
        return self._figures[1]


def test_a_cpus_packages_are_summed_without_their_parts(plant):
    second = {
        SECOND + "name": "package-1\n",
        SECOND + "energy_uj": "5000\n",
        SECOND + "max_energy_range_uj": "262143328850\n",
        "sys/class/powercap/intel-rapl:2/name": "psys\n",
        "sys/class/powercap/intel-rapl:2/energy_uj": "77\n",
    }

    assert probes.read_energy(root=plant("desktop", second)) == Energy(30000000.0 + 5.0, "cpu")


def test_a_counter_that_begins_anew_goes_on(plant):
    before = probes.read_energy_mj(False, plant("desktop", {PACKAGE + "energy_uj": "65532000000\n"}))
    after = probes.read_energy_mj(False, plant("desktop", {PACKAGE + "energy_uj": "389013\n"}))
    later = probes.read_energy_mj(False, plant("desktop", {PACKAGE + "energy_uj": "1389013\n"}))

    assert after - before == pytest.approx(1000.0)
    assert later - after == pytest.approx(1000.0)


def test_a_counter_that_only_root_may_read_is_none(plant, boards):
    # Null in a tree: nobody may.
    root = plant("nothing", {PACKAGE + "name": "package-0\n", PACKAGE + "energy_uj/closed": ""})

    assert probes.read_energy_mj(root=root) is None
    assert probes.read_telemetry(root).energy_mj is None


@pytest.mark.parametrize(
    ("on_gpu", "energy"),
    [(None, Energy(5.0, "gpu")), (True, Energy(5.0, "gpu")), (False, Energy(30000000.0, "cpu"))],
)
def test_a_job_is_charged_what_it_computes_on(plant, on_gpu, energy):
    root = plant("desktop")

    assert probes.read_energy(on_gpu, root, Card(5.0)) == energy
    assert probes.read_energy_mj(on_gpu, root, Card(5.0)) == energy.mj


def test_a_gpu_without_a_counter_is_not_charged_the_cpus(plant):
    root = plant("desktop")

    assert probes.read_energy_mj(True, root, Card(None)) is None
    assert probes.read_energy_mj(None, root, Card(None)) == 30000000.0
    assert probes.read_energy_mj(True, root) is None


def test_a_jetson_has_power_and_no_counter(plant):
    root = plant("nano")

    assert probes.read_energy_mj(root=root) is None
    assert [probes.read_power_mw(on_gpu, root) for on_gpu in (None, True, False)] == [4210.0] * 3


def test_a_pcs_power_is_its_gpus_and_only_for_jobs_on_it(plant):
    root = plant("desktop")

    assert probes.read_power_mw(True, root, Card(5.0, 143250.0)) == 143250.0
    assert probes.read_power_mw(None, root, Card(5.0, 143250.0)) == 143250.0
    assert probes.read_power_mw(False, root, Card(5.0, 143250.0)) is None
    assert probes.read_power_mw(None, root) is None
