"""What README and docs name is there: commands, options, config keys, files, links."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel

from stem_complete.cli.base import app
from stem_complete.config import Config, load_config

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "stem_complete"
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "cluster").glob("*.md")),
    PACKAGE / "released" / "README.md",
]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
PROGRAM = re.compile(r"(?:^|\s)(?:stem-complete|(?:python )?-m stem_complete) (.*)")

Found = list[tuple[str, str]]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def cases(found: Found) -> list[Any]:
    return [pytest.param(text, id=f"{page}-{text[:60]}") for page, text in dict.fromkeys(found)]


def prose(page: Path) -> str:
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.M | re.S)


def inline_code() -> Found:
    return [
        (name_of(page), " ".join(code.split()))
        for page in PAGES
        for code in re.findall(r"`([^`]+)`", prose(page))
    ]


def shell_lines() -> Found:
    found = []
    for page in PAGES:
        fenced = re.findall(r"^ *```sh\n(.*?)^ *```", page.read_text(), flags=re.M | re.S)
        indented = re.findall(r"^(?: {4}.*\n)+", prose(page), flags=re.M)
        for block in fenced + indented:
            joined = re.sub(r" *\\\n *", " ", block)
            found += [(name_of(page), line.strip()) for line in joined.splitlines()]
    return found


def arguments_in(found: Found) -> Found:
    """What follows the program in each line that runs it."""
    matches = ((page, PROGRAM.search(text)) for page, text in found)
    return [(page, match[1]) for page, match in matches if match and match[1][:1] != "-"]


@pytest.mark.parametrize("arguments", cases(arguments_in(shell_lines())))
def test_the_command_line_takes_each_command(arguments: str) -> None:
    command, *given = shlex.split(arguments, comments=True)
    context = COMMANDS[command].make_context(command, given)
    if command == "train":
        names = context.params["arguments"]
        changes = [name for name in names if "=" in name]
        load_config([name for name in names if "=" not in name], changes)


@pytest.mark.parametrize("arguments", cases(arguments_in(inline_code())))
def test_each_command_in_a_sentence_and_its_options_exist(arguments: str) -> None:
    command, *given = shlex.split(arguments)
    if re.fullmatch(r"[a-z]+", command):
        known = {option for option in COMMANDS[command].params for option in option.opts}
        assert {word for word in given if word.startswith("--")} - known <= {"--help"}


def section_of(annotation: Any) -> Any:
    """The section that a field's type is or may be; None if it is none."""
    options = [annotation, *getattr(annotation, "__args__", ())]
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


SECTIONS = {name for name, field in Config.model_fields.items() if section_of(field.annotation)}


@pytest.mark.parametrize(
    "module",
    sorted(
        {
            name
            for page in PAGES
            for name in re.findall(r"-m ((?:stem_complete|tests)\.[\w.]+)", page.read_text())
        }
    ),
)
def test_each_module_that_is_run_exists(module: str) -> None:
    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_each_piece_of_a_config_is_valid(page: Path, tmp_path: Path) -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), flags=re.M | re.S):
        (tmp_path / "piece.yaml").write_text(block)
        load_config(["compact", tmp_path / "piece.yaml"])


KEYS = re.compile(rf"(?:{'|'.join(SECTIONS)})(?:\.(?!json)\w+)+(?:=.*)?")


@pytest.mark.parametrize(
    "key", cases([(page, code) for page, code in inline_code() if KEYS.fullmatch(code)])
)
def test_each_config_key_is_in_the_schema(key: str) -> None:
    if "=" in key:
        load_config(["compact", "comparison"], key.split())
        return
    section: Any = Config
    for part in key.split("."):
        assert part in section.model_fields
        section = section_of(section.model_fields[part].annotation)


PARTS = {path.name for folder in (ROOT, PACKAGE) for path in folder.iterdir()}
PATHS = re.compile(r"(?:\./)?(\w[\w.-]*)/[\w./-]*")


@pytest.mark.parametrize(
    "path",
    cases(
        [
            (page, code.removeprefix("./"))
            for page, code in inline_code()
            if (match := PATHS.fullmatch(code)) and match[1] in PARTS
        ]
    ),
)
def test_each_path_exists(path: str) -> None:
    candidates = [folder / f"{path}{end}" for folder in (ROOT, PACKAGE) for end in ("", ".py")]
    assert any(candidate.exists() for candidate in candidates)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_each_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        target, _, heading = link.partition("#")
        if target.startswith("http"):
            continue
        file = page.parent / target if target else page
        assert file.exists(), link
        if heading:
            anchors = {
                re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                for line in file.read_text().splitlines()
                if line.startswith("#")
            }
            assert heading in anchors, link


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_notebook_was_executed_without_error_and_is_small() -> None:
    file = ROOT / "docs" / "notebook.ipynb"
    cells = [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"display_data", "stream"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    texts = "".join("".join(output.get("text", "")) for output in outputs)
    assert not re.search(r"(^|\s)/\w+/", texts)  # a path of the machine that ran it
    assert file.stat().st_size < 500_000
