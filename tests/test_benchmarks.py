"""The comparison of libraries: its arithmetic, its report, a worker that is missing something, one that dies."""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import reference as loops  # noqa: E402

from benchmarks import compare, elementwise, gpu, memory, reference, report, start, worker  # noqa: E402
from benchmarks.cases import CONV, ELEMENTWISE, ConvRow  # noqa: E402
from benchmarks.providers import load  # noqa: E402
from numbaconv.cpu.simd import VECTOR_BYTES  # noqa: E402


def answers(*milliseconds, error=None):
    return [{"ms": ms, "p10": ms, "p90": ms, "calls": 3, "error": error} for ms in milliseconds]


ROW = {
    "kind": "prepared",
    "name": "vgg_3_2",
    "answers": {
        "numbaconv": answers(2.0, 4.0, 2.0, error=2e-6),
        "torch": answers(6.0, 8.0, 8.0, error=3e-7),
        "onnxruntime": answers(3.0, 2.0, 3.0),
        "openvino": [{"skipped": "not installed"}],
    },
}


def test_a_ratio_is_the_median_over_rounds_of_their_time_over_ours():
    assert report.ratio(ROW, "torch") == 3.0
    assert report.ratio(ROW, "onnxruntime") == 1.5
    assert report.ratio(ROW, "openvino") is None
    assert report.headline(ROW) == (1.5, "onnxruntime")
    assert reference.geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)


def test_the_report_shows_every_row_and_the_worst():
    result = {
        "processor": "P", "threads": 2, "dtype": "float32", "started": "now", "gflops": 100.0,
        "gigabytes_per_second": 10.0, "rounds": 3, "rows": [ROW, {**ROW, "name": "seed_5x5"}],
    }  # fmt: skip
    text = report.markdown(result)
    assert "| vgg_3_2 | 2.000 (2e-06) |" in text
    assert "3.00 (3e-07)" in text
    assert "Geometric mean **1.50**, worst **1.50**" in text
    seconds = 2 * 256 * 256 * 9 * 56 * 56 / 100e9
    nbytes = 4 * (2 * 256 * 56 * 56 + 256 * 256 * 9)
    assert report.shares(result, ROW) == pytest.approx((seconds / 2e-3, nbytes / 10e9 / 2e-3))
    assert "| vgg_3_2 | 1.50 onnxruntime |" in text
    assert "**1.50** (0.50 to 1.50)" in text


def test_scaling_is_time_with_few_threads_over_time_with_many():
    results = []
    for threads, ms in ((1, 6.0), (2, 4.0)):
        rows = [{**ROW, "name": n, "answers": {"numbaconv": answers(t), "torch": answers(ms)}}
                for n, t in (("vgg_3_2", ms * ms), ("seed_5x5", 2.0))]  # fmt: skip
        results.append({"processor": "P", "threads": threads, "dtype": "float32", "rows": rows,
                        "versions": {"numbaconv": "1", "torch": "2"}})  # fmt: skip
    assert "| prepared | **1.50** | 1.00 seed_5x5 | 1.50 |" in report.scaling(results)


