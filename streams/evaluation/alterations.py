"""What happens to pictures on their way through phones and chats, made on purpose.

Called by the self-evaluation and by tests. Each alteration takes a colour picture and a seeded
generator, and returns the bytes of a file, as a sender's phone would. Nothing here is tuned to
our own views: sizes, colours, sides and texts are drawn from the generator.
"""

import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont
from PIL.Image import Resampling, Transpose

Label = Literal["same", "other_text"]
Alter = Callable[[Image.Image, random.Random], bytes]

_WORDS: Final = (
    "the government hides vaccine water election never before share this now they do not want "
    "you to know truth doctors say flood in city photo taken yesterday arrested minister bank "
    "closes free money urgent warning please forward miracle cure soldiers border oil prices "
    "school burned video proof leaked secret plan queen football king dead alive found"
)
_PAGES: Final = (
    ((255, 255, 255), (20, 20, 20), (120, 120, 120)),
    ((18, 18, 18), (235, 235, 235), (130, 130, 130)),
    ((240, 242, 245), (28, 30, 33), (101, 103, 107)),
    ((11, 20, 26), (233, 237, 239), (134, 150, 160)),
)
_BARS: Final = ((255, 255, 255), (0, 0, 0), (245, 220, 60), (30, 60, 140), (190, 30, 40))


@dataclass(frozen=True, slots=True)
class Alteration:
    """One thing that is done to a picture, and the line of the report where it counts.

    `alter` makes the copy. Where the picture that it is compared with is altered too (the same
    picture under two texts), `base` makes that one.
    """

    name: str
    group: str
    alter: Alter
    base: Alter | None = None
    label: Label = "same"


