import pandas as pd
import pytest

from sysvi._core.tables import write_csv

NAMES = ["=HYPERLINK('x')", "+1", "-cell", "@SUM(A1)", "\tx"]


@pytest.mark.parametrize("dtype", [object, "category", "string"])
def test_no_text_of_a_table_is_a_formula(tmp_path, dtype):
    table = pd.DataFrame({"=A1": pd.Series(NAMES, NAMES, dtype=dtype), "value": [-1.0, -2, 3, 4, 5]}, index=NAMES)
    write_csv(table, tmp_path / "table.csv", index_label="name")
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert lines[0] == "name,'=A1,value"
    assert lines[3] == "'-cell,'-cell,3.0"
    found = pd.read_csv(tmp_path / "table.csv")
    assert found["name"].tolist() == found["'=A1"].tolist() == [f"'{name}" for name in NAMES]
    assert found["value"].tolist() == table["value"].tolist()
    assert list(table.index) == NAMES  # the table itself stays


def test_rows_of_several_levels(tmp_path):
    index = pd.MultiIndex.from_tuples([("=x", 1.5), ("CD4+", -2.0)], names=["label", "weight"])
    write_csv(pd.DataFrame({"n": [1, None]}, index=index), tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == "label,weight,n\n'=x,1.5,1.0\nCD4+,-2.0,\n"


def test_harmless_tables_stay_as_pandas_writes_them(tmp_path):
    table = pd.DataFrame({"a": ["x", None, "y"], "b": [1, 2, 3], "c": [True, False, True]})
    write_csv(table, tmp_path / "table.csv", index=False)
    assert (tmp_path / "table.csv").read_text() == table.to_csv(index=False)


def test_whole_numbers_beside_others_stay_whole(tmp_path):
    table = pd.DataFrame({"value": pd.Series([0, 1.5, None, "x"], dtype=object)})
    write_csv(table, tmp_path / "table.csv", index=False)
    assert (tmp_path / "table.csv").read_text() == 'value\n0\n1.5\n""\nx\n'
    numbers = pd.DataFrame({"value": pd.Series([0, 1.5], dtype=object), "n": [1, 2]})
    write_csv(numbers, tmp_path / "table.csv", index=False)
    assert (tmp_path / "table.csv").read_text() == "value,n\n0,1\n1.5,2\n"
