"""``tailfleet curve`` as people use it, against the real application."""

import json
import re

import pandas
import pytest

from tailfleet_coordinator.cli import curve_words
from tailfleet_schema.board import BoardKind
from tailfleet_schema.errors import Blame, TailfleetError


@pytest.fixture
def nano(live):
    """The id of a curve of tiny on the board nano, one of whose rounds was disturbed."""
    live.board("nano")
    curve = live.lab.curve("c1", "nano")
    live.lab.sql("UPDATE curve_rounds SET factor = 1.4, disturbed = 1, reason = 'it was hot' WHERE round = 1")
    live.lab.sql("UPDATE jobs SET runtime_json = ?", '{"torch": "2.9", "attention": "fused", "device": "cpu"}')
    return curve


@pytest.fixture
def modelled(live):
    """The id of a curve of tiny on a virtual board."""
    live.board("modelled", BoardKind.VIRTUAL)
    return live.lab.curve("c2", "modelled")


def refused(cli, *arguments):
    with pytest.raises(TailfleetError) as refusal:
        cli(*arguments)
    assert refusal.value.blame is Blame.AUTHOR
    return refusal.value


def test_nothing_is_stored_yet(cli):
    assert "no curve is stored yet; tailfleet sweep run measures one" in cli("curve", "list")
    assert "no step of any stored curve was found" in cli("curve", "cliffs")


def test_the_list_tells_verdicts_and_what_was_measured(live, cli, nano, modelled):
    live.lab.sql(f"UPDATE curves SET stable = 0, unstable_reason = 'it was hot' WHERE id = {nano}")
    listed = cli("curve", "list")
    assert f"{nano} nano tiny eager fp32 1 UNSTABLE: it was hot 6 of 16 1 " in listed
    assert f"{modelled} modelled (virtual) tiny virtual fp32 1 stable 6 of 16 1 " in listed
    assert "modelled" not in cli("curve", "list", "--board", "nano")


def test_a_curve_is_shown_with_its_verdict_treads_and_some_of_its_counts(cli, nano):
    shown = cli("curve", "show", "tiny", "nano")
    for words in (
        "tiny on nano (measured on the board) verdict stable",
        "counts 6 of 16 measured, 10 inferred; 1 step found",
        "rounds 4 measured, 1 of them disturbed; 28 timed calls in all",
        "runs eager fp32, batch 1, attention auto",
        "runtime device cpu, attention fused, torch 2.9",
        f"curve {nano}, job c1-curve, campaign c1, fingerprint ",
        "9–17 1.517",
        "6 of 6 measured counts; --all lists every count",
        "17 measured 1.517 1.517 1.517 1.517 1.517 1.517 4",
        "peak MiB",
    ):
        assert words in shown
    assert re.search(r"2–8 1\.008 \+49\.\d % \(\+0\.50\d ms\) between 8 and 9; confidence 1\.000", shown)
    assert "inferred 1.0" not in shown
    assert "mJ a call" not in shown
    assert "VIRTUAL" not in shown


def test_every_count_is_shown_where_all_are_asked_for(cli, nano):
    shown = cli("curve", "show", "tiny", "nano", "--all")
    assert "16 points" in shown
    assert "12 inferred 1.512" in shown
    assert "– – – 0" in shown


def test_an_unstable_curve_says_why(live, cli, nano):
    live.lab.sql(f"UPDATE curves SET stable = 0, unstable_reason = 'it was hot' WHERE id = {nano}")
    assert "verdict UNSTABLE: it was hot" in cli("curve", "show", "tiny", "nano")


def test_rounds_are_shown_with_the_reason_they_were_left_out(cli, nano):
    shown = cli("curve", "show", "tiny", "nano", "--rounds")
    assert "0 0.0 % kept 1 40.0 % DISTURBED, left out it was hot" in shown
    assert "measured counts" not in shown


def test_steps_of_one_curve_and_of_all(cli, nano, modelled):
    assert re.search(r"8 and 9 costs 0\.50\d 49\.\d % 1\.000", cli("curve", "show", "tiny", "nano", "--cliffs"))
    every = cli("curve", "cliffs", "--model", "tiny")
    assert f"{nano} nano tiny eager fp32, batch 1 yes 8 and 9 costs" in every
    assert f"{modelled} modelled (virtual) tiny virtual fp32, batch 1 yes 8 and 9 costs" in every
    assert "modelled" not in cli("curve", "cliffs", "--board", "nano")


def test_a_virtual_curve_is_called_virtual_and_held_against_the_truth(cli, modelled):
    shown = cli("curve", "show", "tiny", "modelled", "--truth")
    assert "tiny on modelled (VIRTUAL board: modelled latency)" in shown
    assert "truth off the true curve by" in shown
    assert "16 of 16 counts beside the true curve" in shown
    assert "true ms" in shown


def test_a_real_board_has_no_known_truth(cli, nano):
    assert "only of virtual ones" in refused(cli, "curve", "show", "tiny", "nano", "--truth").sentence


def test_all_of_it_as_json(cli, modelled):
    told = json.loads(cli("curve", "show", "tiny", "modelled", "--json", "--truth"))
    assert set(told) == {"curve", "points", "treads", "cliffs", "rounds", "truth"}
    assert told["curve"]["board_kind"] == "virtual"
    assert {point["source"] for point in told["points"]} == {"measured", "inferred"}
    assert [cliff["from_tokens"] for cliff in told["cliffs"]] == [8]
    assert len(told["truth"]) == 16


