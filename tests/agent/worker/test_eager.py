"""torch as it is, on a model of two blocks: what each unit runs, and that it is run as often as asked."""

import pytest
import torch

from tailfleet_agent.worker.backends import eager
from tailfleet_agent.worker.run import Measuring, run
from tailfleet_reduce import METHODS, dissect
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.errors import ConfigurationError, InputError
from tailfleet_schema.schedule import Schedule, dense

WHOLE = Unit(Part.MODEL, 17, 17)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def open_eager(make_job):
    def open_it(**more):
        return eager.EagerBackend(make_job(backend="eager", **more), "")

    return open_it


def called(backend, unit):
    with torch.no_grad():
        return backend.prepare(unit)()


def schedules(spec):
    return [dense(spec.name, spec.geometry)] + [
        Schedule(method, spec.name, 17, 1, [12, 12]) for method in ("topk", "pomt", "tome")
    ]


def test_every_timed_unit_of_a_sweep_is_measured(make_job):
    job = make_job(backend="eager", rounds=2, calls=3)

    results = list(run(job, Measuring(job, lambda: eager.EagerBackend(job, ""), lambda: None, lambda: None)))

    assert sorted(result.key for result in results) == sorted(job.keys())
    assert all(len(result.call_ns) == 3 and result.status == "ok" for result in results)


def test_all_tokens_give_the_models_own_logits(open_eager):
    backend = open_eager()

    with torch.no_grad():
        own = backend._programs.model(backend._programs.images)
    torch.testing.assert_close(called(backend, WHOLE), own)
    torch.testing.assert_close(called(backend, Unit(Part.SENTINEL, 17, 17)), own)


def test_n_tokens_run_through_every_block(open_eager, monkeypatch):
    backend = open_eager(batch=2)
    seen = []
    for block in backend._programs.anatomy.blocks:
        block.module.register_forward_hook(lambda *_: None)
        block.module.norm1.register_forward_hook(lambda _module, given, _out: seen.append(tuple(given[0].shape)))
        block.module.mlp.register_forward_hook(lambda _module, given, _out: seen.append(tuple(given[0].shape)))

    assert called(backend, Unit(Part.MODEL, 9, 9)).shape == (2, 10)
    assert seen == [(2, 9, 32)] * 4


@pytest.mark.parametrize(
    ("unit", "norms", "mlps"),
    [
        (Unit(Part.ATTENTION, 9, 9), [9, 9], []),
        (Unit(Part.ATTENTION, 9, 9, "sized"), [9, 9], []),
        (Unit(Part.MLP, 9, 9), [], [9, 9]),
        (Unit(Part.REDUCE, 17, 12, "tome"), [17, 17], []),
        (Unit(Part.FIXED, 17, 17), [], []),
    ],
)
def test_parts_run_their_halves_of_all_blocks(open_eager, unit, norms, mlps):
    backend = open_eager()
    attended, mixed = [], []
    for block in backend._programs.anatomy.blocks:
        block.module.norm1.register_forward_hook(lambda _module, given, _out: attended.append(given[0]))
        block.module.mlp.register_forward_hook(lambda _module, given, _out: mixed.append(given[0].shape[1]))

    called(backend, unit)

    assert [x.shape[1] for x in attended] == norms
    assert mixed == mlps


def test_halves_follow_one_another_as_in_the_model_but_reducing_ones_all_start_alike(open_eager):
    backend = open_eager()
    entered = []
    for block in backend._programs.anatomy.blocks:
        block.module.norm1.register_forward_hook(lambda _module, given, _out: entered.append(given[0]))
    left = [called(backend, unit) for unit in (Unit(Part.ATTENTION, 9, 9), Unit(Part.REDUCE, 17, 12, "tome"))]
    first = backend._programs.anatomy.blocks[0]
    with torch.no_grad():
        torch.testing.assert_close(entered[1], first.attention(entered[0]))

    assert entered[2].data_ptr() == entered[3].data_ptr()
    assert [tuple(x.shape) for x in left[1]] == [(1, 12, 32)] * 2


def test_sized_attention_weighs_keys_by_sizes(open_eager):
    program = open_eager()._programs.program(Unit(Part.ATTENTION, 9, 9, "sized"))
    x, sizes = program.inputs
    with torch.no_grad():
        alike, uneven = program.module(x, sizes), program.module(x, sizes * torch.arange(1.0, 10.0))
        plain = called(open_eager(), Unit(Part.ATTENTION, 9, 9))

    torch.testing.assert_close(alike, plain)
    assert not torch.allclose(uneven, plain)


def test_reducing_parts_leave_the_asked_number_of_tokens(open_eager, monkeypatch):
    backend = open_eager()
    left = []
    kind = type(backend._programs.anatomy.blocks[0])
    whole = kind.attention_reduce

    def watched(self, x, method, kept, state=None):
        out = whole(self, x, method, kept, state)
        left.append((method.name, tuple(out.shape)))
        return out

    monkeypatch.setattr(kind, "attention_reduce", watched)
    for name in METHODS:
        called(backend, Unit(Part.REDUCE, 17, 12, name))

    assert left == [(name, (1, 12, 32)) for name in METHODS for _ in range(2)]


def test_schedules_run_the_reduced_model(make_job):
    job = make_job(backend="eager")
    many = schedules(job.workload.model)
    job = make_job([Unit(Part.SCHEDULE, 17, one.keep[-1], one.digest) for one in many], "eager", schedules=many)
    backend = eager.EagerBackend(job, "")

    logits = [called(backend, unit) for unit in job.units]

    torch.testing.assert_close(logits[0], called(backend, WHOLE))
    assert all(not torch.equal(logits[0], other) for other in logits[1:])


