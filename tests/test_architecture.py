"""Imports run downwards only, and each outside library has its place."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted([*(ROOT / "cxr").rglob("*.py"), *(ROOT / "entrypoints").rglob("*.py")])

# What a part of the project may import of the project, beside its own part. The longest prefix counts.
BASE = {"cxr.findings", "cxr.errors"}
DATA = BASE | {"cxr.data"}
TRAINING = ("checkpoint", "device", "distributed", "evaluation", "interrupt", "launcher", "model")
LAYERS = {
    "cxr.findings": set(),
    "cxr.errors": set(),
    "cxr.interrupt": set(),
    "cxr.launcher": {"cxr.interrupt"},
    "cxr.published": set(),
    "cxr.device": BASE,
    "cxr.data": BASE | {"cxr.interrupt"},
    "cxr.distributed": DATA,
    "cxr.model": BASE,
    "cxr.checkpoint": BASE,
    "cxr.evaluation": DATA | {"cxr.distributed"},
    "cxr.training": DATA | {f"cxr.{name}" for name in TRAINING},
    "cxr.explain": DATA | {"cxr.model", "cxr.evaluation"},
    "cxr.figures": BASE,
    "cxr.report": BASE | {"cxr.published"},
    "cxr.experiment_page": BASE,
    "cxr.card": BASE,
    "cxr.tracking": BASE | {"cxr.experiment_page", "cxr.interrupt"},
    "cxr.delivery": BASE | {"cxr.checkpoint", "cxr.training.logbook"},
    "cxr.registry": BASE | {"cxr.evaluation.promotion"},
    "cxr.prediction": DATA | {"cxr.evaluation"},
    "cxr.overlays": DATA | {"cxr.explain", "cxr.figures", "cxr.prediction"},
    "cxr.serving": DATA | {"cxr.model"},
    "cxr.pyfunc_model": {"cxr.serving"},
    "cxr.benchmarks": DATA | {f"cxr.{name}" for name in (*TRAINING, "explain", "training")},
    "cxr": set(),
    "entrypoints": {"cxr", "entrypoints"},
}
PLACES = {
    "click": ("entrypoints",),
    "mlflow": (
        "cxr.tracking",
        "cxr.experiment_page",
        "cxr.delivery",
        "cxr.registry",
        "cxr.serving",
        "cxr.pyfunc_model",
        "entrypoints",
    ),
    "captum": ("cxr.explain",),
    "matplotlib": ("cxr.figures",),
    "PIL": ("cxr.data", "cxr.serving", "cxr.report", "cxr.benchmarks"),
    "jinja2": ("cxr.report",),
    "markupsafe": ("cxr.report",),
    "cv2": ("cxr.benchmarks",),
    "imagecodecs": ("cxr.benchmarks",),
    "requests": ("cxr.data", "cxr.delivery"),
    "urllib3": ("cxr.data",),
    "filelock": ("cxr.data", "cxr.delivery"),
    "scipy": ("cxr.evaluation", "cxr.explain", "cxr.benchmarks"),
    "skimage": ("cxr.explain",),
    "sklearn": ("cxr.evaluation", "cxr.benchmarks"),
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(module: str, part: str) -> bool:
    return module == part or module.startswith(part + ".")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_of_the_project_run_downwards(path: Path) -> None:
    module = name_of(path)
    layer = max((part for part in LAYERS if within(module, part)), key=len)
    for imported in imports_of(path):
        if imported.split(".")[0] in ("cxr", "entrypoints") and not within(imported, layer):
            assert any(within(imported, part) for part in LAYERS[layer]), f"{module} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_outside_libraries_stay_in_their_place(path: Path) -> None:
    module = name_of(path)
    for imported in imports_of(path):
        places = PLACES.get(imported.split(".")[0])
        assert places is None or any(within(module, place) for place in places), f"{module} imports {imported}"


def test_every_module_has_a_layer_of_its_own() -> None:
    for path in MODULES:
        module = name_of(path)
        assert module == "cxr" or any(within(module, part) for part in LAYERS if part != "cxr"), module


def test_commands_answer_before_torch_and_mlflow_are_imported() -> None:
    code = (
        "import sys, entrypoints.main, entrypoints.register; "
        "print([name for name in ('torch', 'mlflow', 'pandas', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
