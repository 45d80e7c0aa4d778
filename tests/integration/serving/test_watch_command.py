"""The command that watches a folder, as a user starts and ends it."""

import signal
import subprocess
import sys

import numpy as np
from waiting import wait_until


def test_what_is_dropped_is_completed_until_sigterm(tmp_path, texture, spiral):
    incoming, completed = tmp_path / "incoming", tmp_path / "completed"
    incoming.mkdir()
    command = [sys.executable, "-m", "stem_complete", "watch", str(incoming)]
    watching = subprocess.Popen(
        [*command, "--output", str(completed), "--settle", "0.2", "--png"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert watching.stdout is not None
        assert "watching" in watching.stdout.readline()
        (incoming / "bad.npy").write_bytes(b"\x93NUMPY")
        np.save(incoming / "good.npy", spiral(texture(1))[0])
        line = watching.stdout.readline()
        assert "good.npy" in line
        assert (completed / "good_completed.tif").exists()
        wait_until(lambda: (completed / "good_completed.png").exists(), "the preview")
        watching.send_signal(signal.SIGTERM)
        _, errors = watching.communicate(timeout=60)
    finally:
        watching.kill()
    assert watching.returncode == 0
    assert "bad.npy" in errors
    assert "Traceback" not in errors
