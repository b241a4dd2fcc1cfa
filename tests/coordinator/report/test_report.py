import csv
import dataclasses
import io
import json
import struct

import pandas
import pytest
from plan_board import MadeUpBoard, model, schedule
from rich.console import Console

from tailfleet_coordinator.curves import point_rows, taken_apart
from tailfleet_coordinator.plan.decision import Plan
from tailfleet_coordinator.plan.outcome import Outcome
from tailfleet_coordinator.replies import CLIFF_COLUMNS, POINT_COLUMNS, ROUND_COLUMNS, TREAD_COLUMNS
from tailfleet_coordinator.report import figure, html, pareto, table
from tailfleet_coordinator.report.curve_tables import CurveTables
from tailfleet_coordinator.report.write import write_report
from tailfleet_schema import codec, quiet
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import CampaignReport, Front, FrontPoint, Measure, Objective, ReportRow, Statistic
from tailfleet_schema.errors import InputError

KEPT = schedule([197] * 6 + [128] * 6)
REFUSED = Plan(None, 9e6, 9e6, 9e6, 9e6, None, "do not prune: [bold]5 < 6[/bold] & <script>alert(1)</script>")


def tables(
    board="bench", kind="physical", curve_id=1, measured_at="2026-01-02", stable=True, counts="adaptive", disturbed=()
):
    """One curve as ``Fleet`` gives it."""
    results = MadeUpBoard().sweep(["topk"], counts, BoardKind.PHYSICAL)
    anatomy = taken_apart(results, quiet.judge(results))
    curve = (curve_id, board, kind, "made-up", "eager", "fp32", 1)
    verdict = (stable, "" if stable else "the sentinel differed by 20 %", pandas.Timestamp(measured_at, tz="UTC"))
    points = [(*curve, *row, *verdict) for row in point_rows(results, 2, 197)]
    steps = [(*curve, *dataclasses.astuple(cliff), stable) for cliff in anatomy.cliffs]
    rounds = [(*curve, number, 1.0, number in disturbed, "hot" if number in disturbed else "") for number in range(3)]
    return CurveTables(
        pandas.DataFrame(points, columns=list(POINT_COLUMNS)),
        pandas.DataFrame(
            [(*curve, *dataclasses.astuple(tread)) for tread in anatomy.treads], columns=list(TREAD_COLUMNS)
        ),
        pandas.DataFrame(steps, columns=list(CLIFF_COLUMNS)),
        pandas.DataFrame(rounds, columns=list(ROUND_COLUMNS)),
    )


def together(*curves):
    """Several curves' tables as one."""
    fields = [field.name for field in dataclasses.fields(CurveTables)]
    return CurveTables(*(pandas.concat([getattr(one, name) for one in curves]) for name in fields))


@pytest.fixture(scope="module")
def report():
    made = Plan(KEPT, 9e6, 8e6, 7.8e6, 8.2e6, None, "predicted only: …")
    rows = []
    for name, kind in (("bench", BoardKind.PHYSICAL), ("modelled", BoardKind.VIRTUAL)):
        plans = [("optimal", "topk", made), ("pomt-rule", "pomt", REFUSED)]
        results = MadeUpBoard().verification([KEPT], judged=kind is BoardKind.PHYSICAL)
        rows += Outcome(name, kind, model(), plans, results, Objective(latency_share=0.95)).rows()
    return CampaignReport("c-1", rows)


@pytest.fixture(scope="module")
def on_p99():
    made = Plan(KEPT, 9e6, 8e6, 7.8e6, 8.2e6, None, "predicted only: …", on=Statistic.P99)
    results = MadeUpBoard().verification([KEPT], rounds=10, calls=40)
    objective = Objective(latency_share=0.95, on=Statistic.P99)
    return Outcome("bench", BoardKind.PHYSICAL, model(), [("optimal", "topk", made)], results, objective).rows()


@pytest.fixture(scope="module")
def curves():
    return together(tables(), tables("modelled", "virtual", 2))


@pytest.fixture(scope="module")
def files(report, curves, tmp_path_factory):
    return write_report(report, curves, tmp_path_factory.mktemp("out") / "deep")


