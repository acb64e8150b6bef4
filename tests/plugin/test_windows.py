"""Windows, presets and keys, without a screen."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from napari_medpanoptic.display import fusion_state, next_fusion, toggle_role
from napari_medpanoptic.keys import DISPLAY_KEYS
from napari_medpanoptic.layers import KEY, result_layers, volume_layers
from napari_medpanoptic.reader import read_path
from napari_medpanoptic.view import arrange
from napari_medpanoptic.windowing import drag_window, layer_presets, use_preset, window_layer, window_text
from napari_medpanoptic.windows import CT_PRESETS, dragged, presets, stored_windows

from medpanoptic.geometry import spatial_affine
from medpanoptic.samples import phantom
from medpanoptic.volume import Channel, Volume
from tests.builders import axial_affine, write_enhanced, write_series
from tests.builders import phantom as voxels

HU = np.array([[-1000.0, 0, 40, 900]])


def test_ct_presets_are_level_and_width_in_hu():
    lung = next(p for p in CT_PRESETS if p.name == "Lung")
    assert lung.window(HU) == (-1350, 150)
    names = [p.name for p in presets(Channel("ct", "CT", "HU"), HU)]
    assert names == ["Soft tissue", "Lung", "Bone", "Brain", "Liver", "Mediastinum", "Full range"]


def test_each_kind_of_image_has_its_presets():
    assert [p.window(HU) for p in presets(Channel("pet", "PT", "SUV"), HU)] == [(0, 5), (0, 10), (0, 20)]
    assert all(p.percent for p in presets(Channel("mr", "MR"), HU))
    # a NIfTI has no unit; one with air in it is offered the windows of CT as well
    assert "Lung" in [p.name for p in presets(Channel("image"), HU)]
    assert "Lung" not in [p.name for p in presets(Channel("image"), np.abs(HU))]


def test_percentiles_ignore_the_background():
    data = np.concatenate([np.zeros(900), np.arange(1, 101)])[None]
    full = presets(Channel("mr", "MR"), data)[-1]
    assert full.window(data) == (1, 100)


def test_the_windows_of_a_dicom_file_come_first_and_open_the_series(tmp_path):
    def window(index, dataset):
        dataset.WindowCenter, dataset.WindowWidth = [40, -500], [350, 1400]
        dataset.WindowCenterWidthExplanation = ["SECRET^NAME", "LUNG"]

    folder = write_series(tmp_path / "ct", voxels(), axial_affine(), edit=window)
    (data, look, _), *_ = read_path(folder)
    stored = look["metadata"][KEY]["windows"]
    assert [(p.name, p.window(data)) for p in stored] == [("DICOM 1", (-135, 215)), ("DICOM 2", (-1200, 200))]
    assert look["contrast_limits"] == (-135, 215)
    assert [p.name for p in presets(Channel("ct", "CT", "HU"), data, stored)][:3] == [
        "DICOM 1",
        "DICOM 2",
        "Soft tissue",
    ]


@pytest.mark.parametrize("tags", [{}, {"WindowCenter": 5, "WindowWidth": 0}, {"VOILUTFunction": "SIGMOID"}])
def test_windows_that_mean_nothing_here_are_left_out(tmp_path, tags):
    def edit(index, dataset):
        dataset.update({"WindowCenter": 5, "WindowWidth": 9} if "VOILUTFunction" in tags else {})
        dataset.update(tags)

    folder = write_series(tmp_path / "ct", voxels(), axial_affine(), edit=edit)
    assert stored_windows(next(folder.iterdir())) == {}
    assert stored_windows(tmp_path / "absent") == {}


def test_an_enhanced_object_keeps_its_window_in_the_functional_groups(tmp_path):
    from pydicom.dataset import Dataset

    def edit(index, group):
        item = Dataset()
        item.WindowCenter, item.WindowWidth = 100, 200
        group.FrameVOILUTSequence = [item]

    stored = stored_windows(write_enhanced(tmp_path / "e.dcm", voxels(), axial_affine(), edit=edit))
    assert stored["CT"][0].window(HU) == (0, 200)


def test_a_drag_to_the_right_widens_and_downwards_raises_the_level():
    assert dragged((0, 100), 0, 0) == (0, 100)
    assert dragged((0, 100), 150, 0) == (-50, 150)
    assert dragged((0, 100), 0, 150) == (50, 150)
    low, high = dragged((0, 100), -10_000, 0)
    assert low < high or np.isclose(low, high)


def study():
    array = np.stack([np.full((4, 5, 6), v, np.float32) for v in (-1000, 3)])
    array[0, 1] = 200
    channels = (Channel("ct", "CT", "HU"), Channel("pet", "PT", "SUV"))
    return Volume(array, spatial_affine((3.0, 1, 1)), channels)


@pytest.fixture
def petct(model_viewer):
    arrange(model_viewer)
    for data, look, kind in volume_layers(study(), "S"):
        getattr(model_viewer, f"add_{kind}")(data, **look)
    return model_viewer


def test_a_preset_goes_to_the_active_image_or_to_the_anatomy(petct):
    ct, pet = petct.layers
    petct.layers.selection.active = pet
    use_preset(petct, 0)
    assert tuple(pet.contrast_limits) == (0, 5)
    petct.layers.selection.clear()
    use_preset(petct, 1)
    assert tuple(ct.contrast_limits) == (-1350, 150)
    assert window_text(ct) == "level -600, width 1500"
    use_preset(petct, 8)  # no ninth preset: nothing happens
    assert tuple(ct.contrast_limits) == (-1350, 150)
    assert layer_presets(ct)[0].name == "Soft tissue"


def drag(viewer, moves, button=2, modifiers=()):
    event = SimpleNamespace(type="mouse_press", button=button, modifiers=modifiers, pos=(10, 10), handled=False)
    generator = drag_window(viewer, event)
    if next(generator, "over") == "over":
        return event
    for event.pos in moves:
        event.type = "mouse_move"
        next(generator)
    event.type = "mouse_release"
    next(generator, None)
    return event


def test_the_right_button_changes_the_window_and_keeps_the_camera_still(petct):
    petct.layers.selection.active = ct = petct.layers[0]
    event = drag(petct, [(100, 10), (160, 10)])
    assert event.handled
    assert tuple(ct.contrast_limits) == (-360, 440)


@pytest.mark.parametrize(("button", "modifiers"), [(1, ()), (2, ("Shift",))])
def test_other_drags_are_naparis(petct, button, modifiers):
    before = [tuple(layer.contrast_limits) for layer in petct.layers]
    assert not drag(petct, [(100, 10)], button, modifiers).handled
    assert [tuple(layer.contrast_limits) for layer in petct.layers] == before


def test_the_right_button_paints_where_napari_paints_with_it(petct):
    _, truth = phantom(3, shape=(8, 8, 8))
    for data, look, kind in result_layers(truth):
        getattr(petct, f"add_{kind}")(data, **look)
    petct.layers.selection.active = things = petct.layers["things"]
    things.mode = "paint"
    assert not drag(petct, [(100, 10)]).handled
    things.mode = "pan_zoom"
    assert window_layer(petct) is petct.layers[0]
    assert drag(petct, [(100, 10)]).handled


def test_fusion_goes_round_and_roles_are_hidden_together(petct):
    ct, pet = petct.layers
    assert fusion_state(petct) == "fused"
    seen = []
    for _ in range(3):
        next_fusion(petct)
        seen.append((fusion_state(petct), ct.visible, pet.visible, pet.colormap.name))
    assert seen == [
        ("anatomy", True, False, "inferno"),
        ("PET", False, True, "gray_r"),
        ("fused", True, True, "inferno"),
    ]
    _, truth = phantom(3, shape=(8, 8, 8))
    for data, look, kind in result_layers(truth):
        getattr(petct, f"add_{kind}")(data, **look)
    toggle_role(petct, "things")
    assert (petct.layers["things"].visible, petct.layers["stuff"].visible) == (False, True)
    toggle_role(petct, "things")
    assert petct.layers["things"].visible


def naparis_keys():
    """The keys that napari itself binds, as text: on its viewer, on Image and on Labels layers, and in its menus."""
    pytest.importorskip("qtpy")
    from app_model.types import KeyBinding
    from napari._qt._qapp_model.qactions import _file, _help, _view
    from napari.components import ViewerModel
    from napari.layers import Image, Labels
    from napari.utils.action_manager import action_manager
    from napari.utils.shortcuts import default_shortcuts

    found = {str(key) for cls in (ViewerModel, Image, Labels) for key in cls.class_keymap}
    drawing = {"Points", "Shapes", "Surface", "Tracks", "Vectors"}
    for name, keys in default_shortcuts.items():
        owner = action_manager._actions[name].keymapprovider.__name__ if name in action_manager._actions else ""
        if owner not in drawing:
            found |= {str(key) for key in keys}
    for module in (_file, _help, _view):
        for actions in (value for name, value in vars(module).items() if name.startswith("Q_")):
            for action in actions:
                for rule in action.keybindings or ():
                    found |= {str(KeyBinding.from_int(key)) for key in (rule.primary, rule.linux, rule.win) if key}
    return found


def test_none_of_our_display_keys_is_naparis():
    from napari.utils.key_bindings import coerce_keybinding

    theirs = naparis_keys()
    assert {"V", "M", "1", "Ctrl+Z"} <= theirs  # the list is a list
    ours = [str(coerce_keybinding(key.key)) for key in DISPLAY_KEYS]
    assert len(set(ours)) == len(ours)
    assert not set(ours) & theirs
