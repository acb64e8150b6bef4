"""One study in, one panoptic result on its own grid out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medpanoptic import __version__
from medpanoptic.bundle import Bundle, load_bundle
from medpanoptic.errors import ModelError
from medpanoptic.geometry import voxel_size
from medpanoptic.identity import array_digest, uid_from
from medpanoptic.io import read_study, write_result
from medpanoptic.io.write import check_output
from medpanoptic.native import Grids
from medpanoptic.networks.flips import FlipAverage
from medpanoptic.networks.outputs import Prediction, calibrate
from medpanoptic.preprocess import SPATIAL_STEPS, Preprocessing, grid_affine
from medpanoptic.refusion import fuse_prediction
from medpanoptic.result import PanopticResult, Provenance
from medpanoptic.segmenter.devices import choose_device, deterministic, has_bfloat16, is_out_of_memory
from medpanoptic.segmenter.folding import fold_norms
from medpanoptic.segmenter.inputs import InputWarning, find_warnings, fit_channels, network_steps, volume_from_array
from medpanoptic.stages import Stages
from medpanoptic.stored import SCORE_FLOOR, StoredPrediction, remove_prediction, write_prediction
from medpanoptic.tiling import PanopticNetwork, Progress, predict_image
from medpanoptic.volume import Source, Volume

Image = str | Path | Mapping[str, Any] | Volume | NDArray | tuple[NDArray, NDArray[np.float64] | None]
# windows per forward pass of a 2D network on a GPU; one window of a 3D network fills it
_GPU_BATCH = 4


class Segmenter:
    """A model ready to run. Same input, model, machine and thread count give the same result to the byte.

    bundle : describes it. network : meets ``tiling.PanopticNetwork``, weights loaded; moved to ``device`` and set to
    evaluate. amp : bfloat16 on a GPU, or on a CPU made for it (AVX-512 BF16, AMX): faster, slightly other numbers; any
    other CPU stays with float32. flips : average over mirrored images: None as the bundle says, True always, False
    never. Without, a run is faster and knows no uncertainty.
    """

    def __init__(
        self,
        bundle: Bundle,
        network: Any,
        device: str | torch.device | None = None,
        amp: bool = False,
        flips: bool | None = None,
    ) -> None:
        self.bundle, self.device = bundle, choose_device(device)
        self.amp = amp and has_bfloat16(self.device)
        self.flips = bundle.flips if flips is not False else ()
        if flips and not bundle.flips:
            self.flips = tuple(range(bundle.spatial_dims))
        network = fold_norms(network.eval())
        if self.flips:
            if not network.instance_head.is_dense:
                raise ModelError("FLIPS", f"bundle {bundle.name} finds things by proposals, which flips cannot average")
            network = FlipAverage(network, self.flips)
        self.network = network.to(self.device)
        if bundle.spatial_dims == 2:  # a third faster on a CPU too
            self.network = self.network.to(memory_format=torch.channels_last)

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path,
        device: str | torch.device | None = None,
        amp: bool = False,
        flips: bool | None = None,
    ) -> Segmenter:
        """Load a shipped model by name, or a bundle folder.

        device : "cpu", "cuda", "cuda:N"; None or "auto" takes a GPU where there is one.
        Raises ModelError: MODEL-NAME, MODEL-HASH, MODEL-WEIGHTS, BUNDLE-UNSAFE, BUNDLE-SCHEMA, DEVICE, FLIPS.
        """
        bundle = load_bundle(name_or_folder, weights=False)
        return cls(bundle, bundle.load_network(), device, amp, flips)

    def __call__(
        self,
        image: Image,
        *,
        series: str | Sequence[str] | None = None,
        pixel_size_um: float | None = None,
        score: float | None = None,
        progress: Progress | None = None,
        stages: Stages | None = None,
    ) -> PanopticResult:
        """Segment a path (file, DICOM folder), {channel: path}, a Volume, an array (C, *S), or (array, affine).

        series, pixel_size_um : as for ``read_study``; only for paths.
        score : things below it are left out; None is the bundle's own threshold.
        progress : called with the part done, (0, 1]; an exception that it raises ends the run and reaches the caller.
        stages : takes the seconds of each stage.
        An input unlike the training data warns (UserWarning) and is named in ``provenance.parameters["warnings"]``.
        Raises ReadError; ModelError: INPUT-DIMS, INPUT-CHANNELS, INPUT-SIZE, OUT-OF-MEMORY; ResultError (FUSE-FLOOR).
        """
        volume = self._read(image, series, pixel_size_um)
        stored = self.predict(volume, progress=progress, stages=stages)
        result = self.fuse(stored, volume.source, stages, score)
        if progress is not None:
            progress(1.0)
        return result

    def fuse(
        self,
        stored: StoredPrediction,
        source: Source | None = None,
        stages: Stages | None = None,
        score: float | None = None,
    ) -> PanopticResult:
        """Fuse a prediction of this model on its device; on the CPU if the run that made it was short of memory."""
        device = "cpu" if "fallback" in stored.provenance.parameters else self.device
        return fuse_prediction(stored, source, stages, device, score_threshold=score)

    def predict(
        self, volume: Volume, *, progress: Progress | None = None, stages: Stages | None = None
    ) -> StoredPrediction:
        """Run the network: what ``refusion.fuse_prediction`` makes a result of, and ``stored`` keeps.

        Warns and raises as a call does.
        """
        stages = stages or Stages()
        volume = fit_channels(volume, self.bundle)
        doubts = find_warnings(volume, self.bundle)
        steps = network_steps(volume, self.bundle)
        with stages("preprocess"):
            grid = Preprocessing(steps)(volume)
        channels = int(self.bundle.network_def["in_channels"])
        if grid.shape[0] != channels:
            raise ModelError("INPUT-CHANNELS", f"the network takes {channels} channels, the image has {grid.shape[0]}")
        grids = Grids(volume.shape, volume.affine, grid_affine(grid))
        with deterministic(self.device):
            prediction, fallback = self._predict(grid.as_tensor().contiguous(), progress, stages)
        if fallback:
            doubts.append(InputWarning("OUT-OF-MEMORY", f"the GPU's memory was too small; went on with {fallback}"))
        for doubt in doubts:
            warnings.warn(f"[{doubt.code}] {doubt.text}", UserWarning, stacklevel=3)
        return StoredPrediction(
            *compact(prediction, self.bundle.calibration),
            self.bundle.classes,
            grids,
            any(step["_target_"] in SPATIAL_STEPS for step in steps),
            self.bundle.fusion,
            network_voxel_mm(self.bundle, volume, grids),
            uid_from("input", volume.source.series_uid or array_digest(volume.array)),
            self._provenance(volume, fallback, doubts),
            None if prediction.spread is None else prediction.spread.half().cpu().numpy(),
        )

    def _read(self, image: Image, series: str | Sequence[str] | None, pixel_size_um: float | None) -> Volume:
        if isinstance(image, Volume):
            return image
        if isinstance(image, np.ndarray):
            return volume_from_array(image, None, self.bundle)
        if isinstance(image, tuple):
            return volume_from_array(*image, self.bundle)
        return read_study(image, self.bundle.channels, series=series, pixel_size_um=pixel_size_um)

    def _predict(self, image: torch.Tensor, progress: Progress | None, stages: Stages) -> tuple[Prediction, str]:
        """Run the network; where memory is short by half windows, then on the CPU. Returns what was resorted to.

        On a GPU windows are put together where they are made; half windows on the CPU.
        """
        window = self.bundle.window
        half, cpu = tuple(max(1, n // 2) for n in window), torch.device("cpu")
        attempts = [(self.device, self.device, window, ""), (self.device, cpu, half, "windows half as wide")]
        if self.device.type != "cpu":
            attempts.append((cpu, cpu, window, "the CPU"))
        network: PanopticNetwork = self.network
        # the last steps are fusion and the way back
        report = None if progress is None else (lambda part: progress(0.95 * part))
        for device, place, size, name in attempts:
            try:
                self.network.to(device)
                batch = _GPU_BATCH if device.type != "cpu" and len(window) == 2 and not name else 1
                return predict_image(
                    network,
                    image.to(place),
                    size,
                    self.bundle.overlap,
                    device=device,
                    amp=self.amp and has_bfloat16(device),
                    batch=batch,
                    progress=report,
                    stages=stages,
                ), name
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            finally:
                self.network.to(self.device)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        raise ModelError("OUT-OF-MEMORY", f"an image of {tuple(image.shape)} does not fit into memory; crop it")

    def _provenance(self, volume: Volume, fallback: str, doubts: Sequence[InputWarning]) -> Provenance:
        parameters: dict[str, Any] = {
            "device": self.device.type,
            "amp": self.amp,
            "flips": list(self.flips),
            "window": list(self.bundle.window),
            "overlap": self.bundle.overlap,
            "calibrated": volume.calibrated,
            "channels": [c.name for c in volume.channels if c.present],
            "notes": list(volume.notes),
            "warnings": [doubt._asdict() for doubt in doubts],
        }
        if fallback:
            parameters["fallback"] = fallback
        bundle = self.bundle
        return Provenance(bundle.name, bundle.version, bundle.weights_sha256, __version__, parameters=parameters)


def segment_file(
    path: str | Path | Mapping[str, Any],
    model: str | Path | Segmenter,
    output: str | Path | None = None,
    *,
    formats: Sequence[str] | None = None,
    device: str | None = None,
    series: str | Sequence[str] | None = None,
    pixel_size_um: float | None = None,
    score: float | None = None,
    keep_prediction: bool = False,
    progress: Progress | None = None,
    stages: Stages | None = None,
) -> PanopticResult:
    """Segment one file or study and, with ``output``, write the result folder.

    path : as for ``Segmenter``. model : a name, a bundle folder, or a loaded Segmenter, which has its device.
    output : the case's folder, see ``write_result``; None writes nothing. formats : names of ``io.FORMATS``; None is
    nifti, csv and png, and dicom-seg for DICOM input. score : things below it are left out; None is the model's own.
    keep_prediction : also write what ``fuse_case`` needs to fuse again with other settings. stages : takes the seconds
    of each stage.
    Raises ReadError, ModelError, WriteError.
    """
    segmenter = model if isinstance(model, Segmenter) else Segmenter.load(model, device)
    if output is not None:
        # before minutes of work, and before the older prediction goes
        check_output(Path(output), formats or (), segmenter.bundle.spatial_dims)
    stages = stages or Stages()
    with stages("read"):
        volume = read_study(path, segmenter.bundle.channels, series=series, pixel_size_um=pixel_size_um)
    stored = segmenter.predict(volume, progress=progress, stages=stages)
    result = segmenter.fuse(stored, volume.source, stages, score)
    if output is not None:
        usual = ["nifti", "csv", "png", *(["dicom-seg"] if volume.source.sop_uids else [])]
        with stages("write"):
            remove_prediction(Path(output))
            write_result(result, Path(output), formats=usual if formats is None else formats, volume=volume)
            if keep_prediction:
                write_prediction(stored, Path(output))
    if progress is not None:
        progress(1.0)
    return result


def compact(
    prediction: Prediction, calibration: tuple[float, float] = (1.0, 0.0)
) -> tuple[NDArray[np.float16], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], tuple[NDArray, ...]]:
    """Return logits, boxes, labels, calibrated scores and masks as they are stored, without things below the floor."""
    found = prediction.instances.to("cpu")
    calibrated = calibrate(found.scores, *calibration)
    stays = (calibrated >= SCORE_FLOOR).nonzero()[:, 0]
    masks = tuple(found.mask_logits[i].half().numpy() for i in stays.tolist())
    boxes, labels, scores = (v[stays].numpy() for v in (found.boxes, found.labels, calibrated))
    return prediction.semantic_logits.half().cpu().numpy(), boxes, labels, scores, masks


def network_voxel_mm(bundle: Bundle, volume: Volume, grids: Grids) -> float:
    """Return mm2 or mm3 of a voxel of the network's grid.

    Without a pixel size the bundle's ``spacing_mm`` stands in; without that too it is infinite: nothing is too small.
    """
    if volume.calibrated:
        return voxel_size(grids.network_affine, volume.ndim)
    return math.prod(bundle.spacing_mm) if bundle.spacing_mm else math.inf
