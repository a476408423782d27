import io

import pytest

from hermesflow.core.tables import csv_rows


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_cells_are_parted_as_the_names_are(mark):
    lines = [mark.join(cells) for cells in (("File_Name", "text", ""), ("1.jpg", '"A cat, a dog; 1\t2"', ""))]
    [row] = csv_rows(io.StringIO("\r\n".join(lines)), str.lower)
    assert row == {"file_name": "1.jpg", "text": "A cat, a dog; 1\t2", "": ""}


def test_what_stands_behind_the_last_column_is_kept():
    assert list(csv_rows(io.StringIO("a,b\n1,2,3\n"))) == [{"a": "1", "b": "2", None: ["3"]}]


def test_two_columns_of_one_name_are_refused_and_those_without_a_name_are_none():
    assert list(csv_rows(io.StringIO("a,A,,\n1,2,,\n"))) == [{"a": "1", "A": "2", "": ""}]
    with pytest.raises(ValueError, match="of its columns a, a two have one name"):
        csv_rows(io.StringIO("a,A,,\n1,2,,\n"), str.lower)
