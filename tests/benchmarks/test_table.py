"""The benchmark's table, and taking turns."""

import time

import pytest

from cxr.benchmarks.table import Row, frame, interleaved, machine, metrics


def test_rows_become_a_table_and_metrics_under_plain_names() -> None:
    rows = [
        Row(part="decode", measure="ours over best pair", value=0.9, unit="ratio", against="a + b", goal=0.85),
        Row(part="read", measure="peers' pipeline", value=45.0, unit="images/s"),
    ]
    assert frame(rows).loc["ours over best pair", ["value", "goal"]].tolist() == [0.9, 0.85]
    assert metrics(rows) == {"benchmark/decode/ours_over_best_pair": 0.9, "benchmark/read/peers_pipeline": 45.0}


def test_candidates_take_turns_and_the_fastest_try_counts() -> None:
    calls: list[str] = []
    pauses = iter([0.03, 0.0, 0.0])

    def first(_: int) -> None:
        calls.append("first")
        time.sleep(next(pauses))

    seconds = interleaved({"first": first, "second": lambda _: calls.append("second")}, [1], rounds=3)
    assert calls == ["first", "second"] * 3
    assert seconds["first"] < 0.03


def test_the_machine_is_named_and_what_is_not_installed_is_said() -> None:
    known = machine()
    assert known["processor"]
    assert int(known["cores"]) >= 1
    assert known["version.pillow"][0].isdigit()


@pytest.mark.parametrize("package", ["opencv-python-headless", "imagecodecs"])
def test_an_optional_package_has_a_version_or_a_word(package: str) -> None:
    assert machine()[f"version.{package}"]
