"""The scaling model: its counts are the code's, its times obey the laws, its link can be fitted."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from stem_complete.benchmarks.scaling_rank import APART, STEP
from stem_complete.distributed import StatisticsExchange, WorkerContext
from stem_complete.models import WeightNormConv2d, build_network, pending_means
from stem_complete.training import train

sys.path.append(str(Path(__file__).parents[2] / "scripts"))  # scripts are no package

import measure_scaling
import scaling_model
import step_time
from step_time import Cluster, Link, Training, all_reduce_s, exposed_exchange_s

NODES = Cluster(Link(300e9, 2e-6), Link(10e9, 10e-6), gpus_per_node=8)
TRAINING = Training(example_s=2e-3, weight_norm_s=1e-3, optimizer_s=1e-3, launch_s=1e-3)

gpus = st.sampled_from([2**exponent for exponent in range(11)])
algorithms = st.sampled_from(["auto", "ring", "tree", "hierarchical"])
links = st.builds(Link, st.floats(1e8, 1e12), st.floats(1e-7, 1e-3))
clusters = st.builds(Cluster, links, links, st.sampled_from([1, 2, 4, 8]))
trainings = st.builds(
    Training,
    example_s=st.floats(1e-4, 1.0),
    micro_batch=st.integers(1, 32),
    accumulation=st.integers(1, 8),
    weight_norm_s=st.floats(0.0, 0.01),
    launch_s=st.floats(0.0, 0.1),
    compression=st.booleans(),
    bucket_mb=st.floats(1.0, 1000.0),
    algorithm=algorithms,
    overlap=st.booleans(),
)


@pytest.fixture(scope="module")
def paper_network():
    with torch.device("meta"):
        return build_network("paper")


def test_layers_are_those_of_the_code_in_the_order_of_its_forward_pass(paper_network):
    seen = []

    def note(layer, inputs, output):
        side = (inputs[0] if layer.transposed else output).shape[-1]
        values = (layer.in_channels, layer.out_channels, layer.kernel_size, side)
        seen.append(step_time.Convolution(*values, mean_norm=layer.mean_norm is not None))

    hooks = [
        module.register_forward_hook(note)
        for module in paper_network.modules()
        if isinstance(module, WeightNormConv2d)
    ]
    paper_network(torch.zeros(1, 2, 512, 512, device="meta"))
    for hook in hooks:
        hook.remove()
    assert tuple(seen) == step_time.LAYERS


def test_counts_are_those_of_the_code(paper_network):
    num_parameters = sum(parameter.numel() for parameter in paper_network.parameters())
    assert num_parameters == step_time.NUM_PARAMETERS
    assert 4 * num_parameters == step_time.GRADIENT_BYTES
    assert pending_means(paper_network).numel() == step_time.NUM_MEANS
    with FlopCounterMode(display=False) as counter:
        full, half = paper_network(torch.zeros(1, 2, 512, 512, device="meta"))
        (full.sum() + half.sum()).backward()
    assert counter.get_total_flops() == step_time.FLOP_PER_EXAMPLE


def test_statistics_and_checkpoints_hold_what_the_loop_sends_and_writes(small_config, monkeypatch):
    start, sent = StatisticsExchange.start, []

    def counting_start(self, parts):
        sent.append({name: part.numel() for name, part in parts.items()})
        start(self, parts)

    monkeypatch.setattr(StatisticsExchange, "start", counting_start)
    config = small_config("training.steps=1")
    train(config, WorkerContext())
    (parts,) = sent
    compact = build_network("compact")
    assert parts.pop("means") == pending_means(compact).numel()
    alrc = [parts.pop(name) for name in ("alrc/outer", "alrc/inner")]
    assert sum(alrc) == step_time.NUM_ALRC
    assert sum(parts.values()) == step_time.NUM_LOOP

    written = sum(
        file.stat().st_size
        for file in (config.run_folder / "checkpoints").rglob("*")
        if file.is_file()
    )
    num_parameters = sum(parameter.numel() for parameter in compact.parameters())
    assert written == pytest.approx(
        step_time.CHECKPOINT_BYTES / step_time.NUM_PARAMETERS * num_parameters, rel=0.05
    )


def test_buckets_are_those_of_ddp():
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        model = DistributedDataParallel(
            build_network("paper"), gradient_as_bucket_view=True, bucket_cap_mb=25.0
        )
        for _ in range(3):  # made anew after the first step, written down after the second
            full, half = model(torch.zeros(1, 2, 32, 32))
            (full.sum() + half.sum()).backward()
        made = model._get_ddp_logging_data()["rebuilt_bucket_sizes"]
    finally:
        torch.distributed.destroy_process_group()
    assert [int(size) for size in made.split(",")] == [size for size, _ in step_time.buckets(25.0)]


@given(st.floats(0.1, 1000.0))
def test_buckets_hold_all_gradients_in_order(bucket_mb):
    sizes, ready = zip(*step_time.buckets(bucket_mb), strict=True)
    assert sum(sizes) == step_time.GRADIENT_BYTES
    assert list(ready) == sorted(ready)
    assert ready[0] > 0
    assert ready[-1] == 1


def test_all_reduce_over_one_link_is_the_textbooks():
    pair = Cluster(Link(1e9, 1e-5), Link(1.0, 1.0), gpus_per_node=4)
    assert all_reduce_s(1e6, 2, pair, "ring") == pytest.approx(1e-3 + 2e-5)
    assert all_reduce_s(1e6, 4, pair, "ring") == pytest.approx(1.5e-3 + 6e-5)


@given(trainings, clusters)
def test_one_gpu_exchanges_nothing(training, cluster):
    step = step_time.step_time(training, cluster, 1)
    assert step.gradients == step.statistics == 0


@given(trainings, clusters, gpus)
def test_parts_are_never_negative_and_the_exchange_is_hidden_in_part_or_not(
    training, cluster, num_gpus
):
    step = step_time.step_time(training, cluster, num_gpus)
    assert min(step.parts.values()) >= 0
    assert step.total == pytest.approx(sum(step.parts.values()))
    whole = exposed_exchange_s(replace(training, overlap=False), cluster, num_gpus)
    exposed = step.gradients + step.statistics
    assert exposed <= whole * (1 + 1e-9)
    # The last bucket is only full when the backward pass is over.
    last_bytes = step_time.buckets(training.bucket_mb)[-1][0] / (2 if training.compression else 1)
    last = all_reduce_s(last_bytes, num_gpus, cluster, training.algorithm)
    assert exposed >= last * (1 - 1e-6) - 1e-12


@given(trainings, clusters, gpus, st.floats(1.0, 100.0))
def test_slower_links_are_never_more_efficient(training, cluster, num_gpus, factor):
    before = step_time.step_time(training, cluster, num_gpus)
    for which in ("intra", "inter"):
        link = getattr(cluster, which)
        for slower in (
            Link(link.bandwidth / factor, link.latency),
            Link(link.bandwidth, link.latency * factor),
        ):
            after = step_time.step_time(training, replace(cluster, **{which: slower}), num_gpus)
            assert after.examples_per_s <= before.examples_per_s * (1 + 1e-9)


@given(trainings, gpus.filter(lambda n: n > 1))
def test_compression_halves_the_bytes(training, num_gpus):
    no_latency = Cluster(Link(1e11, 0.0), Link(1e10, 0.0), 8)
    times = [
        exposed_exchange_s(
            replace(training, overlap=False, compression=compression),
            no_latency,
            num_gpus,
            statistics=False,
        )
        for compression in (False, True)
    ]
    assert times[1] == pytest.approx(times[0] / 2)


@given(trainings, clusters, gpus)
def test_accumulation_thins_the_exchange_out(training, cluster, num_gpus):
    shares = []
    for accumulation in (1, 2, 8):
        step = step_time.step_time(replace(training, accumulation=accumulation), cluster, num_gpus)
        shares.append((step.gradients + step.statistics) / step.total)
    assert shares == sorted(shares, reverse=True)


@given(clusters, st.sampled_from([256, 512, 1024]), st.floats(0.0, 1e6))
def test_hierarchy_never_loses_to_a_flat_ring_where_latency_counts(cluster, num_gpus, num_bytes):
    """A flat ring's hops grow with the GPUs, a hierarchy's with the logarithm of the nodes."""
    cluster = replace(cluster, gpus_per_node=8)
    # Messages so small that a single hop takes longer than they.
    num_bytes = min(
        num_bytes, *(link.bandwidth * link.latency for link in (cluster.intra, cluster.inter))
    )
    flat = all_reduce_s(num_bytes, num_gpus, cluster, "ring")
    assert all_reduce_s(num_bytes, num_gpus, cluster, "hierarchical") <= flat
    assert all_reduce_s(num_bytes, num_gpus, cluster, "auto") <= flat


@pytest.mark.parametrize("link", scaling_model.INTER_LINKS)
def test_hierarchy_beats_a_flat_ring_with_buckets_on_1024_gpus_of_every_link(link):
    options = scaling_model.parser().parse_args(["--link", link])
    cluster = scaling_model.cluster_of(options)
    for num_bytes, _ in step_time.buckets(25.0):
        times = [all_reduce_s(num_bytes, 1024, cluster, name) for name in ("hierarchical", "ring")]
        assert times[0] < times[1]


def test_reading_is_hidden_by_loaders_until_it_takes_longer():
    slow = replace(TRAINING, read_s=10e-3)
    alone = step_time.step_time(replace(slow, loaders=0), NODES, 8)
    assert alone.data == pytest.approx(8 * 10e-3)
    some = step_time.step_time(replace(slow, loaders=1), NODES, 8)
    assert some.total - some.pauses == pytest.approx(8 * 10e-3)
    assert some.limit == "data"
    assert step_time.step_time(replace(slow, loaders=8), NODES, 8).data == 0
    shared = replace(TRAINING, storage_bandwidth=1e9)
    assert step_time.step_time(shared, NODES, 1024).limit == "data"


def test_command_prints_steps_as_json_and_draws_them(capsys, tmp_path):
    scaling_model.main(["--json", "--plot", str(tmp_path / "scaling.png")])
    result = json.loads(capsys.readouterr().out)
    assert [step["num_gpus"] for step in result["steps"]] == [2**n for n in range(11)]
    assert [step["global_batch"] for step in result["steps"]] == [8 * 2**n for n in range(11)]
    assert result["steps"][0]["efficiency"] == 1
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_strong_scaling_keeps_the_batch(capsys):
    scaling_model.main(["--global-batch", "64", "--json"])
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert [step["num_gpus"] for step in steps] == [1, 2, 4, 8, 16, 32, 64]
    assert {step["global_batch"] for step in steps} == {64}
    efficiencies = [step["efficiency"] for step in steps]
    assert efficiencies == sorted(efficiencies, reverse=True)


@pytest.mark.parametrize("argument", ["--batch=0", "--gpu=abacus", "--max-gpus=-1"])
def test_command_refuses_nonsense(argument, capsys):
    with pytest.raises(SystemExit) as stopped:
        scaling_model.main([argument])
    assert stopped.value.code == 2
    assert argument.split("=")[0] in capsys.readouterr().err


def test_link_is_fitted_and_predicts_what_obeys_the_model(monkeypatch):
    monkeypatch.setattr(measure_scaling, "contention", lambda ranks: max(1.0, ranks / 2))
    true = Link(2e9, 1e-4)
    measured = {1: {STEP: [0.2], "paper, no exchange": [0.9], measure_scaling.OTHERS: [0.0]}}
    for ranks in (2, 4):
        cluster = measure_scaling.loopback(true, ranks)
        measured[ranks] = {
            f"all-reduce {size}": [all_reduce_s(size, ranks, cluster, "ring")]
            for size in measure_scaling.MESSAGE_BYTES
        }
    link = measure_scaling.fitted_link(measured)
    assert link.bandwidth == pytest.approx(true.bandwidth)
    assert link.latency == pytest.approx(true.latency)

    for ranks in (2, 4):
        cluster = measure_scaling.loopback(true, ranks)
        share = ranks / 2
        training = Training(0.0, algorithm="ring", overlap=False)
        float32, bf16 = (
            0.9 * share
            + exposed_exchange_s(
                replace(training, compression=compression), cluster, ranks, statistics=False
            )
            for compression in (False, True)
        )
        measured[ranks] |= {
            STEP: [0.2 * share + 0.01],
            APART: [0.2 * share],
            "paper, no exchange": [0.9 * share],
            "paper, float32": [float32],
            "paper, bf16": [bf16],
            measure_scaling.OTHERS: [0.0],
        }
    rows = measure_scaling.compared(measured, link)
    assert {row.ranks for row in rows} == {2, 4}
    for row in rows:
        if row.what != "loop: step":
            assert row.error == pytest.approx(0, abs=1e-6), row.what
    assert "paper, bf16: pass | 4 |" in measure_scaling.report(measured, link, rows)
