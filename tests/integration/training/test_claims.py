"""A run that another process holds, and one whose holder was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import workers

from stem_complete.errors import BusyError
from stem_complete.storage.claim import CLAIM_FILE, claimed


def test_a_killed_holder_makes_room_at_once(tmp_path, capsys):
    script = Path(workers.__file__).parent / "holding.py"
    holder = subprocess.Popen([sys.executable, script, tmp_path], stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match=f"found process {holder.pid} of"), claimed(tmp_path):
            pass
        # One that stands still may go on at any time.
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(BusyError), claimed(tmp_path):
            pass
        holder.kill()
        # It stays in the table of processes until its parent takes note.
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        with claimed(tmp_path):
            pass
    assert not (tmp_path / CLAIM_FILE).exists()
    assert "looking" not in capsys.readouterr().err
