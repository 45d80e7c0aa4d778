"""Benchmarks of scan simulation, completion and start-up: that they measure something,
and that what they compare with is a fair peer.
"""

import json
import math
import subprocess
import time

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn

from stem_complete.benchmarks import (
    Effort,
    choices,
    complete,
    guard,
    scan,
    startup,
    train_gpu,
)
from stem_complete.benchmarks.steps import problem, training_step, unguarded_step
from stem_complete.scan import archimedean

QUICK = Effort(rounds=2, quick=True)


def check(found):
    """Values and references are positive and finite, one of each for each round; or a reason."""
    assert found
    for comparison in found:
        if not comparison.values:
            assert comparison.note, comparison
            continue
        assert len(comparison.values) == QUICK.rounds, comparison
        assert len(comparison.reference) in (0, QUICK.rounds), comparison
        assert bool(comparison.reference) == bool(comparison.against), comparison
        for value in (*comparison.values, *comparison.reference):
            assert 0 < value < math.inf, comparison


# Scan simulation.


def test_scan_benchmark_yields_what_it_measured(tmp_path):
    found = list(scan.run(QUICK, tmp_path))
    check(found)
    assert [str(comparison.goal) for comparison in found if comparison.goal] == [">= 20", "<= 0.05"]
    # A spiral for each image is slower than one for all, by the same images and in the same rounds.
    each, once = found[0].reference, found[1].reference
    assert max(each) < min(once)


def test_scan_benchmark_times_the_simulation():
    given = problem(quick=True, batch_size=2)
    x = scan.simulation(given)()
    assert x.shape == (2, 2, 128, 128)
    batch = given.task.simulator(given.batch, 0, torch.arange(2))
    assert torch.equal(x, given.task.encode(batch.scan).x)

    scan.forward_backward(given._replace(batch=given.batch[:1]))()
    assert all(parameter.grad is not None for parameter in given.task.parameters())


@pytest.mark.parametrize("coverage", [1 / 10, 1 / 20, 1 / 50])
def test_straightforward_spiral_is_ours(coverage):
    ours = archimedean((512, 512), coverage, "nominal").dwell_map().numpy()
    assert np.array_equal(scan.spiral(512, coverage), ours)


@pytest.fixture(scope="module")
def both():
    """Our simulation of an image without flips, and the straightforward one of the same image."""
    changes = ("coverage_definition=nominal", "augment=false")
    given = problem(
        *(f"scan.{change}" for change in changes), "model.encoding=reference", quick=True
    )
    batch = given.task.simulator(given.batch, 0, torch.arange(1))
    image = given.batch[0, 0].numpy()
    dwell = scan.spiral(128, scan.COVERAGE)
    peer = scan.simulate(image, dwell, np.random.default_rng(0), augment=False)
    return given.task, batch, peer


def test_straightforward_truth_is_ours(both):
    _, batch, peer = both
    np.testing.assert_allclose(peer.truth, batch.truth[0, 0].numpy(), atol=2e-6)


def test_straightforward_scan_is_ours_but_for_chance(both):
    task, batch, peer = both
    ours = task.encode(batch.scan).x[0].numpy()
    assert np.array_equal(ours[1], peer.dwell)
    assert np.array_equal(ours[0] > 0, peer.scan > 0)
    assert ours[0].max() == pytest.approx(1)
    assert peer.scan.max() == pytest.approx(1)


def test_straightforward_noise_is_uniform_as_ours(both):
    _, batch, peer = both
    dwell, truth = peer.dwell, peer.truth
    bias = scan.background(truth)
    # Elsewhere chance hardly acts, and rounding would decide.
    sure = (dwell > 0) & (np.abs(bias) > 0.1)
    dwell, truth, bias = dwell[sure], truth[sure], bias[sure]

    detected = scan.detect(peer.truth, peer.dwell, np.random.default_rng(1))
    for intensity in (batch.scan.intensity[0, 0].numpy()[sure], detected[sure] / dwell):
        chance = (intensity - dwell * truth) / (2 * (1 - dwell) * bias)
        assert len(chance) > 1000
        assert kstest(chance, "uniform").pvalue > 1e-3


# Completion.


@pytest.fixture(scope="module")
def completions():
    return list(complete.run(QUICK, None))


def test_completion_benchmark_yields_what_it_measured(completions):
    check(completions)
    assert [str(found.goal) for found in completions if found.goal] == [">= 1.5"]
    unmeasured = [found.what for found in completions if not found.values]
    assert len(unmeasured) == 1 + (not torch.cuda.is_available())
    assert all("compiled" in what or "GPU" in what for what in unmeasured)


def test_completion_benchmark_compares_the_same_arithmetic(completions):
    rate = next(found for found in completions if found.against == "folded, contiguous")
    arithmetic = next(found for found in completions if "mm" in found.against)
    num_gflop = [
        flops / images for flops, images in zip(arithmetic.values, rate.values, strict=True)
    ]
    x = torch.randn(1, 2, 128, 128)
    generator = complete.build_network("compact").generator.eval()
    expected = complete.count_flop(generator, x) / 1e9
    assert num_gflop == pytest.approx([expected, expected])


