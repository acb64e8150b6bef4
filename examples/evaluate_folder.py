"""Segment a folder of images and score it: python examples/evaluate_folder.py [DATA] [OUT].

DATA holds images/ID.png and labels/ID.png (0 = background, 1..n = nuclei).
"""

import shutil
import sys
from pathlib import Path

from medpanoptic import Segmenter, evaluate
from medpanoptic.samples import reference_path, sample_path
from medpanoptic.segmenter import segment_file


def main(data: Path, output: Path) -> None:
    segmenter = Segmenter.load("nuclei")  # once, for all images
    for image in sorted((data / "images").glob("*.png")):
        segment_file(image, segmenter, output / image.stem)
    scores = evaluate(output, data)
    print(scores[["class", "cases", "n", "pq", "sq", "rq", "ap50"]].round(3).to_string(index=False))


def make_data(folder: Path) -> Path:
    """Lay out the shipped sample as a data set of one image."""
    for part, source in (("images", sample_path), ("labels", reference_path)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        shutil.copy(source("nuclei_fluorescence"), folder / part)
    return folder


if __name__ == "__main__":
    arguments = [Path(a) for a in sys.argv[1:]]
    main(
        arguments[0] if arguments else make_data(Path("out_data")), arguments[1] if len(arguments) > 1 else Path("out")
    )