def cells(row):
    return table.cells(row, table.headings([row]))


def text_of(rows, width):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table.render(rows))
    return console.export_text()


def test_the_table_says_it_all(report):
    text = text_of(report.rows, 220)
    for word in ("bench", "modelled", "(virtual)", "topk", "pomt by", "★ prune: measured", "97.5 %", "–", "×"):
        assert word in text
    # Not taken for markup.
    assert "[bold]5 < 6[/bold]" in text


def test_the_table_says_what_its_times_are_on(report, on_p99):
    quiet, tail = text_of(report.rows, 220), text_of(on_p99, 220)
    assert quiet.startswith("plans on quiet, and")
    assert "times are quiet times (10th percentile of calls)" in quiet
    assert tail.startswith("plans on p99, and")
    assert "times are p99 (what one call in a hundred exceeds)" in " ".join(tail.split())
    assert "quiet" not in tail
    # A tail reaches further up than down: both ends are shown.
    assert " … " in cells(on_p99[0])[5]
    assert " ± " in cells(report.rows[0])[5]


@pytest.mark.parametrize(("on", "label"), [("quiet", None), ("p50", "p50 (planned on)"), ("p99", "p99 of 9 calls")])
def test_the_operating_point_belongs_to_the_line_of_its_statistic(on_p99, on, label):
    row = codec.decode(ReportRow, {**codec.encode(on_p99[0]), "on": on})
    (axes,) = figure.compose(tables(), [row]).axes
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert f"recommended operating point, on {on}" in legend
    assert f"dense on {on}, beside the schedules" in legend
    assert any("planned on" in text for text in legend) is (label is not None)
    if label is not None:
        (line,) = [line for line in axes.lines if str(line.get_label()).startswith(label)]
        curve = tables().points.query("part == 'model' and source == 'measured'").sort_values("tokens")
        assert line.get_ydata() == pytest.approx(curve[f"{on}_ns"].to_numpy() / 1e6)
        assert f"plans on {on}" in axes.get_ylabel()


def test_the_page_says_what_its_times_are_on(report, on_p99):
    assert "Times are quiet times" in html.page(report, {})
    assert "Times are p99 (what one call in a hundred exceeds)" in html.page(CampaignReport("c", on_p99), {})


@pytest.mark.parametrize("width", [80, 120, 220])
def test_the_table_is_never_wider_than_the_terminal(report, width):
    assert max(len(line) for line in text_of(report.rows, width).splitlines()) <= width


def test_a_virtual_boards_top1_is_said_to_be_of_the_host(report):
    row = report.rows[0]
    assert "ʰ" not in "".join(cells(row))
    on_host = codec.decode(ReportRow, {**codec.encode(row), "top1_computed_on": "host"})
    assert cells(on_host)[7] == "97.5 %ʰ"


