"""The command that serves completions over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stem_complete.cli.base import Precision, app, examples, show


@app.command(
    epilog=examples(
        "stem-complete serve",
        "stem-complete serve --model models:/gold@production --port 8080",
        "stem-complete serve --new-token",
        "stem-complete serve --host 0.0.0.0 --replicas 1-4",
        "stem-complete serve --gpu --batch-size 16",
    )
)
def serve(
    model: Annotated[
        str | None, typer.Option(help="As for `complete`; an alias of MLflow is followed.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; other than this machine's needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any.")] = 8000,
    storage: Annotated[
        Path | None,
        typer.Option(help="Folder of jobs and live scans; by default in XDG_STATE_HOME."),
    ] = None,
    replicas: Annotated[
        str, typer.Option(help="Completers, or least-most, between which they scale.")
    ] = "1",
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=256, help="Most scans in one pass of the network.")
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="A GPU for each completer.")] = False,
    precision: Precision = "float32",
    address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of a Ray cluster; by default Ray is started here."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen to others without asking for a token.")
    ] = False,
    new_token: Annotated[
        bool, typer.Option("--new-token", help="Print a new token and its hash, and end.")
    ] = False,
) -> None:
    """Serves completions over HTTP: single scans, jobs of many, live scans, and a web page.

    It listens to this machine alone unless told otherwise. Whoever may use it from elsewhere needs
    a token, of which the environment variable STEM_COMPLETE_TOKEN_HASHES has the hash.
    """
    from stem_complete.extras import require

    if new_token:
        from stem_complete.serving.service.access import TOKEN_HASHES
        from stem_complete.serving.service.access import new_token as made

        token, its_hash = made()
        show(f"token: {token}\nhash:  {its_hash}\nGive the user the token, and set")
        show(f"{TOKEN_HASHES}='{its_hash}'")
        return
    require("python_multipart", "fastapi", "uvicorn", "prometheus_client", purpose="serve")
    from stem_complete.distributed import num_cores
    from stem_complete.serving.service.config import ServiceConfig, token_hashes
    from stem_complete.serving.service.run import (
        LOCAL,
        check_address,
        listening,
        run_service,
        told,
    )

    hashes = token_hashes()
    check_address(host, hashes, insecure=insecure)
    least, most = _range(replicas)
    values = {
        "model": model,
        "device": "cuda" if gpu else "cpu",
        "precision": precision,
        "batch_size": batch_size,
        "replicas": least,
        "most_replicas": most,
        # Here they share the cores; on a cluster each has one.
        "cpus_per_replica": 1 if address else max(1, num_cores() // (most or least)),
        **({"storage": storage.absolute()} if storage else {}),
    }
    with listening(host, port) as opened:
        run_service(
            ServiceConfig.model_validate(values),
            opened,
            hashes=hashes,
            hosts=None if insecure else LOCAL,
            address=address,
            when_ready=lambda seconds: told(host, opened.getsockname()[1], seconds),
        )


def _range(text: str) -> tuple[int, int | None]:
    """The numbers of `2` or `1-4`."""
    least, dash, most = text.partition("-")
    try:
        found = int(least), int(most) if dash else None
    except ValueError:
        found = 0, None
    if found[0] < 1 or (found[1] is not None and found[1] < found[0]):
        raise typer.BadParameter(
            f"expected a number such as 2, or least and most such as 1-4, found {text}",
            param_hint="--replicas",
        )
    return found
