"""``medpanoptic review`` without a window: what is said before one opens."""

from __future__ import annotations

import pytest

from medpanoptic.cli import main, review


def run(*words, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code, capsys.readouterr().err


def test_without_the_viewer_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    module = __import__("sys").modules[review.__module__]
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    code, said = run("review", tmp_path, capsys=capsys)
    assert code == 1
    assert "pip install 'medpanoptic[viewer]'" in said


def test_a_folder_that_is_no_result_is_refused_before_a_window_opens(tmp_path, capsys):
    pytest.importorskip("napari", reason="needs napari: pip install medpanoptic[viewer]")
    code, said = run("review", tmp_path, capsys=capsys)
    assert code == 1
    assert "segments.json" in said
