"""What `meddiff.datasets.burned_text` finds of text drawn on phantoms, and how often it flags images without any.

    python benchmarks/burned_text.py [FOLDER]

A name and a number are drawn by Pillow in sizes of 10 to 28 pixels at random places, bright, dark or yellow, on phantoms of 256
and 480 pixels. With FOLDER also the share of its images that are flagged.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from meddiff.cases import Pixels
from meddiff.datasets.burned_text import shows_text
from meddiff.datasets.decoding import decode_image
from meddiff.datasets.demo import make_phantoms
from meddiff.errors import MeddiffError

PHANTOMS = 10   # of each look and size
TEXTS = ("ROENTGEN W 27.03.1845", "Patient 4711-0815", "MI 0.9 TIS 0.4 12 cm")


def written(image: Pixels, height: int, colour: tuple[int, int, int], rng: np.random.Generator) -> Pixels:
    """The image with a line of text somewhere in it."""
    picture, text = Image.fromarray(image), TEXTS[rng.integers(3)]
    font, draw = ImageFont.load_default(height), ImageDraw.Draw(picture)
    wide = int(draw.textlength(text, font))
    place = (int(rng.integers(0, max(1, image.shape[1] - wide))), int(rng.integers(0, image.shape[0] - height - 4)))
    draw.text(place, text, colour, font)
    return np.asarray(picture)


def main() -> None:
    for look in ("ultrasound", "dermoscopy"):
        for size in (256, 480):
            images = [case.image for case in make_phantoms(PHANTOMS, True, size, look, 7)]
            print(f"{look} {size}: {np.mean([shows_text(image) for image in images]):.2f} flagged without text; found", end="")
            for height in (10, 14, 20, 28):
                for name, colour in (("bright", (255, 255, 255)), ("dark", (0, 0, 0)), ("yellow", (255, 255, 0))):
                    rng = np.random.default_rng([height, size])
                    found = np.mean([shows_text(written(image, height, colour, rng)) for image in images])
                    print(f"  {name} {height}: {found:.2f}", end="")
            print()
    for folder in map(Path, sys.argv[1:]):
        seen = []
        for file in sorted(folder.iterdir()):
            try:
                seen.append(shows_text(decode_image(file).pixels))
            except MeddiffError:
                continue
        print(f"{folder.name}: {sum(seen)} of {len(seen)} images flagged")


if __name__ == "__main__":
    main()