def jpeg(image: Image.Image, quality: int = 85) -> bytes:
    """As the bytes of a JPEG file."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=quality)
    return file.getvalue()


def scaled(image: Image.Image, factor: float) -> Image.Image:
    """Enlarged or reduced by a factor."""
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Resampling.BICUBIC)


def words(random_: random.Random, count: int) -> str:
    """A claim, as short as wanted."""
    return " ".join(random_.choice(_WORDS.split()) for _ in range(count))


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(6.0, size))


def write(
    image: Image.Image,
    box: tuple[float, float, float, float],
    text: str,
    colour: tuple[int, int, int],
    *,
    outlined: bool = False,
) -> None:
    """Set a text as large as it fits into a box: left, top, right, bottom in pixels."""
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = box
    size = (bottom - top) * 0.9
    lines: list[str] = [text]
    while size > 6:  # noqa: PLR2004 - below that no font is legible
        font = _font(size)
        lines = _wrapped(draw, text, font, right - left)
        if len(lines) * size * 1.2 <= bottom - top:
            break
        size *= 0.92
    font = _font(size)
    y = top + ((bottom - top) - len(lines) * size * 1.2) / 2
    for line in lines:
        x = left + ((right - left) - draw.textlength(line, font)) / 2
        draw.text(
            (x, y),
            line,
            fill=colour,
            font=font,
            stroke_width=max(1, round(size / 14)) if outlined else 0,
            stroke_fill=(0, 0, 0),
        )
        y += size * 1.2


def _wrapped(
    draw: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: float,
) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and draw.textlength(longer, font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


# --- harmless ---------------------------------------------------------------------------------


def _resize(factor: float) -> Alter:
    return lambda image, _: jpeg(scaled(image, factor))


def _recompress(quality: int) -> Alter:
    return lambda image, _: jpeg(image, quality)


def _forwards(image: Image.Image, random_: random.Random) -> bytes:
    for _ in range(3):
        content = jpeg(scaled(image, random_.uniform(0.8, 0.97)), random_.randint(50, 80))
        image = Image.open(io.BytesIO(content))
    return jpeg(image, 70)


def _webp(image: Image.Image, random_: random.Random) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=random_.randint(30, 90))
    return file.getvalue()


def _grey(image: Image.Image, _: random.Random) -> bytes:
    return jpeg(image.convert("L"))


def _blur(image: Image.Image, random_: random.Random) -> bytes:
    radius = max(image.size) / 480 * random_.uniform(1.0, 2.5)
    return jpeg(image.filter(ImageFilter.GaussianBlur(radius)))


def _brightness(image: Image.Image, random_: random.Random) -> bytes:
    return jpeg(ImageEnhance.Brightness(image).enhance(random_.choice((0.7, 1.3))))


def _contrast(image: Image.Image, random_: random.Random) -> bytes:
    return jpeg(ImageEnhance.Contrast(image).enhance(random_.choice((0.7, 1.3))))


def _exif_turned(image: Image.Image, random_: random.Random) -> bytes:
    orientation, turn = random_.choice(
        ((3, Transpose.ROTATE_180), (6, Transpose.ROTATE_90), (8, Transpose.ROTATE_270))
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.transpose(turn).save(file, "JPEG", quality=85, exif=exif)
    return file.getvalue()


# --- frames -----------------------------------------------------------------------------------


def _framed(
    image: Image.Image, sides: tuple[int, int, int, int], colour: tuple[int, int, int]
) -> Image.Image:
    left, top, right, bottom = sides
    size = image.width + left + right, image.height + top + bottom
    page = Image.new("RGB", size, colour)
    page.paste(image, (left, top))
    return page


def _border(image: Image.Image, random_: random.Random) -> bytes:
    width = round(random_.uniform(0.03, 0.12) * max(image.size))
    return jpeg(_framed(image, (width, width, width, width), random_.choice(_BARS)))


def _letterbox(image: Image.Image, random_: random.Random) -> bytes:
    colour = random_.choice(((0, 0, 0), (0, 0, 0), (255, 255, 255), (30, 30, 30)))
    bar = round(random_.uniform(0.08, 0.3) * max(image.size))
    sides = (bar, 0, bar, 0) if random_.random() < 0.4 else (0, bar, 0, bar)  # noqa: PLR2004
    return jpeg(_framed(image, sides, colour))


def barred(
    image: Image.Image,
    share: float,
    text: str,
    *,
    top: bool,
    colour: tuple[int, int, int],
) -> Image.Image:
    """With a caption bar above or below; `share` is the bar's height of the picture's."""
    bar = round(share * image.height)
    page = _framed(image, (0, bar, 0, 0) if top else (0, 0, 0, bar), colour)
    ink = (10, 10, 10) if sum(colour) > 380 else (250, 250, 250)  # noqa: PLR2004
    y = 0 if top else image.height
    margin = 0.04 * image.width
    write(page, (margin, y + 0.08 * bar, image.width - margin, y + 0.92 * bar), text, ink)
    return page


def _caption_bar(share: float, *, top: bool) -> Alter:
    def alter(image: Image.Image, random_: random.Random) -> bytes:
        text = words(random_, random_.randint(4, 12))
        return jpeg(barred(image, share, text, top=top, colour=random_.choice(_BARS)))

    return alter


# --- cropped ----------------------------------------------------------------------------------


def cropped(
    image: Image.Image, left: float, top: float, right: float, bottom: float
) -> Image.Image:
    """Without these shares of its sides."""
    width, height = image.size
    return image.crop(
        (
            round(left * width),
            round(top * height),
            round((1 - right) * width),
            round((1 - bottom) * height),
        )
    )


def _crop(share: float) -> Alter:
    return lambda image, _: jpeg(cropped(image, share, share, share, share))


def _crop_one_side(image: Image.Image, random_: random.Random) -> bytes:
    shares = [0.25, 0.0, 0.0, 0.0]
    random_.shuffle(shares)
    return jpeg(cropped(image, *shares))


# --- drawn upon -------------------------------------------------------------------------------


def overlaid(image: Image.Image, text: str, top: float, bottom: float) -> Image.Image:
    """With a text in the manner of memes over a band of the picture (shares of its height)."""
    image = image.copy()
    width, height = image.size
    box = (0.04 * width, top * height, 0.96 * width, bottom * height)
    write(image, box, text.upper(), (255, 255, 255), outlined=True)
    return image


def _text_top_and_bottom(image: Image.Image, random_: random.Random) -> bytes:
    image = overlaid(image, words(random_, random_.randint(2, 5)), 0.02, 0.16)
    return jpeg(overlaid(image, words(random_, random_.randint(2, 5)), 0.84, 0.98))


def _watermark(image: Image.Image, random_: random.Random) -> bytes:
    width, height = image.size
    layer = image.copy()
    x, y = random_.choice(((0.03, 0.9), (0.55, 0.9), (0.03, 0.03), (0.3, 0.45)))
    box = (x * width, y * height, (x + 0.4) * width, (y + 0.08) * height)
    write(layer, box, words(random_, 2), (255, 255, 255))
    return jpeg(Image.blend(image, layer, 0.6))


def _sticker(image: Image.Image, random_: random.Random) -> bytes:
    image = image.copy()
    side = round(0.3 * min(image.size))
    x = random_.randint(0, image.width - side)
    y = random_.randint(0, image.height - side)
    draw = ImageDraw.Draw(image)
    fill = random_.choice(((255, 205, 40), (230, 40, 60), (250, 250, 250), (20, 20, 20)))
    draw.ellipse((x, y, x + side, y + side), fill=fill)
    for dx in (0.3, 0.6):
        eye = (x + dx * side, y + 0.3 * side, x + (dx + 0.12) * side, y + 0.45 * side)
        draw.ellipse(eye, fill=(60, 40, 20))
    mouth = (x + 0.25 * side, y + 0.4 * side, x + 0.75 * side, y + 0.8 * side)
    draw.arc(mouth, 20, 160, fill=(60, 40, 20), width=max(2, side // 20))
    return jpeg(image)


# --- turned -----------------------------------------------------------------------------------


def _rotate(degrees: float) -> Alter:
    def alter(image: Image.Image, random_: random.Random) -> bytes:
        angle = random_.choice((-degrees, degrees))
        fill = random_.choice(((0, 0, 0), (255, 255, 255)))
        expand = random_.random() < 0.5  # noqa: PLR2004
        return jpeg(image.rotate(angle, Resampling.BICUBIC, expand=expand, fillcolor=fill))

    return alter


def _mirror(image: Image.Image, _: random.Random) -> bytes:
    return jpeg(image.transpose(Transpose.FLIP_LEFT_RIGHT))


# --- screenshots ------------------------------------------------------------------------------


def screenshot(image: Image.Image, random_: random.Random) -> tuple[Image.Image, int, int]:
    """A phone's screen with a post that shows the picture; with the picture's first, last row."""
    width, height = random_.choice(((1080, 2340), (1080, 1920), (750, 1334), (720, 1600)))
    unit = width / 360
    paper, ink, faint = random_.choice(_PAGES)
    page = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(page)
    layout = random_.choice(("feed", "feed", "card", "chat"))
    margin = {"feed": 0, "card": 14, "chat": 44}[layout] * unit

    def text(x: float, y: float, size: float, count: int, colour: tuple[int, int, int]) -> None:
        draw.text((x, y), words(random_, count), fill=colour, font=_font(size * unit))

    draw.text(
        (16 * unit, 6 * unit), f"{random_.randint(10, 23)}:41", fill=ink, font=_font(13 * unit)
    )
    draw.rectangle((width - 40 * unit, 8 * unit, width - 16 * unit, 18 * unit), fill=ink)
    draw.rectangle((width - 70 * unit, 8 * unit, width - 48 * unit, 18 * unit), fill=faint)
    y = 30 * unit
    if random_.random() < 0.6:  # an app's bar  # noqa: PLR2004
        colour = random_.choice((paper, paper, (0, 92, 75), (24, 119, 242)))
        draw.rectangle((0, y, width, y + 44 * unit), fill=colour)
        text(16 * unit, y + 10 * unit, 18, 2, ink if colour == paper else (255, 255, 255))
        y += 48 * unit
    draw.ellipse(
        (12 * unit, y + 6 * unit, 46 * unit, y + 40 * unit), fill=random_.choice(_BARS[2:])
    )
    text(56 * unit, y + 8 * unit, 14, 2, ink)
    text(56 * unit, y + 26 * unit, 11, 3, faint)
    y += 52 * unit
    for _ in range(random_.randint(0, 4)):
        text(16 * unit, y, 14, random_.randint(4, 7), ink)
        y += 20 * unit
    y += 6 * unit
    shown_width = width - 2 * margin
    shown_height = shown_width * image.height / image.width
    room = height - y - 90 * unit
    if shown_height > room:
        shown_width, shown_height = shown_width * room / shown_height, room
    left = 10 * unit if layout == "chat" else (width - shown_width) / 2
    if layout == "chat":
        bubble = tuple(min(255, channel + 25) for channel in paper)
        box = (
            left - 5 * unit,
            y - 5 * unit,
            left + shown_width + 5 * unit,
            y + shown_height + 30 * unit,
        )
        draw.rounded_rectangle(box, 8 * unit, fill=bubble)
    shown = image.resize((round(shown_width), round(shown_height)), Resampling.BICUBIC)
    page.paste(shown, (round(left), round(y)))
    first, last = round(y), round(y + shown_height)
    y += shown_height + 12 * unit
    for x in (16, 130, 250):
        draw.ellipse(
            (x * unit, y, (x + 18) * unit, y + 18 * unit), outline=faint, width=round(2 * unit)
        )
        text((x + 24) * unit, y + 2 * unit, 12, 1, faint)
    y += 34 * unit
    while y < height - 50 * unit:
        text(16 * unit, y, 13, random_.randint(2, 7), ink)
        y += random_.choice((20, 20, 34)) * unit
    draw.rectangle((0, height - 40 * unit, width, height), fill=paper)
    for x in (60, 180, 300):
        box = ((x - 9) * unit, height - 30 * unit, (x + 9) * unit, height - 12 * unit)
        draw.rectangle(box, outline=ink, width=round(2 * unit))
    return page, first, last


def _screenshot(image: Image.Image, random_: random.Random) -> bytes:
    page, _, _ = screenshot(image, random_)
    return jpeg(scaled(page, random_.choice((1.0, 0.75, 0.5))), random_.randint(60, 90))


def _loose_screenshot(image: Image.Image, random_: random.Random) -> bytes:
    """Cropped by hand: a little of the page around the picture is left."""
    page, first, last = screenshot(image, random_)
    above, below = (round(random_.uniform(0.0, 0.12) * (last - first)) for _ in range(2))
    return jpeg(page.crop((0, max(0, first - above), page.width, min(page.height, last + below))))


# --- the same picture under another text ------------------------------------------------------


def _claim(share: float, *, top: bool) -> Alter:
    def alter(image: Image.Image, random_: random.Random) -> bytes:
        text = words(random_, random_.randint(3, 7))
        edges = (0.02, 0.02 + share) if top else (0.98 - share, 0.98)
        return jpeg(overlaid(image, text, *edges), random_.randint(60, 90))

    return alter


def _claim_in_bar(share: float, *, top: bool, colour: tuple[int, int, int]) -> Alter:
    def alter(image: Image.Image, random_: random.Random) -> bytes:
        text = words(random_, random_.randint(3, 9))
        return jpeg(barred(image, share, text, top=top, colour=colour), random_.randint(60, 90))

    return alter


def _meme(image: Image.Image, random_: random.Random) -> bytes:
    return _text_top_and_bottom(image, random_)


def alterations() -> tuple[Alteration, ...]:
    """All of them, in the order of the report."""
    same = [
        *(("harmless", f"resize {round(f * 100)} %", _resize(f)) for f in (0.25, 0.5, 1.5, 2.0)),
        *(("harmless", f"JPEG q {q}", _recompress(q)) for q in (10, 30, 50, 75, 95)),
        ("harmless", "three forwards", _forwards),
        ("harmless", "WebP", _webp),
        ("harmless", "greyscale", _grey),
        ("harmless", "blur", _blur),
        ("harmless", "brightness", _brightness),
        ("harmless", "contrast", _contrast),
        ("harmless", "EXIF rotation", _exif_turned),
        ("framed", "border", _border),
        ("framed", "letterbox", _letterbox),
        *(
            (
                "framed",
                f"caption bar {round(s * 100)} % {'top' if top else 'bottom'}",
                _caption_bar(s, top=top),
            )
            for s in (0.1, 0.2, 0.3)
            for top in (True, False)
        ),
        ("framed", "loose screenshot", _loose_screenshot),
        *(
            (f"crop {round(s * 100)} %", f"crop {round(s * 100)} %", _crop(s))
            for s in (0.05, 0.1, 0.2)
        ),
        ("crop one side 25 %", "crop one side 25 %", _crop_one_side),
        ("text top and bottom", "text top and bottom", _text_top_and_bottom),
        ("watermark", "watermark", _watermark),
        ("sticker 30 %", "sticker 30 %", _sticker),
        ("rotate 2 degrees", "rotate 2 degrees", _rotate(2.0)),
        ("rotate 5 degrees", "rotate 5 degrees", _rotate(5.0)),
        ("mirror", "mirror", _mirror),
        ("phone screenshot", "phone screenshot", _screenshot),
    ]
    other = [
        ("lower 20 %", _claim(0.2, top=False)),
        ("lower 12 %", _claim(0.12, top=False)),
        ("upper 15 %", _claim(0.15, top=True)),
        ("top and bottom", _meme),
        ("bar 20 % top", _claim_in_bar(0.2, top=True, colour=(255, 255, 255))),
        ("bar 15 % bottom", _claim_in_bar(0.15, top=False, colour=(0, 0, 0))),
    ]
    return (
        *(Alteration(name, group, alter) for group, name, alter in same),
        *(
            Alteration(f"other text, {name}", "other text", alter, base=alter, label="other_text")
            for name, alter in other
        ),
    )
