"""How long a command takes to start: against a command whose times are known, and the real one."""

import sys
from pathlib import Path

import pytest

from cxr.benchmarks import start

COMMAND = """
import os, sys, time
from tqdm import tqdm
if "--help" in sys.argv:
    sys.exit(0)
if "none" in sys.argv:
    time.sleep(0.2)
    sys.exit(2)
assert not [name for name in os.environ if name.startswith("MLFLOW_") and name != "MLFLOW_TRACKING_URI"]
assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{os.getcwd()}/mlflow.db"
first = not os.path.exists("seen")
open("seen", "a").write(sys.argv[-1])
for _ in tqdm(range(3), desc="other 1/1", disable=None):
    pass
for _ in tqdm(range(12), desc="epoch 1/1", disable=None):
    time.sleep(0.0 if first else 0.4 if _ == 0 else 0.11)
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    (tmp_path / "command.py").write_text(COMMAND)
    return [sys.executable, str(tmp_path / "command.py")]


def test_the_wait_ends_with_the_first_step_and_the_first_run_does_not_count(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "not for the command")
    rows = {row.measure: row for row in start.measure(command, ["--data", "x"], tries=1)}
    assert 0.4 < rows["train, first step done"].value < 0.4 + 11 * 0.11  # not until its end
    assert rows["train, help"].value < rows["train, usage error"].value
    assert [row.goal for row in rows.values()] == [15.0, 2.0, 2.0]


def test_each_run_has_a_seed_of_its_own_in_a_folder_that_is_removed(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept: list[str] = []
    real = start._until_end

    def looked(words: list[str], place: Path, *, code: int) -> float:
        kept.append((place / "seen").read_text())
        return real(words, place, code=code)

    monkeypatch.setattr(start, "_until_end", looked)
    list(start.measure(command, [], tries=2))
    assert set(kept) == {"012"}
    assert [path.name for path in tmp_path.iterdir()] == ["command.py"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-c", "import sys; sys.exit('no disk')"], "no disk"),
        (["-c", "print('done without a step')"], "without a step"),
    ],
)
def test_a_command_that_does_not_train_is_no_measurement(words: list[str], said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        list(start.measure([sys.executable, *words], [], tries=1))


def test_the_real_command_shows_its_first_step(phantom_folder: Path, tmp_path: Path) -> None:
    values = ["--data", str(phantom_folder), "--store", str(tmp_path / "store"), "--image_size", "64",
              "--epochs", "1", "--register_as", ""]  # fmt: skip
    rows = list(start.measure([sys.executable, "-m", "entrypoints.train"], values, tries=1))
    assert all(row.value > 0 for row in rows)
    assert not list((tmp_path / "store").glob("training-*"))  # the runs came to their end