def test_the_chart_is_written(tmp_path):
    pytest.importorskip("matplotlib")
    result = {"processor": "P", "threads": 1, "dtype": "float32", "rows": [ROW]}
    report.chart(result, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 5000


def test_rows_are_never_lost():
    names = [row.name for row in CONV]
    assert len(names) == len(set(names)) >= 44
    assert {"seed_5x5", "vgg_5_2", "resnext_groups32", "inception_7x1", "dilated_1x3", "small_call"} <= set(names)


@pytest.mark.parametrize(
    "row",
    [
        ConvRow("a", 2, 4, 9, 7, 6, 3, stride=2, padding=1, groups=2),
        ConvRow("b", 1, 3, 6, 11, 5, (1, 3), padding=(0, 2), dilation=(1, 2)),
    ],
)
def test_errors_are_measured_against_the_definition(row, rng):
    arguments = row.arguments
    x, weight, bias = (rng.standard_normal(s) for s in (row.input_shape, row.weight_shape, (row.out_channels,)))
    output = loops.conv2d(x, weight, bias, **arguments)
    grad_output = rng.standard_normal(output.shape)
    gradients = [
        loops.conv2d_backward_input(grad_output, weight, x.shape, **arguments),
        loops.conv2d_backward_weight(grad_output, x, weight.shape, **arguments),
        loops.conv2d_backward_bias(grad_output),
    ]
    assert reference.forward_error(row, output, x, weight, bias) < 1e-14
    assert reference.backward_error(row, gradients, grad_output, x, weight) < 1e-14
    assert reference.forward_error(row, output * 1.001, x, weight, bias) == pytest.approx(1e-3, rel=1e-6)
    gradients[1] = gradients[1] * 1.01
    assert reference.backward_error(row, gradients, grad_output, x, weight) == pytest.approx(1e-2, rel=1e-6)


def test_errors_of_linear_layers_cover_all_three_gradients(rng):
    x, weight, grad_output = (rng.standard_normal(shape) for shape in ((7, 30), (11, 30), (7, 11)))
    gradients = [grad_output @ weight, grad_output.T @ x, grad_output.sum(axis=0)]
    assert reference.linear_backward_error(gradients, grad_output, x, weight) < 1e-14
    for i in range(3):
        wrong = [g * 1.01 if i == j else g for j, g in enumerate(gradients)]
        assert reference.linear_backward_error(wrong, grad_output, x, weight) > 1e-3


@pytest.mark.skipif(np.finfo(np.longdouble).eps >= np.finfo(float).eps, reason="long double is no longer here")
def test_float64_results_are_measured_against_something_longer(rng):
    row = ConvRow("a", 1, 64, 5, 5, 4, 3)
    x, weight, bias = (rng.standard_normal(s) for s in (row.input_shape, row.weight_shape, (4,)))
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.longdouble), (3, 3), (2, 3))
    exact = np.einsum("nchwrs,kcrs->nkhw", windows, weight.astype(np.longdouble)) + bias[:, None, None]
    assert exact.dtype == np.longdouble
    assert reference.forward_error(row, exact, x, weight, bias) < 1e-18
    assert 1e-18 < reference.forward_error(row, exact.astype(float), x, weight, bias) < 2e-16


def test_a_wrong_result_gets_no_time(monkeypatch):
    right = worker.prepare

    def wrong(provider, job):
        call, check = right(provider, job)
        return lambda: call() * 1.01, check

    provider = load("numpy_im2col", "cpu", 1)
    job = {"group": "conv", "row": "odd_17_to_5", "kind": "forward", "layout": "channels_first", "dtype": "float64",
           "seconds": 0.001}  # fmt: skip
    assert worker.Worker(provider).answer(job)["error"] < 1e-14
    monkeypatch.setattr(worker, "prepare", wrong)
    assert worker.Worker(provider).answer(job)["skipped"].startswith("wrong: its relative error is 1e-02")


