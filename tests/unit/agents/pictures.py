"""Pictures for tests: those that scikit-image ships, and any picture as a file's bytes."""

import io

from PIL import Image
from skimage import data


def shipped(name: str) -> Image.Image:
    """A picture of scikit-image, one of those in its wheel (nothing is downloaded)."""
    return Image.fromarray(getattr(data, name)())


def written(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """The bytes of a file with this picture."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()
