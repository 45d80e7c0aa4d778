"""What one worker does differently or fails at reaches all, in one line."""

import re
import socket

import torch

from stem_complete.errors import DataError

HOST = re.escape(socket.gethostname())


def test_three_workers(torchrun, tmp_path):
    torchrun("checks_all", 3, tmp_path)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(3)]
    for result in results:
        kind, line = result["differ"]
        assert kind == "ConfigError"
        assert re.search(rf"torch 2.13 on ranks 0, 2 \({HOST}\), 2.12 on rank 1 \({HOST}\)", line)
        assert "python" not in line
        assert re.search(r"a 1 on rank 0 .*, nothing on ranks 1, 2", result["absent"][1])
        assert result["from_main"] == {"answer": 42}
        expected = DataError(
            expected="a file", found="none", where=tmp_path / "store", fix="copy it"
        )
        assert result["from_main_fails"] == ("DataError", str(expected))
        kind, line = result["from_main_breaks"]
        assert (kind, "OSError: disk gone" in line) == ("CollectiveError", True)
        assert result["all_ok_fails"] == (
            "DataError",
            f"rank 1 on {socket.gethostname()}: {expected}",
        )
        kind, line = result["all_ok_breaks"]
        assert kind == "CollectiveError"
        assert re.match(rf"rank 1 on {HOST}: .*FileNotFoundError", line)
    assert [result["all_ok"] for result in results] == [0, 1, 2]
    assert [result["calls"] for result in results] == [[0], [], []]