def by_torch(row, x, others):
    """(output, what to backpropagate from), by PyTorch."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    others = {name: torch.from_numpy(a) for name, a in others.items()}
    if row.op == "batch_norm":
        return functional.batch_norm(x, None, None, training=True)
    return getattr(torch if row.op == "add" else functional, row.op)(x, *others.values(), **row.arguments)


SMALL = {4: (2, 3, 8, 12), 2: (5, 7)}


@pytest.mark.parametrize("row", ELEMENTWISE, ids=lambda row: row.name)
def test_errors_of_elementwise_rows_are_measured_against_pytorch(row, rng):
    torch = pytest.importorskip("torch")
    row = row._replace(shape=SMALL[len(row.shape)])
    x = rng.standard_normal(row.shape)
    others = elementwise.operands(row, rng.standard_normal)
    own = torch.from_numpy(x).requires_grad_()
    output = by_torch(row, own, others)
    values = output.detach().numpy()
    assert elementwise.forward_error(row, values, x, others) < 1e-12
    assert elementwise.forward_error(row, values * 1.01, x, others) == pytest.approx(1e-2, rel=1e-6)
    if row.op != "add":
        grad_output = rng.standard_normal(values.shape)
        output.backward(torch.as_tensor(grad_output))
        error = elementwise.backward_error(row, own.grad.numpy(), np.asarray(grad_output), x, others)
        assert error < 1e-12


def test_shares_of_a_row_that_is_bound_by_memory():
    row = {"kind": "elementwise_backward", "name": "relu_small", "answers": {"numbaconv": answers(2.0)}}
    result = {"dtype": "float64", "gflops": 1.0, "gigabytes_per_second": 10.0}
    assert report.shares(result, row) == pytest.approx((0, 3 * 64 * 6 * 28 * 28 * 8 / 10e9 / 2e-3))


def test_a_whole_comparison(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    options = [
        "--threads",
        "1",
        "--rows",
        "odd_17_to_5,relu_small",
        "--providers",
        "numbaconv",
        "numpy_im2col",
        "scipy",
    ]
    compare.main([*options, "--rounds", "1", "--seconds", "0.01", "--output", str(tmp_path)])
    result = json.loads((tmp_path / "compare-float32-1-threads.json").read_text())
    rows = {row["kind"]: row["answers"] for row in result["rows"]}
    names = ("functional", "functional_channels_first", "prepared", "backward", "elementwise", "elementwise_backward")
    assert set(rows) == set(names)
    assert rows["functional"]["numbaconv"][0]["error"] < 1e-6
    assert rows["functional"]["numpy_im2col"][0]["ms"] > 0
    assert "## backward" in (tmp_path / "compare-float32-1-threads.md").read_text()


def test_training_steps_are_checked_against_pytorch_in_float64(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(ROOT)
    options = ["--rounds", "1", "--seconds", "0.01", "--output", str(tmp_path), "--threads", "1"]
    compare.main(["--rows", "lenet5", "--kinds", "train", "predict_one", "--providers", "numbaconv", "torch", *options])
    for row in json.loads((tmp_path / "compare-float32-1-threads.json").read_text())["rows"]:
        for provider in ("numbaconv", "torch"):
            assert 0 < row["answers"][provider][0]["error"] < 1e-5


def test_a_worker_that_dies_is_started_again_and_in_the_end_reported(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(compare, "_MOST_CRASHES", 2)
    job = {"group": "conv", "row": "odd_17_to_5", "kind": "forward", "layout": "channels_first", "dtype": "float32",
           "seconds": 0.001}  # fmt: skip
    worker = compare.Process("numpy_im2col", 1)
    worker.process.kill()
    worker.process.wait()
    assert worker.ask(job)["ms"] > 0
    assert worker.ask(job)["ms"] > 0
    worker.process.kill()
    worker.process.wait()
    assert "ended" in worker.ask(job)["skipped"]
    assert "ended" in worker.ask(job)["skipped"]
    assert worker.crashes == 2


def test_a_crash_of_our_own_is_not_made_good(monkeypatch):
    monkeypatch.chdir(ROOT)
    worker = compare.Process("numbaconv", 1)
    worker.process.kill()
    worker.process.wait()
    assert "ended" in worker.ask({"row": "seed_5x5"})["skipped"]
    assert "ended" in worker.ask({"row": "seed_5x5"})["skipped"]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="registers of x86-64")
@pytest.mark.parametrize("limited", [True, pytest.param(False, marks=pytest.mark.full)])
def test_a_worker_proves_that_it_kept_to_the_target(limited, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    if not limited:
        if VECTOR_BYTES < 64:
            pytest.skip("this CPU has no zmm registers")
        monkeypatch.setitem(compare.TARGETS, "avx2", {})  # the worker is told to check, its environment limits nothing
    job = {"group": "conv", "row": "odd_17_to_5", "kind": "forward", "layout": "channels_last", "dtype": "float32",
           "seconds": 0.001}  # fmt: skip
    process = compare.Process("numbaconv", 1, "avx2", str(tmp_path))
    answer = process.ask(job)
    process.stop()
    assert process.version, process.skipped
    if limited:
        assert answer["ms"] > 0
    else:
        assert "zmm" in answer["skipped"]


def test_what_cannot_be_limited_is_skipped(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    process = compare.Process("scipy", 1, "avx2", str(tmp_path))
    process.stop()
    assert "scipy cannot be limited to avx2" in process.skipped


def test_timing_repeats_all_but_very_slow_calls(monkeypatch):
    calls = []
    found = worker.timing(lambda: calls.append(time.sleep(0.005)), 0.05)
    assert 3 <= found["calls"] < len(calls)
    assert 5 <= found["p10"] <= found["ms"] <= found["p90"]
    calls.clear()
    monkeypatch.setattr(worker, "MOST_SECONDS", 0.001)
    assert worker.timing(lambda: calls.append(time.sleep(0.005)), 0.001)["calls"] == len(calls) == 1


class FakeGPU:
    """A device whose clock runs only while it works: half a millisecond a call."""

    def __init__(self):
        self.now, self.calls = 0.0, 0

    def call(self):
        self.now += 0.5  # a power of two: sums are exact
        self.calls += 1

    def time(self, run):
        before = self.now
        run()
        return self.now - before


def test_a_gpus_time_is_that_of_its_own_clock():
    device = FakeGPU()
    found = gpu.timing(device.time, device.call, seconds=0.02)
    assert found["p10"] == found["ms"] == found["p90"] == 0.5
    assert found["calls"] == 40  # 20 ms, four calls a sample
    assert device.calls == found["calls"] + 1 + 3


@pytest.mark.parametrize(
    ("name", "capability", "multiprocessors", "megahertz", "teraflops", "dtype"),
    [  # NVIDIA's data sheets
        ("T4", (7, 5), 40, 1590, 8.1, "float32"),
        ("A100", (8, 0), 108, 1410, 19.5, "float32"),
        ("A100", (8, 0), 108, 1410, 9.7, "float64"),
        ("RTX 4090", (8, 9), 128, 2520, 82.6, "float32"),
        ("H100 SXM", (9, 0), 132, 1980, 67, "float32"),
    ],
)
def test_peaks_are_those_of_the_data_sheets(name, capability, multiprocessors, megahertz, teraflops, dtype):
    peak = gpu.peak_gflops(capability, multiprocessors, 1000 * megahertz, dtype)
    assert peak / 1000 == pytest.approx(teraflops, rel=0.01)


def test_without_a_gpu_the_reason_is_said(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    try:
        gpu.Clock()
    except gpu.Unavailable:
        with pytest.raises(SystemExit):
            compare.main(["--device", "cuda", "--providers", "numbaconv"])
        assert "no GPU" in capsys.readouterr().err
    for options in (["--tf32"], ["--device", "cuda", "--target", "avx2"]):
        with pytest.raises(SystemExit):
            compare.main(options)
        assert "--tf32 is for a GPU, --target for a CPU" in capsys.readouterr().err


def test_a_gpus_report_names_it():
    result = {"processor": "GPU X", "device": "cuda", "tf32": True, "dtype": "float32", "threads": 1, "gflops": 19500.0,
              "gigabytes_per_second": 1300.0, "rounds": 3, "started": "now", "rows": []}  # fmt: skip
    text = report.markdown(result)
    assert text.startswith("# GPU X, float32, products in TF32, now\n")
    assert "Peak of its units at the highest clock 19500 GFLOP/s" in text


def test_samples_are_the_same_every_time():
    assert reference._places((3, 4)) == reference._places((3, 4))
    assert np.max(reference._places((3, 4)), axis=0).tolist() == [2, 3]


PEAK = """
import json
import numpy as np
from benchmarks.memory import peak_of

