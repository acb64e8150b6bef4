"""Segment one image and list its largest things: python examples/segment_image.py [IMAGE] [OUT]."""

import sys
from pathlib import Path

from medpanoptic import Segmenter, read_volume, write_result
from medpanoptic.samples import sample_path


def main(image_path: Path, output: Path) -> None:
    image = read_volume(image_path, pixel_size_um=0.25)
    result = Segmenter.load("nuclei_he")(image)

    print(f"{len(result.things)} nuclei")
    for segment in sorted(result.things, key=lambda s: -result.sizes[s.id])[:5]:
        area_um2 = result.sizes[segment.id] * result.voxel_size * 1e6
        name = result.classes[segment.class_id].name
        print(f"{segment.id:5d}  {name:12s}  score {segment.score:.2f}  {area_um2:6.1f} um2")
    for dropped in result.dropped[:3]:
        name = result.classes[dropped.class_id].name
        print(f"left out: {name}, score {dropped.score:.2f}, because of its {dropped.reason}")
    write_result(result, output / "he", formats=["csv", "png"], volume=image)


if __name__ == "__main__":
    arguments = [Path(a) for a in sys.argv[1:]]
    main(*(arguments + [sample_path("he_colon"), Path("out")][len(arguments) :]))
