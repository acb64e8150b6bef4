"""The code of docs/review_library.md runs, and the page names every code that a review raises."""

import re
from pathlib import Path

import pytest
from tiny_case import tiny_result, tiny_volume

from medpanoptic.io import read_result, write_result
from medpanoptic.io.nifti import write_nifti

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "review_library.md").read_text("utf-8")


def test_the_code_of_the_page_reads_and_signs_a_case(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(code, names)
    result = tiny_result()
    write_nifti(tmp_path / "study.nii.gz", tiny_volume(result).array[0], result.affine)
    write_result(result, tmp_path / "case", formats=["csv"])
    folder = names["read_case"](tmp_path / "case", tmp_path / "study.nii.gz")
    assert {s.verdict for s in read_result(folder).things} == {"accepted"}


@pytest.mark.parametrize("part", ["review", "match"])
def test_every_code_is_on_the_page(part):
    sources = "".join(p.read_text("utf-8") for p in (ROOT / "medpanoptic" / part).glob("*.py"))
    raised = set(re.findall(r'ReviewError\(\s*"([A-Z-]+)"', sources))
    assert raised
    assert not {code for code in raised if code not in PAGE}
