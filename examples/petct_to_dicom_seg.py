"""A PET/CT study in, a DICOM SEG out: python examples/petct_to_dicom_seg.py [FOLDER] [OUT]."""

import sys
from pathlib import Path

from medpanoptic import Segmenter, read_study, write_result
from medpanoptic.io import find_series
from medpanoptic.samples import sample_path


def main(folder: Path, output: Path) -> None:
    for series in find_series(folder).series:
        print(f"{series.handle}  {series.modality:2s}  {series.slices} slices  {series.code}")

    segmenter = Segmenter.load("sarcoma_petct")
    study = read_study(folder, segmenter.bundle.channels)  # all channels on the grid of the CT, PET in SUV
    result = segmenter(study)

    for tumour in result.things:
        suv = study.array[[c.name for c in study.channels].index("pet")][result.ids == tumour.id]
        volume_ml = result.sizes[tumour.id] * result.voxel_size / 1000
        print(f"tumour {tumour.id}: {volume_ml:.1f} ml, SUVmax {suv.max():.1f}, score {tumour.score:.2f}")
    files = write_result(result, output / folder.name, formats=["dicom-seg", "csv", "png"], volume=study)
    print(files["dicom-seg"][0])


if __name__ == "__main__":
    arguments = [Path(a) for a in sys.argv[1:]]
    main(*(arguments + [sample_path("sarcoma_petct"), Path("out")][len(arguments) :]))
