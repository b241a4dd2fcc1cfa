"""Options of ``sweep run`` and ``campaign run``: what they ask of the coordinator, and what they refuse."""

import pytest

from tailfleet_coordinator.campaigns import workload_of
from tailfleet_coordinator.cli import sweeping
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import DEFAULT_METHODS, METHODS, CampaignRequest, SweepSettings
from tailfleet_schema.errors import Blame, InputError, TailfleetError
from tailfleet_schema.schedule import PLACEMENT

ALL = (
    "--counts", "all", "--precision", "1%", "--budget-seconds", "30", "--backend", "compile", "--dtype", "bf16",
    "--attention", "fused", "--batch", "4", "--rounds", "5", "--calls", "7", "--method", "topk,tome", "--fresh",
)  # fmt: skip


def asked(live):
    """The request of the only campaign."""
    (campaign,) = live.lab.store.list_campaigns()
    return campaign.request


@pytest.mark.parametrize("command", ["sweep", "campaign"])
def test_every_option_reaches_the_campaign(live, cli, command):
    live.board("nano")
    assert "1 boards × 1 models" in cli(command, "run", *ALL, "--no-wait")
    request = asked(live)
    assert request.sweep == SweepSettings("all", 5, 7, True, 0.01, 30.0)
    assert (request.backend, request.dtype, request.attention, request.batch) == ("compile", "bf16", "fused", 4)
    assert request.methods == ["topk", "tome"]
    assert (request.objective is not None) == (command == "campaign")


@pytest.mark.parametrize("command", ["sweep", "campaign"])
def test_without_options_the_schema_s_defaults_hold(live, cli, command):
    live.board("nano")
    cli(command, "run", "--no-wait")
    request = asked(live)
    assert request.sweep == SweepSettings()
    assert (request.backend, request.dtype, request.attention, request.batch) == ("eager", "fp32", "auto", 1)
    assert request.methods == list(DEFAULT_METHODS) == ["topk", "pomt", "tome"]


@pytest.mark.parametrize(
    ("text", "methods"), [("all", sorted(set(METHODS) - {"cropr"})), ("evit, zero-tprune,cropr", None)]
)
def test_every_method_can_be_asked_for_and_all_are_those_that_need_no_training(live, cli, text, methods):
    live.board("nano")
    cli("campaign", "run", "--method", text, "--no-wait")
    asked_for = asked(live).methods
    assert sorted(asked_for) == (methods or ["cropr", "evit", "zero-tprune"])
    assert set(METHODS) == set(PLACEMENT) - {"dense"}


REFUSED = [
    (("--precision", "fine"), "--precision: cannot read 'fine'"),
    (("--precision", "0"), "--precision: must lie above 0"),
    (("--precision", "5"), "--precision: must lie above 0 and be at most 1 (100 %), not '5'"),
    (("--precision", "nan"), "--precision: must lie above 0"),
    (("--counts", "some"), "--counts: must be adaptive, all, or token counts"),
    (("--counts", "5,99"), "sweep.counts: cannot measure 99 tokens: the model has 17"),
    (("--budget-seconds", "0"), "--budget-seconds: must lie above 0 and be at most a week"),
    (("--budget-seconds", "nan"), "--budget-seconds: must lie above 0 and be at most a week"),
    (("--backend", "tensorflow"), "--backend: unknown: 'tensorflow'; known: eager, compile, cudagraph,"),
    (("--backend", "virtual"), "--backend: unknown: 'virtual'"),
    (("--dtype", "int8"), "--dtype: unknown: 'int8'; known: fp32, fp16, bf16"),
    (("--attention", "flash"), "--attention: unknown: 'flash'; known: auto, fused, explicit"),
    (("--batch", "0"), "--batch: must be at least 1, not 0"),
    (("--rounds", "0"), "--rounds: must be at least 1, not 0"),
    (("--calls", "100000"), "--calls: must be at most 10000"),
    (("--method", "magic"), "--method: unknown: 'magic'; known: random, topk"),
    (("--models", "ghost"), "unknown model 'ghost'; known: tiny"),
    (("--boards", "ghost"), "unknown board 'ghost'; known: nano"),
]


@pytest.mark.parametrize("command", ["sweep", "campaign"])
def test_what_cannot_be_meant_is_one_sentence_and_starts_nothing(live, cli, command):
    live.board("nano")
    for arguments, words in REFUSED:
        with pytest.raises(TailfleetError) as refusal:
            cli(command, "run", *arguments, "--no-wait")
        assert words in refusal.value.sentence
        assert refusal.value.blame is Blame.AUTHOR
    assert live.lab.store.list_campaigns() == []


@pytest.mark.parametrize(("text", "meant"), [("0.01", 0.01), ("1%", 0.01), (" 2.5 % ", 0.025), ("1", 1.0)])
def test_shares(text, meant):
    assert sweeping.share("--precision", text) == pytest.approx(meant)


def test_a_virtual_board_stays_virtual_whatever_real_ones_run(lab):
    request = CampaignRequest(["tiny"], ["nano"], batch=2, dtype="fp16", backend="onnxruntime", attention="explicit")
    real, modelled = (workload_of(request, lab.model, kind) for kind in (BoardKind.PHYSICAL, BoardKind.VIRTUAL))
    assert (real.backend, real.attention, real.batch, real.dtype) == ("onnxruntime", "explicit", 2, "fp16")
    assert (modelled.backend, modelled.attention, modelled.batch, modelled.dtype) == ("virtual", "auto", 2, "fp16")


def test_names_are_chosen_from_those_known():
    assert sweeping.names("all", ["a", "b"], "board") == ["a", "b"]
    assert sweeping.names("b, a", ["a", "b"], "board") == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "known", "words"),
    [
        ("c", ["a"], "unknown board 'c'; known: a"),
        ("all", [], "no board is known yet"),
        (",", ["a"], "no board is known yet"),
    ],
)
def test_names_that_cannot_be_meant(text, known, words):
    with pytest.raises(InputError, match=words):
        sweeping.names(text, known, "board")
