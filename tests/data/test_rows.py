"""Other people's CSV: what is read, under which line number, and what is refused."""

import gzip
from pathlib import Path

import pandas as pd
import pytest

from cxr.data.rows import find, read_rows, refuse
from cxr.errors import InputError


def written(folder: Path, text: str, name: str = "a.csv") -> Path:
    raw = text.encode()
    (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return folder / name


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_cells_come_as_stripped_text_under_their_line_number(name: str, tmp_path: Path) -> None:
    raw = read_rows(written(tmp_path, "a,b\r\n 1 ,x\r\n\r\n3,\r\n", name))
    assert raw.to_dict("index") == {2: {"a": "1", "b": "x"}, 4: {"a": "3", "b": ""}}
    assert raw.index.name == "line"


def test_quoted_commas_and_newlines_stay_in_their_cell(tmp_path: Path) -> None:
    raw = read_rows(written(tmp_path, 'a,b\n"1,2","x\ny"\n3,z\n'))
    assert raw["a"].tolist() == ["1,2", "3"]
    assert raw["b"].tolist() == ["x\ny", "z"]
    assert raw.index[-1] == 4


def test_only_the_columns_that_were_asked_for_are_kept_in_that_order(tmp_path: Path) -> None:
    assert list(read_rows(written(tmp_path, "a,b,c\n1,2,3\n"), ["c", "a"]).columns) == ["c", "a"]


@pytest.mark.parametrize("text", ["a,b\n1,2,\n", "a,b,,\n1,2,,\n", "a,b,\n1,2\n", "\ufeffa,b\n1,2\n"])
def test_commas_behind_the_last_name_and_a_byte_order_mark_say_nothing(text: str, tmp_path: Path) -> None:
    assert read_rows(written(tmp_path, text)).to_dict("list") == {"a": ["1"], "b": ["2"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "columns [] are missing"),
        ("a,b\n", "has a header and no rows"),
        ("a,b\n1\n", "rows have 2 cells, but not in line 2: 1"),
        ("a,b\n1,2\n1,2,3\n", "rows have 2 cells, but not in line 3: 3"),
        ("a,a\n1,2\n", "columns ['a'] come twice"),
        ('a,b\n1,"2\n', "cannot be read as CSV"),
    ],
)
def test_what_is_not_a_table_is_refused_by_name(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_rows(written(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path}/a.csv: ")
    assert said in str(caught.value)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"columns \['c'\] are missing; it has \['a', 'b'\]"):
        read_rows(written(tmp_path, "a,b\n1,2\n"), ["a", "c"])


def test_refuse_names_every_bad_row_by_line_and_value() -> None:
    raw = pd.DataFrame({"a": ["x", "y", "z"]}, index=[2, 5, 9])
    refuse(raw, raw["a"] == "w", "a", Path("f.csv"), "a letter")
    with pytest.raises(InputError) as caught:
        refuse(raw, raw["a"] != "y", "a", Path("f.csv"), "y")
    assert str(caught.value) == "f.csv: a is not y in line 2: 'x', line 9: 'z'."


def test_find_takes_the_first_name_plain_before_gz(tmp_path: Path) -> None:
    assert find(tmp_path, "a.csv", "b.csv") is None
    (tmp_path / "b.csv").touch()
    (tmp_path / "a.csv.gz").touch()
    assert find(tmp_path, "a.csv", "b.csv") == tmp_path / "a.csv.gz"
    (tmp_path / "a.csv").touch()
    assert find(tmp_path, "a.csv", "b.csv") == tmp_path / "a.csv"
