"""Training across two hosts of one machine, each with its own network, of which one is lost.

    scripts/two_hosts [--cut-link] [--steps N]

The hosts are Linux namespaces, joined by a virtual cable: each has its own network, processes,
host name and shared memory, and its own raylet. In the middle of a run the second host loses its
power, or its cable for a while; then it starts again, as a service manager would have it. The run
must end, by itself, in the weights that it ends in undisturbed. Needs root and iproute2.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

import psutil
from stores import small_store

from faults.injection import Cost, measure
from faults.nodes import ENVIRONMENT, RayNode, descendants
from faults.training import Training, differing, short_run, train_undisturbed
from stem_complete.config import Config

LINK = "eth0"
PORT = 6379
_ENVIRONMENT = ENVIRONMENT | {
    "GLOO_SOCKET_IFNAME": LINK,
    # A host whose cable is cut does not refuse to answer, it is silent.
    "RAY_health_check_timeout_ms": "2000",
}

# What a host has of its own, on top of its network; `ray start` becomes its first process, whose
# end is the end of all others.
_BOOT = """
hostname {name}
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs {ray}
exec "$@"
"""


def obstacle() -> str | None:
    """Why this machine cannot have such hosts; None if it can."""
    if not sys.platform.startswith("linux") or os.geteuid():
        return "network namespaces need root on Linux"
    for program in ("ip", "unshare", "nsenter"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    probe = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "mount", "-t", "tmpfs"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*probe, "tmpfs", folder], capture_output=True, text=True, check=False
        )
    return f"no namespaces: {done.stderr.strip()}" if done.returncode else None


class Host:
    """A host: its network stays when it loses power.

    Args:
        name: Of its network namespace.
        address: On the cable.
        folder: Takes its log and, seen by it alone, Ray's files.
    """

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name, self.address, self.folder = name, address, folder
        self.node: RayNode | None = None
        _ip("netns", "add", name)

    def connect(self, device: str, gateway: str) -> None:
        """Plugs one end of the cable in."""
        self.gateway = gateway
        _ip("link", "set", device, "netns", self.name, "name", LINK)
        self.ip("addr", "add", f"{self.address}/24", "dev", LINK)
        self.ip("link", "set", "lo", "up")
        self.set_link("up")

    def set_link(self, state: str) -> None:
        """Cuts the cable (`down`), or mends it (`up`)."""
        self.ip("link", "set", LINK, state)
        if state == "up":
            self.ip("route", "replace", "default", "via", self.gateway)

    def boot(self, *options: str) -> None:
        """Switches the host on, and waits until Ray runs."""
        ray = self.folder / "ray"
        boot = self.folder / f"{self.name}.sh"
        boot.write_text(_BOOT.format(name=self.name, ray=ray))
        self.node = RayNode(
            *(*options, "--num-cpus=1", f"--node-ip-address={self.address}"),
            f"--temp-dir={ray}",
            log=self.folder / f"{self.name}.log",
            environment=_ENVIRONMENT,
            prefix=[
                *("ip", "netns", "exec", self.name, "unshare", "--mount", "--uts", "--pid"),
                *("--fork", "--mount-proc", "--kill-child", "bash", str(boot)),
            ],
        )
        self.node.wait_until_started()

    def enter(self) -> list[str]:
        """Prefix of a command that is to run on this host."""
        assert self.node is not None
        (first,) = psutil.Process(self.node.process.pid).children()
        return ["nsenter", f"--target={first.pid}", "--net", "--mount", "--uts", "--pid"]

    def workers(self) -> list[psutil.Process]:
        """Training workers."""
        if self.node is None or self.node.process.poll() is not None:
            return []
        return descendants(psutil.Process(self.node.process.pid), "RayTrainWorker")

    def lose_power(self) -> None:
        """Ends all that runs on it."""
        if self.node is not None:
            self.node.kill()

    def ip(self, *arguments: str) -> None:
        """`ip` on this host's network."""
        _ip("-n", self.name, *arguments)