def call():
    temporary = np.ones(2_000_000)  # 16 MB, of which half is given back before the rest is taken
    del temporary
    other = np.ones(1_000_000)
    return other[:1000] + 1

peak, result = peak_of(call, lambda: None)
print(json.dumps({"peak": peak, "size": result.size}))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resets the peak through /proc")
def test_peak_memory_counts_what_is_taken_and_given_back_within_a_call(run_python):
    found = json.loads(run_python(PEAK, PYTHONPATH=str(ROOT), **memory.ENVIRONMENT))
    assert found["size"] == 1000
    assert found["peak"] == pytest.approx(16e6, rel=0.02)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resets the peak through /proc")
def test_memory_of_the_baseline_is_its_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    options = ["--rows", "lenet_c1,alexnet_c2", "--providers", "numbaconv", "numpy_im2col"]
    memory.main([*options, "--no-algorithms", "--output", str(tmp_path)])
    results = json.loads((tmp_path / "memory-float32.json").read_text())
    forward = {(r["provider"], r["row"]): r for r in results if r["direction"] == "forward"}
    # (The padded input is freed before the output is taken.) Of the larger row: Linux counts pages core by core, and
    # what it says of a process is some 100 pages off.
    columns = 8 * 64 * 25 * 27 * 27 * 4
    assert forward["numpy_im2col", "alexnet_c2"]["extra"] == pytest.approx(columns, rel=0.05)
    ours = forward["numbaconv", "lenet_c1"]
    assert (ours["algorithm"], ours["extra"] < 5e6) == ("planes", True)
    assert "| lenet_c1 | backward |" in (tmp_path / "memory-float32.md").read_text()


def test_start_measures_imports_and_a_cold_first_convolution(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(start, "USES", {"import": ("numpy", "no_such_module"), "conv2d": ("numbaconv cold",)})
    start.main(["--rounds", "1", "--threads", "1", "--uses", "import", "conv2d", "--output", str(tmp_path)])
    results = json.loads((tmp_path / "start-1-threads.json").read_text())
    (first,) = results["conv2d"]["numbaconv cold"]
    assert first["second"] < first["first"] / 2 < first["first"] < first["process"]
    assert 0 < results["import"]["numpy"][0]["import"] < 5
    text = (tmp_path / "start-1-threads.md").read_text()
    assert "| no_such_module | skipped: ModuleNotFoundError" in text
