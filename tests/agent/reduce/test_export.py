"""Reduced models compiled and as files: each method at a fixed schedule, held against eager.

The model has uneven weights, so that no two scores are near each other and every runtime keeps the same tokens.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tailfleet_reduce import METHODS, apply, dissect
from tailfleet_reduce.queries import array_name, attach, untrained
from tailfleet_schema import codec
from tailfleet_schema.errors import ConfigurationError, InputError, ScheduleError
from tailfleet_schema.schedule import Schedule, dense

IMAGES = torch.randn(3, 3, 40, 40, generator=torch.Generator().manual_seed(11))

WAYS = [(method, None) for method in sorted(METHODS)] + [("topk", 2), ("cropr", 2)]
"""Each method; and of either placement one with all tokens restored before the last block."""

FREE = ({0: torch.export.Dim("batch", min=1, max=64)},) if hasattr(torch, "export") else ()

newer = pytest.mark.skipif(
    not hasattr(torch, "export") or tuple(map(int, torch.__version__.split(".")[:2])) < (2, 5),
    reason="this torch cannot export these models: 2.5 can",
)


def with_onnx():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="{} is not installed".format(package))


def prepared(method, restore_before=None, dtype=torch.float32, device="cpu"):
    """A model that carries queries, and a schedule that reduces in its first and last block, or twice before it
    restores, and again behind."""
    torch.manual_seed(3)
    model = VisionTransformer(img_size=40, patch_size=8, num_classes=7, embed_dim=24, depth=3, num_heads=3).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3 if "qkv" in name else 0.15)
    model.requires_grad_(False)
    anatomy = dissect(model)
    geometry = anatomy.geometry()
    attach(model, untrained(anatomy.depth, geometry.dim))
    keep = [20, 20, 13] if restore_before is None else [20, 13, 20]
    schedule = Schedule(method, "small", geometry.tokens, geometry.prefix, keep, restore_before)
    return model.to(device, dtype), schedule


def run(model, images=IMAGES):
    with torch.no_grad():
        return model(images)


@pytest.fixture
def dynamo():
    """Forgets what other tests compiled: so many models of one class would reach the limit of recompilations."""
    if not hasattr(torch, "compile"):
        pytest.skip("this torch has no torch.compile")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@newer
@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize(("method", "restore_before"), WAYS)
def test_every_method_compiles_as_one_graph(method, restore_before):
    model, schedule = prepared(method, restore_before)
    reduced = apply(model, schedule)
    compiled = torch.compile(reduced, fullgraph=True, backend="aot_eager")
    assert (run(compiled) - run(reduced)).abs().max() <= 1e-5


@newer
@pytest.mark.usefixtures("dynamo")
def test_inductor_compiles_a_reduced_model():
    model, schedule = prepared("pomt")
    reduced = apply(model, schedule)
    try:
        got = run(torch.compile(reduced, fullgraph=True))
    except Exception as error:
        pytest.skip("inductor finds no compiler here: {}".format(str(error).splitlines()[0]))
    assert (got - run(reduced)).abs().max() <= 1e-5


@newer
@pytest.mark.parametrize(("method", "restore_before"), WAYS)
def test_every_method_exports_with_a_free_batch(method, restore_before):
    model, schedule = prepared(method, restore_before)
    reduced = apply(model, schedule)
    with torch.no_grad():
        exported = torch.export.export(reduced, (IMAGES[:2],), dynamic_shapes=FREE).module()
    for images in (IMAGES, IMAGES[:1]):
        assert (run(exported, images) - run(reduced, images)).abs().max() <= 1e-5


@newer
@pytest.mark.parametrize(
    ("method", "restore_before", "opset"), [(*way, 18) for way in WAYS] + [("tome", None, 23), ("cropr", 2, 23)]
)
def test_onnxruntime_agrees_with_eager(tmp_path, onnx_logits, method, restore_before, opset):
    with_onnx()
    from tailfleet_reduce.export import export

    model, schedule = prepared(method, restore_before)
    expected = run(apply(model, schedule))
    path = str(tmp_path / "model.onnx")
    export(model, schedule, path, batch=None, opset=opset)
    for logits, wanted in zip(onnx_logits(path, IMAGES.numpy(), IMAGES[:1].numpy()), (expected, expected[:1])):
        assert logits.shape == wanted.shape
        assert abs(logits - wanted.numpy()).max() <= 1e-4


@newer
@pytest.mark.parametrize("method", ["pomt", "zero-tprune"])
def test_every_family_exports_with_a_free_batch(family_model, method):
    """A method that reads all of attention and reduces within a block, and one that reduces behind it."""
    reduced = under(family_model, method)
    with torch.no_grad():
        exported = torch.export.export(reduced, (IMAGES[:2],), dynamic_shapes=FREE).module()
    for images in (IMAGES, IMAGES[:1]):
        expected = run(reduced, images)
        assert (run(exported, images) - expected).abs().max() <= 1e-5 * max(1, float(expected.abs().max()))


@newer
@pytest.mark.parametrize("family", ["beit", "dinov3", "registers", "rotary_mixed", "siglip"])
def test_onnxruntime_agrees_where_positions_follow_the_tokens(tmp_path, onnx_logits, build_family, family):
    with_onnx()
    from tailfleet_reduce.export import export

    model = build_family(family)
    reduced = under(model, "tome")
    path = str(tmp_path / "model.onnx")
    export(model, reduced.schedule, path, batch=None)
    expected = run(reduced).numpy()
    (logits,) = onnx_logits(path, IMAGES.numpy())
    assert abs(logits - expected).max() <= 1e-4 * max(1, abs(expected).max())


def under(model, method):
    """Three blocks of ``model``, reduced in the first and the last one: exporting takes as long as there are blocks."""
    del model.blocks[3:]
    geometry = dissect(model).geometry()
    tokens = geometry.tokens
    keep = [tokens - drop for drop in (3, 3, 8)]
    return apply(model, Schedule(method, "small", tokens, geometry.prefix, keep))


@newer
def test_a_file_says_which_schedule_it_follows_and_lies_alone(tmp_path):
    with_onnx()
    import onnx

    from tailfleet_reduce.export import export

    model, schedule = prepared("topk")
    done = export(model, schedule, str(tmp_path / "model.onnx"), batch=2)

    read = onnx.load(str(tmp_path / "model.onnx"))
    assert {one.key: one.value for one in read.metadata_props}["tailfleet.schedule"] == codec.dumps(schedule)
    assert [one.version for one in read.opset_import if not one.domain] == [18]
    assert [size.dim_value for size in read.graph.input[0].type.tensor_type.shape.dim] == [2, 3, 40, 40]
    assert os.listdir(str(tmp_path)) == ["model.onnx"]
    assert done.bytes == os.path.getsize(str(tmp_path / "model.onnx"))
    assert done.checked.difference <= 1e-4
    assert done.checked.by.startswith("onnxruntime")


@newer
def test_a_program_whose_sessions_share_a_pool_exports_too(tmp_path):
    with_onnx()
    pool = "import onnxruntime\nonnxruntime.set_global_thread_pool_sizes(1, 1)"
    model, schedule = prepared("topk")
    torch.save(model, str(tmp_path / "model.pt"))
    tell = "from tailfleet_reduce.export import export\nfrom tailfleet_schema import codec\nimport sys, torch"
    order = "export(torch.load(sys.argv[1], weights_only=False), codec.loads(S, sys.argv[2]), sys.argv[3], batch=1)"
    lines = [pool, tell, "from tailfleet_schema.schedule import Schedule as S", order]
    path = tmp_path / "model.onnx"
    subprocess.run(
        [sys.executable, "-c", "\n".join(lines), str(tmp_path / "model.pt"), codec.dumps(schedule), str(path)],
        check=True,
        timeout=300,
    )
    assert path.exists()


@newer
def test_large_weights_lie_beside_the_file(tmp_path, monkeypatch):
    with_onnx()
    from tailfleet_reduce import export as room

    monkeypatch.setattr(room, "ONE_FILE_BYTES", 1000)
    model, schedule = prepared("topk")
    done = room.export(model, schedule, str(tmp_path / "model.onnx"))
    assert sorted(os.listdir(str(tmp_path))) == ["model.onnx", "model.onnx.data"]
    assert done.bytes == sum(os.path.getsize(str(tmp_path / name)) for name in os.listdir(str(tmp_path)))


@newer
@pytest.mark.parametrize("batch", [1, None])
def test_a_pt2_file_computes_what_eager_does(tmp_path, batch):
    from tailfleet_reduce.export import export

    model, schedule = prepared("cropr", 2)
    expected = run(apply(model, schedule))
    path = str(tmp_path / "model.pt2")
    done = export(model, schedule, path, batch=batch)
    told = {"tailfleet.schedule.json": ""}
    loaded = torch.export.load(path, extra_files=told).module()
    images = IMAGES[:1] if batch else IMAGES
    assert (run(loaded, images) - expected[: len(images)]).abs().max() <= 1e-5
    assert json.loads(told["tailfleet.schedule.json"])["restore_before"] == 2
    assert done.checked.by.startswith("torch")


@newer
def test_half_precision_leaves_the_model_itself_as_it_was(tmp_path):
    from tailfleet_reduce.export import export

    model, schedule = prepared("tome")
    before = run(model)
    path = str(tmp_path / "model.pt2")
    export(model.train(), schedule, path, dtype="fp16")
    assert model.training
    assert torch.equal(run(model.eval()), before)
    got = run(torch.export.load(path).module(), IMAGES[:1])
    assert got.dtype == torch.float32
    assert (got - run(apply(model, schedule), IMAGES[:1])).abs().max() <= 0.1 * got.abs().max()


@newer
def test_what_cannot_be_written_is_said_in_a_sentence_and_leaves_nothing(tmp_path):
    from tailfleet_reduce.export import export

    model, schedule = prepared("topk")
    (tmp_path / "folder.pt2").mkdir()
    (tmp_path / "file").write_text("x")
    out = str(tmp_path / "model.pt2")
    for path, more, kind, words in (
        (str(tmp_path / "nowhere" / "model.pt2"), {}, InputError, "cannot be written: No such file or directory"),
        (str(tmp_path / "file" / "model.pt2"), {}, InputError, "cannot be written: Not a directory"),
        (str(tmp_path / "folder.pt2"), {}, InputError, "is a folder, not a file"),
        (str(tmp_path / "model"), {}, InputError, "'model' does not say which format"),
        (out, {"form": "onyx"}, InputError, "format: unknown: 'onyx'; known: onnx, pt2"),
        (out, {"dtype": "bf16"}, InputError, "dtype: unknown: 'bf16'"),
        (out, {"batch": 0}, InputError, "batch: must be at least 1"),
        (out, {"opset": 17}, InputError, "opset: must be at least 18"),
        (out, {"name": "other"}, ScheduleError, "made for model 'small', not for 'other'"),
    ):
        with pytest.raises(kind, match=words):
            export(model, schedule, path, **more)
    assert sorted(os.listdir(str(tmp_path))) == ["file", "folder.pt2"]


def test_a_package_that_is_missing_is_named(monkeypatch):
    from tailfleet_reduce import export as room

    def lacking(name):
        if name == "onnxscript":
            raise ImportError(name)

    monkeypatch.setattr(room.importlib, "import_module", lacking)
    with pytest.raises(ConfigurationError, match="onnxscript is not installed for"):
        room.check_installed("onnx")
    monkeypatch.setattr(room, "_OLDEST", (99, 0))
    with pytest.raises(ConfigurationError, match="cannot export these models"):
        room.check_installed("pt2")


@newer
def test_a_file_that_computes_something_else_is_never_left(tmp_path, monkeypatch):
    from tailfleet_reduce import export as room

    model, schedule = prepared("topk")
    (tmp_path / "model.pt2").write_text("an older one")
    write = room._write

    def other(deployed, *rest):
        bias = deployed.reduced.model.head.bias
        bias += 0.01
        write(deployed, *rest)
        bias -= 0.01

    monkeypatch.setattr(room, "_write", other)
    with pytest.raises(ConfigurationError, match=r"computes something else in torch .* differ by up to 0\.01"):
        room.export(model, schedule, str(tmp_path / "model.pt2"))
    assert (tmp_path / "model.pt2").read_text() == "an older one"
    assert os.listdir(str(tmp_path)) == ["model.pt2"]


@newer
def test_where_no_image_is_settled_nothing_is_claimed(tmp_path, monkeypatch):
    from tailfleet_reduce import export, export_check

    model, schedule = prepared("topk")
    monkeypatch.setattr(export_check, "NUDGE", 0.5)
    monkeypatch.setattr(export_check, "DRAWN", 3)
    with pytest.raises(InputError, match="rounding alone decides which tokens this model keeps: of 3 images none"):
        export.export(model, schedule, str(tmp_path / "model.pt2"))
    assert os.listdir(str(tmp_path)) == []


@newer
def test_the_command_for_users_of_the_library(tmp_path):
    np = pytest.importorskip("numpy")
    with_onnx()
    model, _ = prepared("cropr")
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    arrays.update({array_name(block): query.numpy() for block, query in untrained(3, 24).items()})
    np.savez(str(tmp_path / "weights.npz"), **arrays)
    schedule = Schedule("cropr", "mine", 26, 1, [20, 12, 26], restore_before=2)
    (tmp_path / "s.json").write_text(codec.dumps(schedule))
    settings = {"img_size": 40, "patch_size": 8, "num_classes": 7, "embed_dim": 24, "depth": 3, "num_heads": 3}
    chosen = [text for key, value in settings.items() for text in ("--set", "{}={}".format(key, value))]

    def command(*more):
        files = ["--checkpoint", str(tmp_path / "weights.npz"), "--schedule", str(tmp_path / "s.json")]
        written = ["--out", str(tmp_path / "m.onnx"), "--batch", "any"]
        start = [sys.executable, "-W", "error::RuntimeWarning", "-m", "tailfleet_reduce.export"]
        return subprocess.run(
            [*start, "--timm", "vit_tiny_patch16_224", *chosen, *files, *written, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )

    done = command("--name", "mine")
    assert done.returncode == 0, done.stderr
    assert "tokens that leave each block: 20 12 26" in done.stdout
    refused = command()
    assert refused.returncode == 1
    assert refused.stderr.startswith("tailfleet_reduce.export: the schedule was made for model 'mine', not for 'vit_")


def test_weights_that_the_command_cannot_read(tmp_path):
    pytest.importorskip("numpy")
    from tailfleet_reduce.export_command import build, read

    (tmp_path / "odd.npz").write_bytes(b"no zip")
    for name, words in (("odd.npz", "cannot be read"), ("no.npz", "cannot be read"), ("w.pt", "of no kind")):
        with pytest.raises(InputError, match=words):
            read(str(tmp_path / name))
    with pytest.raises(InputError, match="one set of weights"):
        build("vit_tiny_patch16_224", {}, "w.npz", True)
    with pytest.raises(InputError, match="cannot build 'no_such_model'"):
        build("no_such_model", {}, None, False)


@newer
def test_a_dense_schedule_is_a_model_too(tmp_path):
    from tailfleet_reduce.export import export

    model, _ = prepared("topk")
    export(model, dense("small", dissect(model).geometry()), str(tmp_path / "model.pt2"))
    loaded = torch.export.load(str(tmp_path / "model.pt2")).module()
    assert (run(loaded, IMAGES[:1]) - run(model, IMAGES[:1])).abs().max() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("method", "restore_before"), WAYS)
def test_every_method_is_captured_in_a_cuda_graph(method, restore_before, dtype):
    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA GPU")
    model, schedule = prepared(method, restore_before, dtype, "cuda")
    reduced = apply(model, schedule)
    images = IMAGES.to("cuda", dtype)
    side = torch.cuda.Stream()
    with torch.no_grad():
        with torch.cuda.stream(side):
            expected = reduced(images.flip(0))
            reduced(images)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = reduced(images)
    images.copy_(images.flip(0))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.isfinite(logits).all()
    assert (logits - expected).abs().max() <= (1e-4 if dtype is torch.float32 else 2e-2) * expected.abs().max()