class TwoHosts:
    """Two hosts and a cable; the first is the head of a Ray cluster, the second its only node."""

    def __init__(self) -> None:
        # Sockets lie in this folder, and their paths must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="hosts-"))
        (self.folder / "ray").mkdir()
        self.hosts: list[Host] = []

    def __enter__(self) -> Self:
        try:
            cable = [f"v{os.getpid()}a", f"v{os.getpid()}b"]
            addresses = ["10.77.0.1", "10.77.0.2"]
            for number, address in enumerate(addresses, start=1):
                name = f"host{number}-{os.getpid()}"
                self.hosts.append(Host(name, address, self.folder))
            _ip("link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
            for host, device, other in zip(self.hosts, cable, reversed(addresses), strict=True):
                host.connect(device, other)
            self.first.boot(
                *("--head", f"--port={PORT}", "--include-dashboard=false", "--no-monitor")
            )
            self.second.boot(f"--address={self.address}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.lose_power()
            _ip("netns", "delete", host.name)  # and with it its end of the cable
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def first(self) -> Host:
        """Where the driver runs."""
        return self.hosts[0]

    @property
    def second(self) -> Host:
        """Which is lost."""
        return self.hosts[1]

    @property
    def address(self) -> str:
        """Of the Ray cluster."""
        return f"{self.first.address}:{PORT}"

    def workers(self) -> list[psutil.Process]:
        """Training workers on both hosts."""
        return [worker for host in self.hosts for worker in host.workers()]

    def train(self, config: Config, folder: Path) -> Training:
        """A run whose driver is on the first host."""
        prefix = self.first.enter()
        return Training(
            config, folder, self.address, environment=_ENVIRONMENT, prefix=prefix, paced=True
        )

    def lose_second(self, training: Training, *, cut_link: bool) -> Cost:
        """Cuts power or link of the second host, starts it again, and tells what that cost."""
        before = {worker.pid for worker in self.workers()}
        injected_s = time.time()
        if cut_link:
            self.second.set_link("down")
            lost = before & {worker.pid for worker in self.first.workers()}
            training.wait_until(
                lambda: not lost & {worker.pid for worker in self.first.workers()},
                "the cut to be noticed",
            )
            self.second.set_link("up")
        self.second.lose_power()
        self.second.boot(f"--address={self.address}")
        fault = "link cut" if cut_link else "host without power"
        return measure(fault, injected_s, before, self.workers, training)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cut-link", action="store_true", help="cut the cable, not the power")
    parser.add_argument("--steps", type=int, default=300, help="length of the run")
    options = parser.parse_args()
    if reason := obstacle():
        sys.exit(f"error: {reason}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all is cleaned up
    with tempfile.TemporaryDirectory() as folder:
        store = small_store(Path(folder) / "store.zarr")
        steps = f"training.steps={options.steps}"
        print(train_and_lose_a_host(store, Path(folder), steps, cut_link=options.cut_link))
    print("final weights are bit by bit those of the undisturbed run")


def train_and_lose_a_host(store: Path, folder: Path, *changes: str, cut_link: bool) -> Cost:
    """Trains across two hosts of which one is lost in the middle.

    Raises:
        RuntimeError: The run failed, or ended in other weights than undisturbed.
    """
    config = short_run(store, folder / "runs", *changes)
    with TwoHosts() as hosts:
        training = hosts.train(config, folder)
        training.start()
        training.wait_for_step(config.training.steps // 3)
        if [len(host.workers()) for host in hosts.hosts] != [1, 1]:
            raise RuntimeError("the workers are not spread over the hosts")
        cost = hosts.lose_second(training, cut_link=cut_link)
        if training.wait():
            raise RuntimeError(f"training failed:\n{training.printed()[-3000:]}")
    undisturbed = short_run(store, folder / "undisturbed", *changes)
    train_undisturbed(undisturbed, folder)
    if names := differing(config.run_folder, undisturbed.run_folder):
        raise RuntimeError(f"{cost}; but other tensors than undisturbed: {names}")
    return cost


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


if __name__ == "__main__":
    main()
