#!/usr/bin/env python3
"""Waits for AWS's notice that this spot instance goes, then tells Ray, so that training moves on.

The notice comes two minutes ahead. cloud.yaml starts this on each worker:

    python cluster/drain_on_spot_notice.py HEAD:6379
"""

import subprocess
import sys
import time
import urllib.error
import urllib.request

METADATA = "http://169.254.169.254/latest"
POLL_S = 5.0
TIMEOUT_S = 5.0
LEFT_S = 110
"""Of the two minutes, when the notice is seen."""


def spot_notice(metadata: str = METADATA) -> str | None:
    """The notice, as JSON; None while there is none or the service does not answer."""
    ask_token = urllib.request.Request(  # noqa: S310 - a link-local http address
        f"{metadata}/api/token",
        method="PUT",
        headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"},
    )
    try:
        with urllib.request.urlopen(ask_token, timeout=TIMEOUT_S) as answer:  # noqa: S310
            token = answer.read().decode()
        ask = urllib.request.Request(  # noqa: S310
            f"{metadata}/meta-data/spot/instance-action",
            headers={"X-aws-ec2-metadata-token": token},
        )
        with urllib.request.urlopen(ask, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return str(answer.read().decode())
    except (urllib.error.URLError, TimeoutError):  # 404: no notice
        return None


def main(address: str) -> None:
    """Waits, then drains this node of the cluster at `address`, which is HOST:PORT."""
    while (notice := spot_notice()) is None:
        time.sleep(POLL_S)
    command = ["ray", "drain-node", "--address", address]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", f"spot: {notice}"]
    command += ["--deadline-remaining-seconds", str(LEFT_S)]
    subprocess.run(command, check=True)  # noqa: S603


if __name__ == "__main__":
    main(*sys.argv[1:])
