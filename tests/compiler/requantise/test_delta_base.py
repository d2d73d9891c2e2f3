"""`edgec compile --delta-base`: nearer to what is deployed, as good as ever, and said so."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from update_kit import Compiled, Net, Workshop

from edgec_bundle.archive import open_bundle, pack_bundle
from edgec_bundle.delta import make_patch
from edgec_compiler.errors import CompilerError, NotAchievedError, UsageError
from edgec_compiler.isolated import compile_isolated
from edgec_compiler.planning import plan
from edgec_compiler.requantise.base import open_base, read_base

TARGETS = ("generic-arm64", "rpi4")
BASE = Net.new()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("updates"))


@pytest.fixture(scope="module")
def base(shop: Workshop) -> Compiled:
    """The deployed bundles: a folder with one per target."""
    return shop.compile(BASE, targets=TARGETS)


@pytest.fixture(scope="module")
def update(shop: Workshop, base: Compiled) -> Compiled:
    return shop.compile(BASE.updated(0.03, 5), base.out, targets=TARGETS, release=2)


@pytest.mark.parametrize("target", TARGETS)
def test_an_update_is_smaller_and_no_worse_against_the_float_model(
    base: Compiled, update: Compiled, target: str
) -> None:
    found = update.delta(target)

    patch = make_patch(base.model(target), update.model(target))
    assert patch is not None
    assert found["patch"]["model"] == {"bytes": len(patch.data), "format": patch.format}
    assert len(patch.data) < 0.9 * found["patch"]["ordinary"]["bytes"]
    assert found["changed"]["model"] < 0.5 * found["changed"]["ordinary"]
    assert found["error"]["model"] <= found["error"]["ordinary"]
    assert update.unseen_error(target) <= 1.3 * found["error"]["ordinary"]


@pytest.mark.parametrize("target", TARGETS)
def test_manifest_report_and_facts_tell_the_same(
    base: Compiled, update: Compiled, target: str
) -> None:
    found = update.delta(target)

    assert found["base"] == base.bundle(target).digest
    assert (found["budget"], found["layers"]) == (1.0, {"matched": 4, "total": 4})
    assert found["lambda"] > 0
    assert found["error"]["data"] == "evaluation"
    assert update.facts[target]["delta"] == found
    page = (update.out / target / "report.html").read_text()
    assert f"lambda {found['lambda']:.4g}" in page


def test_a_chain_of_updates_does_not_drift(
    shop: Workshop, base: Compiled, update: Compiled
) -> None:
    net, last = BASE.updated(0.03, 5), update.out / "generic-arm64"
    for seed in (6, 7, 8):
        net = net.updated(0.03, seed)
        made = shop.compile(net, last, release=seed)
        last = made.out

        found = made.delta()
        assert found["patch"]["model"]["bytes"] < found["patch"]["ordinary"]["bytes"]
        assert found["error"]["model"] <= found["error"]["ordinary"]
        assert made.unseen_error() <= 1.3 * found["error"]["ordinary"]


def test_a_layer_of_another_shape_is_quantised_as_always(shop: Workshop, base: Compiled) -> None:
    wider = Net({**BASE.updated(0.03, 5).weights, **_last_of(Net.new(9, classes=12))})

    made = shop.compile(wider, base.out)

    assert made.delta()["layers"] == {"matched": 3, "total": 4}
    assert made.unseen_error() <= 1.3 * made.delta()["error"]["ordinary"]


def _last_of(net: Net) -> dict[str, object]:
    return {name: value for name, value in net.weights.items() if name.startswith("last")}


def test_an_unrelated_model_is_never_worse_than_ordinary(shop: Workshop, base: Compiled) -> None:
    found = shop.compile(Net.new(77), base.out).delta()

    assert found["patch"]["model"]["bytes"] <= found["patch"]["ordinary"]["bytes"]
    assert found["error"]["model"] <= found["error"]["ordinary"]


@pytest.mark.full
def test_a_larger_budget_buys_a_smaller_patch(shop: Workshop, base: Compiled) -> None:
    net = BASE.updated(0.1, 6)
    one, two = (shop.compile(net, base.out, delta_budget=b).delta() for b in (1.0, 2.0))

    assert two["budget"] == 2.0
    assert two["patch"]["model"]["bytes"] < one["patch"]["model"]["bytes"]
    assert two["error"]["model"] <= 2 * two["error"]["ordinary"]


def test_the_base_may_be_a_packed_bundle(shop: Workshop, base: Compiled, tmp_path: Path) -> None:
    packed = tmp_path / "base.edgeb"
    pack_bundle(base.bundle(), packed)

    found = read_base(open_base(packed, "generic-arm64", "onnx", "int8"))

    assert (found.bundle, found.payload) == (base.bundle().digest, base.model())


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"delta_base": "missing"}, UsageError, "no such file"),
        ({"delta_base": "."}, UsageError, "--delta-base"),
        ({"delta_base": None, "delta_budget": 2.0}, UsageError, "belongs to --delta-base"),
        ({"delta_budget": 0.0}, UsageError, "--delta-budget"),
        ({"delta_budget": -1.0}, UsageError, "--delta-budget"),
        ({"delta_budget": float("nan")}, UsageError, "--delta-budget"),
        ({"delta_budget": float("inf")}, UsageError, "--delta-budget"),
        ({"precision": "fp32"}, NotAchievedError, "is for int8 models"),
        ({"precision": "fp16"}, NotAchievedError, "is for int8 models"),
        ({"calibration": None}, CompilerError, "calibration"),
        ({"targets": ("rpi4",), "delta_base": "arm"}, NotAchievedError, "expected a tflite int8"),
        ({"targets": ("ethos-u55-128",)}, NotAchievedError, "packs the weights anew"),
        ({"format": "tflite", "targets": ("generic-x86_64-tflite",), "delta_base": "arm"},
         NotAchievedError, "expected a tflite int8"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_any_work(
    shop: Workshop,
    base: Compiled,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
    error: type[CompilerError],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if options.get("delta_base") == "arm":
        options = {**options, "delta_base": str(base.out / "generic-arm64")}

    with pytest.raises(error, match=said):
        plan(shop.options(BASE, base.out, **options))


def test_a_tampered_base_is_refused(base: Compiled, tmp_path: Path) -> None:
    copy = tmp_path / "base"
    shutil.copytree(base.out / "generic-arm64", copy)
    model = copy / open_bundle(copy).manifest.entry("model").path
    damaged = bytearray(model.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    model.write_bytes(damaged)

    bundle = open_base(copy, "generic-arm64", "onnx", "int8")
    with pytest.raises(UsageError, match=f"--delta-base {copy}"):
        read_base(bundle)


def test_a_quantised_source_is_refused(shop: Workshop, base: Compiled, tmp_path: Path) -> None:
    source = tmp_path / "deployed.tflite"
    source.write_bytes(base.model("rpi4"))
    options = replace(shop.options(source, base.out, targets=("rpi4",)), calibration=None)

    *_, result = compile_isolated(replace(options, evaluation=None))

    assert (result["facts"], result["exit_code"]) == (None, 1)
    assert "needs the float model" in result["error"]