def test_weights_and_images_follow_the_seed(open_eager):
    def logits(seed):
        return called(open_eager(seed=seed), WHOLE)

    torch.testing.assert_close(logits(3), logits(3), rtol=0, atol=0)
    assert not torch.equal(logits(3), logits(4))


def test_a_unit_first_met_is_called_once_untimed(open_eager):
    backend = open_eager()
    count = []
    backend._programs.anatomy.blocks[0].module.norm1.register_forward_hook(lambda *_: count.append(1))

    assert len(backend.measure(WHOLE, 0, 3)) == 3
    assert len(count) == 4
    backend.measure(WHOLE, 1, 3)
    assert len(count) == 7


def test_no_call_records_gradients(open_eager):
    backend = open_eager()
    seen = []
    backend._programs.anatomy.blocks[0].module.norm1.register_forward_hook(
        lambda *_: seen.append(torch.is_grad_enabled())
    )

    backend.warm_up()
    backend.measure(Unit(Part.ATTENTION, 9, 9), 0, 1)

    assert set(seen) == {False}


def test_a_count_that_does_not_fit_is_a_result(make_job):
    job = make_job([Unit(Part.MODEL, n, n) for n in (5, 17)], "eager", rounds=1)
    backend = eager.EagerBackend(job, "")

    def too_large(_module, given):
        if given[0].shape[1] > 9:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")

    backend._programs.anatomy.blocks[1].module.norm1.register_forward_pre_hook(too_large)

    results = list(run(job, Measuring(job, lambda: backend, lambda: None, lambda: None)))

    assert {result.unit.tokens: result.status for result in results} == {5: "ok", 17: "oom"}


@pytest.mark.parametrize(
    ("unit", "sentence"),
    [
        (Unit(Part.MODEL, 18, 18), "18 tokens asked for, but the model has 17"),
        (Unit(Part.REDUCE, 17, 9, "magic"), "unknown method 'magic'"),
        (Unit(Part.INPUT, 9, 9), "input is judged, not timed"),
    ],
)
def test_what_cannot_be_timed_is_refused(open_eager, unit, sentence):
    with pytest.raises(InputError, match=sentence):
        open_eager().prepare(unit)


def test_a_dtype_without_kernels_is_a_sentence_about_this_board(open_eager, monkeypatch):
    backend = open_eager()

    def lacking(*_):
        raise RuntimeError("\"LayerNormKernelImpl\" not implemented for 'Half'")

    backend._programs.anatomy.blocks[0].module.norm1.register_forward_pre_hook(lacking)

    with pytest.raises(ConfigurationError, match="cannot compute in fp32 on this board's CPU"):
        backend.measure(WHOLE, 0, 1)


def test_a_dtype_without_kernels_is_refused_before_anything_is_timed(open_eager, monkeypatch):
    def lacking(*_, **__):
        raise RuntimeError("\"LayerNormKernelImpl\" not implemented for 'Half'")

    monkeypatch.setattr(torch.nn.functional, "layer_norm", lacking)
    timed = []
    monkeypatch.setattr(eager.timing, "timed_block", lambda *_: timed.append(1))

    with pytest.raises(ConfigurationError, match="cannot compute in fp16"):
        open_eager(dtype="fp16", attention="auto")
    assert not timed


@pytest.mark.parametrize("attention", ["fused", "explicit"])
def test_attention_is_computed_as_asked_in_whole_and_reduced_models(make_job, monkeypatch, attention):
    functional = torch.nn.functional
    if not hasattr(functional, "scaled_dot_product_attention"):
        pytest.skip("torch {} has no fused attention".format(torch.__version__))
    job = make_job(backend="eager")
    one = Schedule("topk", "tiny", 17, 1, [17, 12])
    job = make_job([WHOLE, Unit(Part.SCHEDULE, 17, 12, one.digest)], "eager", attention=attention, schedules=[one])
    backend = eager.EagerBackend(job, "")
    fused = functional.scaled_dot_product_attention
    used = []
    monkeypatch.setattr(
        functional, "scaled_dot_product_attention", lambda *given, **more: used.append(1) or fused(*given, **more)
    )

    for unit in job.units:
        called(backend, unit)

    assert len(used) == (4 if attention == "fused" else 0)
    assert backend.describe()["attention"] == attention + ", as asked"


def test_auto_times_both_kinds_of_attention(make_job):
    told = eager.EagerBackend(make_job(backend="eager", attention="auto"), "").describe()["attention"]

    assert told.split(",")[0] in ("fused", "explicit")
    assert "as fast as" in told or "has no fused attention" in told or "uses no fused attention" in told


def test_memory_of_a_unit_is_told_and_reset_before_it(open_eager, monkeypatch):
    backend = open_eager()
    if backend._device == "cuda":
        pytest.skip("the process's memory is told on a CPU alone")
    log = []
    monkeypatch.setattr(backend._resident, "reset", lambda: log.append("reset"))
    monkeypatch.setattr(backend._resident, "read", lambda: log.append("read") or 5)

    backend.measure(WHOLE, 0, 1)

    assert backend.peak_memory_bytes() == 5
    assert log == ["reset", "read"]


def test_it_tells_what_it_runs_on(open_eager):
    told = open_eager(attention="explicit").describe()

    assert told["torch"] == "torch " + torch.__version__
    assert told["threads"] == "1 threads"
    assert dissect(open_eager()._programs.model).depth == 2