class TestImagesWithoutLabels:
    """Whatever is read says agreement with the dense model, and never top-1 or accuracy."""

    @pytest.fixture
    def unlabelled(self, report):
        judged = {
            "measure": "agreement",
            "top1_dense": None,
            "top1_pruned": None,
            "top1_computed_on": None,
            "agreement_dense": 100.0,
            "agreement_pruned": 98.25,
            "kl_nats": 0.0123,
            "agreement_computed_on": "host",
            "verdict": "prune: …",
        }
        return [codec.decode(ReportRow, {**codec.encode(report.rows[0]), **judged})]

    def test_it_has_columns_of_its_own(self, unlabelled):
        shown = dict(zip(table.headings(unlabelled), cells(unlabelled[0])))
        assert shown["agreement dense"] == "100.0 %ʰ"
        assert shown["agreement pruned"] == "98.2 %ʰ"
        assert shown["KL nats"] == "0.012"
        assert not [heading for heading in shown if "top-1" in heading]

    def test_no_way_to_show_it_speaks_of_top1(self, unlabelled):
        told = [text_of(unlabelled, 250), table.as_markdown(unlabelled), html.page(CampaignReport("c", unlabelled), {})]
        for text in told:
            assert "98.2 %" in text
            assert "on evaluation images without labels" in " ".join(text.split())
            assert "top-1" not in text
            assert "accuracy" not in text
        (line,) = csv.DictReader(io.StringIO(table.as_csv(unlabelled)))
        assert (line["measure"], line["top1_dense"], line["top1_pruned"]) == ("agreement", "", "")
        assert (line["agreement_pruned"], line["kl_nats"]) == ("98.25", "0.0123")

    def test_beside_labelled_models_both_are_shown_each_where_it_belongs(self, report, unlabelled):
        rows = [report.rows[0], *unlabelled]
        columns = table.headings(rows)
        labelled, other = (dict(zip(columns, table.cells(row, columns))) for row in rows)
        assert (labelled["top-1 pruned"], labelled["agreement pruned"], labelled["KL nats"]) == ("97.5 %", "–", "–")
        assert (other["top-1 pruned"], other["agreement pruned"]) == ("–", "98.2 %ʰ")
        page = html.page(CampaignReport("c", rows), {})
        assert "top-1 is on evaluation images; agreement: how often" in page
        assert page.count('<th class="number">') == len(columns) - 4

    def test_a_front_is_one_of_agreement(self, unlabelled):
        (axes,) = pareto.compose([front(unlabelled, measure=Measure.AGREEMENT)], unlabelled).axes
        assert axes.get_ylabel() == "loss of agreement with the dense model, points"
        assert any(mark == pytest.approx((unlabelled[0].measured_ns / 1e6, 1.75)) for mark in marks(axes))
        assert "topk: predicted front (cautious loss, 2 points)" in labels_of(axes)


def test_json_comes_back_as_the_same_rows(files, report):
    rows = json.loads(files.table_json.read_text())
    assert [codec.decode(ReportRow, row) for row in rows] == report.rows


def test_csv_has_a_line_for_each_row(files, report):
    lines = list(csv.DictReader(io.StringIO(files.table_csv.read_text())))
    assert len(lines) == len(report.rows)
    assert lines[0]["keep"].split() == [str(n) for n in KEPT.keep]
    assert float(lines[0]["measured_ns"]) == report.rows[0].measured_ns
    assert lines[1]["measured_ns"] == ""
    assert lines[2]["board_kind"] == "virtual"
    assert {line["on"] for line in lines} == {"quiet"}


def test_files_say_what_their_times_are_on(on_p99):
    (line,) = csv.DictReader(io.StringIO(table.as_csv(on_p99)))
    (row,) = json.loads(table.as_json(on_p99))
    assert line["on"] == row["on"] == "p99"


def test_markdown_is_the_table_that_people_see(files, report):
    heading, rule, *lines = files.table_markdown.read_text().splitlines()
    assert heading == "| " + " | ".join(table.headings(report.rows)) + " |"
    assert set(rule) <= set("|-: ")
    shown = lines[: len(report.rows)]
    assert [line.count("|") for line in shown] == [heading.count("|")] * len(report.rows)
    assert all(cell in shown[0] for cell in cells(report.rows[0]))
    assert lines[-1] == table.legend(report.rows)
    # A bar within a cell is no border.
    barred = dataclasses.replace(report.rows[0], verdict="a|b")
    assert "a\\|b |" in table.as_markdown([barred])


def front(rows, method="topk", planner="optimal", measure=Measure.TOP1, kind="physical"):
    points = [FrontPoint(7e6, 3.0, [99] * 12), FrontPoint(8e6, 1.0, list(KEPT.keep))]
    return Front(rows[0].board, kind, rows[0].model, planner, method, 9e6, measure, points)


def marks(axes):
    """Where single points are drawn."""
    return [tuple(line.get_xydata()[0]) for line in axes.lines if len(line.get_xdata()) == 1]