def test_counted_operations_are_two_per_multiply_accumulate():
    convolution = nn.Conv2d(3, 5, 3, padding=1)
    assert complete.count_flop(convolution, torch.zeros(1, 3, 8, 8)) == 2 * 3 * 5 * 9 * 64


def test_every_form_completes_alike():
    x = torch.randn(1, 2, 64, 64)
    unfolded = complete.build_network("compact").generator.eval()
    folded = complete.fold_norms(unfolded)
    with torch.no_grad():
        expected = unfolded(x)
    for network in (unfolded, folded):
        for memory_format in (torch.channels_last, torch.contiguous_format):
            output = complete.forward(network, x, memory_format)()
            torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-3 * expected.std())
    rough = complete.forward(folded, x, dtype=torch.bfloat16)().float()
    assert 0 < (rough - expected).std() < 0.1 * expected.std()
    rougher = complete.int8_forward(folded, x)()
    assert 0 < (rougher - expected).std() < 0.2 * expected.std()


def test_no_compiler_is_a_reason(monkeypatch):
    def compile_nothing(*_, **__):
        def fail(x):
            raise RuntimeError("no compiler\nand a long trace")

        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    reason = "torch.compile does not work here: no compiler"
    assert complete.compiled_forward(nn.ReLU(), torch.zeros(1, 1, 2, 2)) == reason


# The training step.


def test_step_benchmarks_yield_what_they_measured():
    for benchmark in (choices, guard, train_gpu):
        found = list(benchmark.run(QUICK, None))
        # Memory is the same in each round and is measured once.
        check([comparison for comparison in found if comparison.unit != "MiB"])
        needs_gpu = {choices: ["CUDA graph"], train_gpu: [c.what for c in found]}
        missing = [] if torch.cuda.is_available() else needs_gpu.get(benchmark, [])
        assert [c.what for c in found if not c.values] == missing


def ways():
    return {
        "contiguous": choices._contiguous,
        "along first": choices._weight_norm_along_first,
        "by formula": choices._weight_norm_by_formula,
        "recomputed": choices._recomputed,
    }


@pytest.mark.parametrize("way", ways())
def test_other_ways_take_the_same_step(way):
    states = []
    for change in (lambda given: given, ways()[way]):
        torch.manual_seed(0)
        given = change(problem(quick=True))
        training_step(given)()
        states.append(given.task.state_dict())
    for name, value in states[0].items():
        if name.endswith((".v", ".running_mean", ".mu1")):
            other = states[1][name]
            assert (other - value).norm() <= 2e-3 * value.norm() + 1e-6, name


def test_recomputing_keeps_less():
    plain, recomputed = problem(quick=True), choices._recomputed(problem(quick=True))
    assert 0 < choices.kept_bytes(recomputed) < choices.kept_bytes(plain)


def test_an_unguarded_step_is_the_same_step_where_all_is_finite():
    states = []
    for make in (training_step, unguarded_step):
        torch.manual_seed(0)
        given = problem(quick=True)
        make(given)()
        states.append(given.task.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value)


# Start-up.


def test_startup_benchmark_yields_what_it_measured(tmp_path, monkeypatch):
    """In processes that only wait, so that it takes no minute."""
    waits = {"import torch": 0.05, "import torch, stem_complete": 0.1}

    def python(*arguments):
        time.sleep(waits.get(arguments[-1], 0.01))
        started = time.monotonic()
        return f"noise\n{json.dumps([started + number for number in range(1, 6)])}\n"

    monkeypatch.setattr(startup, "_python", python)
    found = list(startup.run(QUICK, tmp_path))
    check(found)
    without, within, _, help_page, *phases = found
    assert min(without.reference) >= 0.05
    assert min(without.values) >= 0.1
    assert without.met is None
    assert within.reference == [0.3 + value for value in without.reference]
    assert within.met
    assert help_page.reference == [0.5, 0.5]
    assert str(help_page.goal) == "<= 1"
    assert [found.what.partition(": ")[2] for found in phases[:-1]] == list(startup.PHASES)
    assert phases[-1].values == pytest.approx(
        [sum(values) for values in zip(*(phase.values for phase in phases[:-1]), strict=True)]
    )


def test_processes_that_fail_are_not_timed():
    with pytest.raises(subprocess.CalledProcessError):
        startup._process("-c", "import no_such_module")()


def test_phases_are_those_of_a_run(small_store, tmp_path):
    started = time.perf_counter()
    seconds = startup.seconds_by_phase(small_store, tmp_path)
    taken = time.perf_counter() - started
    assert len(seconds) == len(startup.PHASES)
    assert all(value > 0 for value in seconds)
    # The rest is the end of the process.
    assert 0.3 * taken < sum(seconds) < taken
    # Importing torch and opening a database take longer than reading seven keys.
    importing, reading, opening, building, step = seconds
    assert reading < min(importing, opening, building, step)
    assert (tmp_path / "startup" / "config.yaml").exists()
