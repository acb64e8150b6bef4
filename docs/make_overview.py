"""Put the demo's overlays side by side: docs/images/overview.png.

python3 tasks.py demo && python docs/make_overview.py demo_out
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

HEIGHT, GAP = 420, 8
SAMPLES = ("nuclei_fluorescence", "he_colon", "sarcoma_petct")


def main() -> None:
    """Read the overlays, write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo_output", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "images" / "overview.png")
    args = parser.parse_args()
    pictures = [Image.open(args.demo_output / name / "overlay.png").convert("RGB") for name in SAMPLES]
    scaled = [p.resize((round(p.width * HEIGHT / p.height), HEIGHT), Image.Resampling.LANCZOS) for p in pictures]
    sheet = Image.new("RGB", (sum(p.width for p in scaled) + GAP * (len(scaled) - 1), HEIGHT), "white")
    left = 0
    for picture in scaled:
        sheet.paste(picture, (left, 0))
        left += picture.width + GAP
    sheet.save(args.output, optimize=True)


if __name__ == "__main__":
    main()