def test_a_front_is_drawn_with_what_was_measured_of_it_and_what_was_chosen(report):
    rows = [row for row in report.rows if row.board == "bench"]
    (axes,) = pareto.compose([front(rows), front(rows, "tome", "tome-constant")], rows).axes
    legend = labels_of(axes)
    assert "topk: predicted front (cautious loss, 2 points)" in legend
    assert "tome by tome-constant: predicted front (cautious loss, 2 points)" in legend
    assert {"topk: verified", "recommended", "dense, measured beside the schedules"} <= set(legend)
    (line,) = [line for line in axes.lines if str(line.get_label()).startswith("topk: predicted")]
    assert line.get_xydata().tolist() == [[7.0, 3.0], [8.0, 1.0]]
    row = rows[0]
    at = (row.measured_ns / 1e6, row.top1_dense - row.top1_pruned)
    assert sum(mark == pytest.approx(at) for mark in marks(axes)) == 2  # the marker, and the ring around it
    assert (row.dense_ns / 1e6, 0.0) in [pytest.approx(mark) for mark in marks(axes)]
    assert "virtual" not in axes.get_title(loc="left")


def test_a_front_of_a_model_without_images_is_of_tokens(report):
    rows = [row for row in report.rows if row.board == "modelled"]
    (axes,) = pareto.compose([front(rows, measure=Measure.WORK, kind="virtual")], rows).axes
    assert axes.get_ylabel() == "tokens × blocks left out, %"
    assert "virtual: modelled latency" in axes.get_title(loc="left")
    # By its front, since no top-1 was measured.
    assert any(mark == pytest.approx((rows[0].measured_ns / 1e6, 1.0)) for mark in marks(axes))
    # A verified schedule whose loss nobody knows is not drawn at a made-up one.
    elsewhere = [dataclasses.replace(rows[0], keep=[50] * 12)]
    (axes,) = pareto.compose([front(rows, measure=Measure.WORK)], elsewhere).axes
    assert not any("verified" in label for label in labels_of(axes))


def test_fronts_are_files_and_stand_in_the_page(report, curves, tmp_path):
    rows = [row for row in report.rows if row.board == "bench"]
    files = write_report(CampaignReport("c", rows, [front(rows)]), curves, tmp_path)
    assert [path.name for path in files.pictures] == ["front--bench--made-up.png", "bench--made-up.png"]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in files.pictures)
    page = files.page.read_text()
    assert page.index("Loss against latency: made-up on bench") < page.index("Latency against tokens: made-up on bench")
    # A front is shown where there is no curve to draw.
    alone = write_report(CampaignReport("c", rows, [front(rows)]), curves.of(None), tmp_path / "alone")
    assert [path.name for path in alone.pictures] == ["front--bench--made-up.png"]
    assert "Loss against latency" in alone.page.read_text()


def test_one_picture_for_each_board_and_model(files):
    assert [path.name for path in files.pictures] == ["bench--made-up.png", "modelled--made-up.png"]
    for path in files.pictures:
        content = path.read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", content[16:24])
        assert width > 800
        assert height > 400


def test_the_page_stands_alone_and_escapes(files):
    page = files.page.read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    for outside in ("http://", "https://", 'src="/', "@import", "<link"):
        assert outside not in page
    assert "virtual: modelled latency" in page
    assert "recommended: topk" in page


def test_a_virtual_picture_is_titled_virtual(report):
    def texts(kind):
        drawn = figure.compose(tables(kind=kind), [row for row in report.rows if row.board == "bench"])
        (axes,) = drawn.axes
        return axes.get_title(loc="left"), [text.get_text() for text in axes.get_legend().get_texts()], axes

    title, legend, axes = texts("virtual")
    assert title == "made-up on bench (virtual: modelled latency)"
    assert "mean over blocks" in axes.get_xlabel()
    assert "recommended operating point, on quiet" in legend
    assert "topk" in legend
    assert any("cliff" in text for text in legend)
    assert "virtual" not in texts("physical")[0]


def test_the_operating_point_is_the_mean_over_blocks(report):
    row = report.rows[0]
    (axes,) = figure.compose(tables(), [row]).axes
    marks = [line.get_xydata()[0] for line in axes.lines if len(line.get_xdata()) == 1]
    assert any(x == pytest.approx(162.5) and y == pytest.approx(row.measured_ns / 1e6) for x, y in marks)


def test_an_unstable_curve_says_so_in_its_picture():
    (axes,) = figure.compose(tables(stable=False), []).axes
    assert any("UNSTABLE: the sentinel" in text.get_text() for text in axes.texts)


