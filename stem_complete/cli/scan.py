"""The command that writes scan paths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stem_complete.cli.base import Json, app, examples, print_json
from stem_complete.errors import ConfigError
from stem_complete.vocabulary import Geometry, format_coverage, parse_coverage

if TYPE_CHECKING:
    from stem_complete.scan import ScanPath


@app.command(
    epilog=examples(
        "stem-complete scan archimedean --coverage 1/20 --shape 512 --output path.csv",
        "stem-complete scan line_hop --coverage 1/8 --shape 512,384 --seed 3 --output path.npz",
        "stem-complete scan hilbert --full-dwell-us 10 --pixel-size-nm 0.05 --output path.json",
        "stem-complete scan --list",
        "stem-complete scan --list --coverage 1/10 --shape 96 --output geometries.png",
    )
)
def scan(
    geometry: Annotated[
        Geometry | None, typer.Argument(help="Path of the probe; --list tells of each.")
    ] = None,
    coverage: Annotated[
        str, typer.Option(help="Mean dwell in full pixel dwells, such as 1/20 or 0.05.")
    ] = "1/20",
    shape: Annotated[
        str, typer.Option(help="Height and width of the image [px], as 512,384; 512 is a square.")
    ] = "512",
    seed: Annotated[int, typer.Option(min=0, help="Chooses a path of a random geometry.")] = 0,
    full_dwell_us: Annotated[
        float | None,
        typer.Option(help="Time that a complete scan spends in a pixel [us]; dwell 1 is as long."),
    ] = None,
    pixel_size_nm: Annotated[
        float | None, typer.Option(help="Side of a pixel [nm], written into the file.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File to write: .csv, .npz or .json.")] = None,
    list_geometries: Annotated[
        bool, typer.Option("--list", help="List the geometries; draw them, with --output X.png.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Writes the path of a partial scan for a scan controller, and draws it in a PNG beside.

    A path is a list of samples in time order: x and y [px], where pixel centres are whole numbers,
    and the dwell, in units of what a complete scan spends in a pixel. Its mean over the pixels is
    the coverage.
    """
    sides, mean_dwell = _shape(shape), _coverage(coverage)
    if list_geometries:
        _list(sides, mean_dwell, seed, output)
        return
    if geometry is None or output is None:
        raise ConfigError(
            expected="a geometry and an --output, or --list",
            found="no geometry" if geometry is None else "no --output",
            where="scan",
            fix="for example: stem-complete scan archimedean --output path.csv",
        )
    for name, value in (("--full-dwell-us", full_dwell_us), ("--pixel-size-nm", pixel_size_nm)):
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(
                expected="a finite number above 0",
                found=str(value),
                where=name,
                fix="give such a number, or leave it out",
            )

    from stem_complete.console import aligned
    from stem_complete.data.formats.path_files import PathNotes, write_path
    from stem_complete.evaluation.page import save_png
    from stem_complete.evaluation.scan_paths import facts_of, path_figure

    path = _path(geometry, sides, mean_dwell, seed)
    write_path(output, path, PathNotes(geometry, seed, full_dwell_us, pixel_size_nm))
    picture = output.with_suffix(".png")
    save_png(path_figure(path, geometry), picture)
    facts = facts_of(path)
    if as_json:
        asked = {
            "path": output,
            "picture": picture,
            "geometry": geometry,
            "coverage_asked": mean_dwell,
        }
        print_json(asked | facts._asdict() | {"full_dwell_us": full_dwell_us})
        return
    time = "" if full_dwell_us is None else f", {facts.dwell * full_dwell_us / 1000:,.4g} ms"
    rows = {
        "path": f"{output}, drawn in {picture}",
        "coverage": f"{format_coverage(facts.coverage)} ({facts.coverage:.6g}), asked for "
        f"{format_coverage(mean_dwell)}",
        "samples": f"{facts.samples:,}",
        "time": f"{facts.dwell:,.6g} full pixel dwells{time}, without what the beam is blanked for",
        "travel": f"{facts.travel_px:,.0f} px",
        "longest jump": f"{facts.longest_jump_px:,.1f} px",
        "nearest sample": f"{facts.mean_distance_px:.1f} px from a pixel on average, "
        f"{facts.largest_distance_px:.1f} px at most",
    }
    print(aligned(rows))


def _list(shape: tuple[int, int], coverage: float, seed: int, output: Path | None) -> None:
    from stem_complete.console import aligned
    from stem_complete.scan import GEOMETRIES, RANDOM_GEOMETRIES

    summaries: dict[str, str] = {
        name: (make.__doc__ or "").split("\n")[0] for name, make in GEOMETRIES.items()
    }
    if output is not None:
        from stem_complete.evaluation.page import save_png
        from stem_complete.evaluation.scan_paths import geometries_figure

        if output.suffix.lower() != ".png":
            raise ConfigError(
                expected="a .png for the picture of all geometries",
                found=output.suffix or "no suffix",
                where=output,
                fix="give a name that ends in .png, or leave out --output",
            )
        paths: dict[str, ScanPath] = {
            name: _path(name, shape, coverage, seed) for name in GEOMETRIES
        }
        save_png(geometries_figure(paths), output)
    for name in RANDOM_GEOMETRIES:
        summaries[name] += " --seed chooses the path."
    print(aligned(summaries))


def _path(geometry: Geometry, shape: tuple[int, int], coverage: float, seed: int) -> ScanPath:
    from stem_complete.scan import GEOMETRIES

    try:
        return GEOMETRIES[geometry](shape, coverage, seed)
    except ValueError as error:
        raise ConfigError(
            expected="a shape and a coverage that the geometry can have",
            found=str(error),
            where=f"scan {geometry}",
            fix="change --shape or --coverage, or choose another geometry with --list",
        ) from None


def _coverage(text: str) -> float:
    try:
        return parse_coverage(text)
    except ValueError as error:
        raise ConfigError(
            expected="a coverage",
            found=str(error),
            where="--coverage",
            fix="give a fraction, such as 1/20 or 0.05",
        ) from None


def _shape(text: str) -> tuple[int, int]:
    """(h, w) of `512` or `512,384`."""
    sides = text.split(",")
    try:
        height, width = (int(side) for side in (sides * 2 if len(sides) == 1 else sides))
    except ValueError:
        height, width = 0, 0
    if min(height, width) < 2:
        raise ConfigError(
            expected="a height and a width of 2 px or more, as 512,384, or a side, as 512",
            found=text,
            where="--shape",
            fix="give the sides in pixels",
        )
    return height, width
