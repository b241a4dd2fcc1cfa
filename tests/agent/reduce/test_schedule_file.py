"""A schedule out of a file, and the example in the README that loads one."""

import os
import re

import pytest
import timm
import torch

from tailfleet_reduce import load_schedule
from tailfleet_schema import codec
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import Schedule

README = os.path.join(os.path.dirname(__file__), "..", "..", "..", "README.md")


def written(tmp_path, content):
    path = tmp_path / "schedule.json"
    path.write_bytes(content)
    return str(path)


def test_a_schedule_comes_back_from_its_file(tmp_path):
    schedule = Schedule("random", "m", 10, 1, [10, 8, 10], 2, {"seed": 3})
    assert load_schedule(written(tmp_path, codec.dumps(schedule).encode("utf-8"))) == schedule


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff", "schedule.json: schedule: not valid JSON"),
        (b"{}", r"schedule.json: schedule\.method: is missing"),
        (b'{"method":"x","model":"m","tokens":9,"prefix":1,"keep":[8]}', "unknown method 'x'; known: cropr, dense"),
        (b'{"method":"topk","model":"m","tokens":9,"prefix":1,"keep":[9,1]}', r"keep\[1\]: 1, but topk can leave"),
        (b" " * ((1 << 20) + 1), "larger than 1048576 bytes"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_files_name(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        load_schedule(written(tmp_path, content))


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"nowhere\.json cannot be read: No such file"):
        load_schedule("nowhere.json")


def test_the_readmes_example_runs_as_it_stands(tmp_path, monkeypatch):
    if not os.path.exists(README):
        pytest.skip("the README is not here: these tests run without the repository")
    with open(README, encoding="utf-8") as file:
        example = re.search(r"```python\n(import timm\n.*?)```", file.read(), re.S).group(1)
    assert len(example.strip().splitlines()) <= 10
    model = "deit_small_patch16_224"
    written(tmp_path, codec.dumps(Schedule("topk", model, 197, 1, [197] * 3 + [99] * 9)).encode("utf-8"))
    monkeypatch.chdir(tmp_path)
    create, seen = timm.create_model, []

    def without_download(name, pretrained):
        seen.append((name, pretrained))
        return create(name, pretrained=False)

    monkeypatch.setattr(timm, "create_model", without_download)
    said = {}
    exec(compile(example, "README.md", "exec"), said)
    assert seen == [(model, True)]
    assert said["logits"].shape == (1, 1000)
    assert torch.isfinite(said["logits"]).all()