def labels_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_what_was_measured_is_told_from_what_is_inferred():
    curve = tables(disturbed=[1])
    (axes,) = figure.compose(curve, []).axes
    whole = curve.points.query("part == 'model'")
    measured = whole[whole["source"] == "measured"]
    assert 0 < len(measured) < len(whole) == 196
    lines = {str(line.get_label()): line for line in axes.lines}
    assert len(lines["quiet, inferred between measured counts"].get_xdata()) == 196
    assert sorted(lines["quiet (10th percentile), measured"].get_xdata()) == sorted(measured["tokens"])
    assert len(lines["p50"].get_xdata()) == len(measured)
    (band,) = [drawn for drawn in axes.collections if drawn.get_label() == "its 95 % interval"]
    assert band.get_paths()[0].get_extents().x0 == 2
    note = " ".join(text.get_text() for text in axes.texts)
    assert f"stable; {len(measured)} of 196 counts measured, the others inferred; 1 of 3 rounds disturbed" in note
    assert "quiet (10th percentile)" in labels_of(figure.compose(tables(counts="all"), []).axes[0])


def test_the_highest_steps_are_named_with_their_heights():
    curve = tables(counts="all")
    assert len(curve.cliffs)
    (axes,) = figure.compose(curve, []).axes
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert len(dashed) == len(curve.cliffs)
    highest = curve.cliffs.nlargest(1, "height_percent").iloc[0]
    named = f"{highest['from_tokens']}: +{highest['height_percent']:.0f} %"
    assert named in [text.get_text() for text in axes.texts]
    # Every second tread stands on a grey ground.
    assert len(axes.patches) == len(curve.treads) // 2


def test_a_step_whose_place_is_not_known_is_a_stretch_and_one_back_has_a_minus():
    curve = tables(counts="all")
    step = curve.cliffs.iloc[:1].assign(from_tokens=100, to_tokens=108, upwards=False, height_percent=5.0)
    (axes,) = figure.compose(dataclasses.replace(curve, cliffs=step), []).axes
    assert "100–108: −5 %" in [text.get_text() for text in axes.texts]
    assert len(axes.patches) == len(curve.treads) // 2 + 1


def test_a_far_tail_does_not_flatten_the_curve_unless_plans_are_on_it(on_p99):
    curve = tables()
    slow = curve.points["tokens"] == 197
    far = dataclasses.replace(curve, points=curve.points.assign(p99_ns=curve.points["p99_ns"].where(~slow, 9e9)))
    assert figure.compose(far, []).axes[0].get_ylim()[1] < 100
    assert figure.compose(far, on_p99).axes[0].get_ylim()[1] > 9000


def test_of_several_curves_the_newest_is_drawn(report, tmp_path):
    old = tables(curve_id=7, measured_at="2025-01-01", counts="99")
    one = write_report(report, together(tables(), old), tmp_path / "both")
    two = write_report(report, tables(), tmp_path / "new")
    assert one.pictures[0].read_bytes() == two.pictures[0].read_bytes()
    # Unless the plan says that it rests on another one.
    rests = CampaignReport("c", [dataclasses.replace(row, curve_id=7) for row in report.rows])
    three = write_report(rests, together(tables(), old), tmp_path / "named")
    assert three.pictures[0].read_bytes() != two.pictures[0].read_bytes()


def test_boards_without_a_curve_and_campaigns_without_rows(report, tmp_path):
    files = write_report(report, tables().of(None), tmp_path)
    assert files.pictures == []
    empty = write_report(CampaignReport("none", []), tables(), tmp_path)
    assert json.loads(empty.table_json.read_text()) == []
    assert "nothing was planned" in empty.page.read_text()


def test_names_of_boards_never_become_paths(report, curves, tmp_path):
    rows = [codec.decode(ReportRow, {**codec.encode(row), "board": "../../etc/x"}) for row in report.rows[:1]]
    files = write_report(CampaignReport("c", rows), tables(board="../../etc/x"), tmp_path / "out")
    assert [path.parent for path in files.pictures] == [tmp_path / "out"]


def test_a_folder_that_cannot_be_written_is_one_sentence(report, curves, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the report"):
        write_report(report, curves, tmp_path / "file")


def test_a_page_without_pictures(report):
    assert "c-1" in html.page(report, {})