def test_one_of_several_curves_is_chosen(live, cli, nano):
    newer = live.lab.curve("c2", "nano", batch=4, dtype="bf16", backend="compile")
    newest = live.lab.curve("c3", "nano", batch=4)
    shown = cli("curve", "show", "tiny", "nano")
    assert f": curve {newest}," in shown
    assert "also eager fp32 batch 1; compile bf16 batch 4; eager fp32 batch 4; --backend, --dtype" in shown
    for options, curve in (
        (("--batch", "1"), nano),
        (("--dtype", "bf16"), newer),
        (("--backend", "compile", "--batch", "4"), newer),
        (("--curve", str(nano)), nano),
        (("--backend", "eager"), newest),
    ):
        assert f": curve {curve}," in cli("curve", "show", "tiny", "nano", *options)
    refusal = refused(cli, "curve", "show", "tiny", "nano", "--dtype", "fp16", "--batch", "4")
    assert "is stored with dtype fp16 batch 4; stored: eager fp32 batch 1; compile bf16" in refusal.sentence


def test_other_parts(cli, nano):
    assert "sentinel 17 17 measured" in cli("curve", "show", "tiny", "nano", "--part", "sentinel")
    assert "model 12 12 inferred" in cli("curve", "show", "tiny", "nano", "--part", "all")
    assert "the curve has no part 'mlp'" in cli("curve", "show", "tiny", "nano", "--part", "mlp")
    assert (
        "unknown part 'head'; known: model" in refused(cli, "curve", "show", "tiny", "nano", "--part", "head").sentence
    )


def test_no_such_curve(cli, nano):
    refusal = refused(cli, "curve", "show", "tiny", "ghost")
    assert refusal.sentence == "no curve of 'tiny' on 'ghost' is stored"
    assert refusal.mend == "tailfleet sweep run --models tiny --boards ghost"


@pytest.mark.parametrize(
    ("what", "rows", "column"),
    [
        ("points", 17, "source"),
        ("cliffs", 1, "height_percent"),
        ("treads", 2, "last_tokens"),
        ("rounds", 4, "reason"),
        ("samples", 28, "call_ns"),
    ],
)
def test_every_table_can_be_exported(cli, nano, tmp_path, what, rows, column):
    for form, read in (("csv", pandas.read_csv), ("parquet", pandas.read_parquet), ("json", pandas.read_json)):
        out = tmp_path / "deep" / f"{what}.{form}"
        assert f"{rows} rows written to" in cli("curve", "export", "--what", what, "--out", str(out))
        frame = read(out)
        assert len(frame) == rows
        assert column in frame.columns
        assert set(frame["curve_id"]) == {nano}


def test_samples_carry_the_state_of_the_board(live, cli, nano, tmp_path):
    live.lab.sql("UPDATE results SET telemetry_json = ? WHERE tokens = 9", '{"taken_at":"2026-01-01","gpu_mhz":921.0}')
    cli("curve", "export", "--what", "samples", "--out", str(tmp_path / "s.csv"))
    frame = pandas.read_csv(tmp_path / "s.csv")
    assert json.loads(frame[frame["tokens"] == 9]["telemetry"].iloc[0])["gpu_mhz"] == 921.0
    assert frame[frame["tokens"] == 8]["telemetry"].isna().all()


def test_exports_that_cannot_be_made(cli, nano, tmp_path):
    assert "cannot tell the form" in refused(cli, "curve", "export", "--out", str(tmp_path / "x.xls")).sentence
    refusal = refused(cli, "curve", "export", "--what", "samples", "--board", "ghost", "--out", str(tmp_path / "x.csv"))
    assert "no such curve is stored" in refusal.sentence
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused(cli, "curve", "export", "--out", str(tmp_path / "file" / "x.csv")).sentence


def test_a_curve_of_an_earlier_release_has_no_judged_rounds(cli, live):
    live.board("nano")
    live.lab.curve("c1", "nano")
    live.lab.sql("DELETE FROM curve_rounds")
    assert "no round of it was judged" in cli("curve", "show", "tiny", "nano", "--rounds")


def test_steps_in_words():
    step = {"from_tokens": 8, "to_tokens": 12, "upwards": False, "height_ns": 2e6, "height_percent": 5.0}
    treads = pandas.DataFrame({"first_tokens": [2, 12], "last_tokens": [8, 12], "quiet_ns": [40e6, 38e6]})
    told = curve_words.tread_table(treads, pandas.DataFrame([{**step, "confidence": 0.9871}]))
    assert told["tokens"].tolist() == ["2–8", "12"]
    assert told["then"].tolist() == [
        "−5.0 % (−2.000 ms) between 8 and 12: more tokens are faster; confidence 0.987",
        "",
    ]


@pytest.mark.parametrize(("rows", "most", "shown"), [(3, 5, [0, 1, 2]), (9, 3, [0, 4, 8]), (16, 16, list(range(16)))])
def test_some_rows_include_the_first_and_the_last(rows, most, shown):
    assert curve_words.some(pandas.DataFrame({"n": range(rows)}), most)["n"].tolist() == shown
