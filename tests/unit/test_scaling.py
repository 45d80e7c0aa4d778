"""The scaling script: it counts what the code has, and its times obey the laws."""

from functools import cache, partial
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from stem_complete.models import build_network

FILE = Path(__file__).parents[2] / "scripts/scaling"
scaling = module_from_spec(spec_from_loader("scaling", SourceFileLoader("scaling", str(FILE))))
scaling.__spec__.loader.exec_module(scaling)
Cluster, Link, all_reduce_s = scaling.Cluster, scaling.Link, scaling.all_reduce_s
count = cache(partial(scaling.count, "paper"))

gpus = st.sampled_from([2**exponent for exponent in range(11)])
links = st.builds(Link, st.floats(1e8, 1e12), st.floats(1e-7, 1e-3))
clusters = st.builds(Cluster, links, links, st.sampled_from([1, 2, 4, 8]))
# Counted when it is first drawn: that takes a second.
trainings = st.deferred(
    lambda: st.builds(
        partial(scaling.Training, *count()),
        example_s=st.floats(1e-4, 1.0),
        batch=st.integers(1, 32),
        accumulation=st.integers(1, 8),
        bucket_mb=st.floats(1.0, 1000.0),
        bf16_gradients=st.booleans(),
    )
)


def test_layers_are_those_of_the_network():
    with torch.device("meta"):
        network = build_network("paper")
    layers, _ = count()
    sizes = sorted(parameter.numel() for parameter in network.parameters())
    assert sorted(size for layer in layers for size in layer.parameters) == sizes
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 2, 512, 512, device="meta"))
    assert counter.get_total_flops() == 2 * sum(layer.num_macs for layer in layers)


@given(trainings)
def test_buckets_hold_all_gradients_in_order(training):
    sizes, ready = zip(*scaling.buckets(training), strict=True)
    assert sum(sizes) == training.gradient_bytes == 424_654_600
    assert list(ready) == sorted(ready)
    assert ready[0] > 0
    assert ready[-1] == 1


def test_an_all_reduce_over_one_link_is_the_textbooks():
    pair = Cluster(Link(1e9, 1e-5), Link(1.0, 1.0), gpus_per_node=4)
    assert all_reduce_s(1e6, 2, pair) == pytest.approx(1e-3 * 2 / 2 + 2e-5)
    assert all_reduce_s(1e6, 4, pair) == pytest.approx(1.5e-3 + 6e-5)


@given(trainings, clusters)
def test_one_gpu_exchanges_nothing(training, cluster):
    step = scaling.step_time(training, cluster, 1)
    assert step.exposed == 0
    assert step.examples_per_s == pytest.approx(1 / training.example_s)


@given(trainings, clusters, gpus, st.floats(1.0, 100.0))
def test_slower_links_are_never_faster(training, cluster, num_gpus, factor):
    before = scaling.step_time(training, cluster, num_gpus)
    for which in ("node", "network"):
        link = getattr(cluster, which)
        for slower in (
            Link(link.bandwidth / factor, link.latency),
            Link(link.bandwidth, link.latency * factor),
        ):
            after = scaling.step_time(training, cluster._replace(**{which: slower}), num_gpus)
            assert after.examples_per_s <= before.examples_per_s * (1 + 1e-9)


@given(trainings, clusters, gpus)
def test_accumulation_and_bf16_gradients_never_expose_more(training, cluster, num_gpus):
    step = scaling.step_time(training, cluster, num_gpus)
    more = scaling.step_time(
        training._replace(accumulation=training.accumulation + 1), cluster, num_gpus
    )
    assert more.exposed / more.total <= step.exposed / step.total + 1e-12
    full, half = (
        scaling.step_time(training._replace(bf16_gradients=bf16), cluster, num_gpus)
        for bf16 in (False, True)
    )
    assert half.exposed <= full.exposed * (1 + 1e-9)


def test_the_command_prints_a_row_for_each_number_of_gpus(capsys):
    scaling.main(["--ms-per-example=2.3", "--node=450", "--network=400", "--max-gpus=64"])
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].startswith("424,654,600 bytes of gradients")
    assert [row.split("|")[1].strip() for row in rows[4:]] == ["1", "2", "4", "8", "16", "32", "64"]
