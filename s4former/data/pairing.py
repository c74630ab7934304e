"""Which mask belongs to which image, by their names: in two folders, or side by side in one.

Names are ids as `find_images` gives them: paths below a folder, without ending. A tag is a word at one end of a file name,
parted from the rest by "_", "-", "." or a space, that tells what a file is and not which one: X_mask.png is the mask of X_image.jpg.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import DataError
from .images import read_header
from .lists import strip_endings
from .masks import ID_MODES, MASK_ENDINGS

Files = dict[str, Any]  # id -> file, a Path or its name
Form = Callable[[str], str]
# Regular expressions, the first of two that fit equally well is taken. Of the letters alone, case counts.
BANDS = ("(?i:leftImg8bit)", "(?i:rgb)", "(?i:sat)", "0000")  # beside which there may be others of one image
HASHES = (r"(?i:jpe?g|png)\.rf\.\w+", "[0-9a-f]{8}")  # of Roboflow and Label Studio
IMAGE_TAGS = (*BANDS, "(?i:images?)", "(?i:img)", "(?i:photo)", "(?i:training)", *HASHES)
MASK_TAGS = (
    "(?i:gtFine_labelTrainIds)", "(?i:gtFine_labelIds)", "(?i:gtFine_labellevel3Ids)", "(?i:labelTrainIds)", "(?i:labelIds)",
    r"(?i:manual\d?)", "(?i:labels?)", "(?i:masks?)", "(?i:segmentation)", "(?i:seg)", "(?i:annotations?)",
    "(?i:gt|ground_?truth)", "(?i:lab)", "(?i:target)", "L", "P", *HASHES,
)  # fmt: skip
BESIDE = MASK_TAGS[: -len(HASHES)]  # that make a file a mask where it lies among images


def remove_tag(name: str, tag: str) -> str:
    """A name without the tag at an end of its last part; as it is if it has none."""
    return re.sub(rf"(?<![^/])(?:{tag})[ _.-](?=[^/]+$)|(?<=[^/])[ _.-](?:{tag})$", "", name, count=1) if tag else name


def having(tags: Iterable[str], names: Iterable[str]) -> list[str]:
    """The names that may have one of the tags: one search for all, since there may be a million names."""
    any_tag = re.compile("^(?:{0})[ _.-]|[ _.-](?:{0})$".format("|".join(tags)))
    return [name for name in names if any_tag.search(name.rpartition("/")[2])]


FORMS = (str, str.casefold, lambda name: os.path.basename(name).casefold())  # in which names are compared


def pair_names(images: Collection[str], masks: Collection[str], forms: Sequence[Form] = FORMS) -> tuple[dict[str, str], str]:
    """Image -> its mask, and the tag that the images have.

    Names are equal as they are, without tags, or with letters of any case, whichever pairs the most; or, if nothing is, without
    their folders.
    """
    best, best_tag = {}, ""
    for form in forms:
        if best and form is FORMS[-1]:
            break
        drawn: dict[str, dict[str, str]] = {}  # tag -> masks without it
        for image_tag in tags_of(images, IMAGE_TAGS):
            left = unique_names(images, image_tag, form, bool(image_tag))
            for mask_tag in drawn if image_tag else tags_of(masks, MASK_TAGS):
                if {image_tag, mask_tag} <= {*HASHES}:  # two numbers, such as dates, that differ are of two pictures
                    continue
                if mask_tag not in drawn:
                    drawn[mask_tag] = unique_names(masks, mask_tag, form, False)
                found = {left[name]: drawn[mask_tag][name] for name in left if name in drawn[mask_tag]}
                if len(found) > len(best):
                    best, best_tag = found, image_tag
                if len(best) == min(len(images), len(masks)):
                    return best, best_tag
    return best, best_tag


def beginnings(name: str) -> list[str]:
    """What a name is without its last words, and the whole name: a, a_b and a_b_c of a_b_c."""
    return [name[: match.start()] for match in re.finditer(r"[_. -](?!.*/)|$", name)]


def tags_of(names: Collection[str], known: Sequence[str]) -> Iterator[str]:
    """No tag, the known ones that some names have, and what all names begin or end with, as far as it is no number."""
    yield ""
    tagged = having(known, names)
    yield from (tag for tag in known if any(remove_tag(name, tag) != name for name in tagged))
    last = [os.path.basename(name) for name in names]
    for shared in (os.path.commonprefix(last), os.path.commonprefix([name[::-1] for name in last])[::-1]) if len(last) > 1 else ():
        if word := re.search(r"^[^\W\d_]\D*(?=[ _.-])|(?<=[ _.-])\D*[^\W\d_]$", shared):
            yield re.escape(word[0])


def unique_names(names: Iterable[str], tag: str, form: Form, tagged: bool) -> dict[str, str]:
    """Name without endings and tag -> name, where it stands for one file; with `tagged`, of those alone that have the tag.

    Names without the tag go before those that have it, and of two files of one stem, the one called by its stem before the other.
    """
    found: dict[str, str] = {}
    twice = set()
    bare = {name: remove_tag(strip_endings(name), tag) for name in names}
    for name in sorted(bare, key=lambda name: (bare[name] != strip_endings(name), name)):
        plain, key = strip_endings(name), form(bare[name])
        if not (tagged and bare[name] == plain):
            other = strip_endings(found.setdefault(key, name))
            if plain != other and (bare[name] != plain) == (form(other) != key):
                twice.add(key)
    return {key: name for key, name in found.items() if key not in twice}


def pair_up(images: Files, masks: Files, forms: Sequence[Form] = FORMS) -> Files:
    """The mask of each image that has one. Another band of an image, X_IRRG beside X_RGB, is taken out of `images`."""
    if not masks:
        return {}
    found, tag = pair_names(images, masks, forms)
    # of two images of one stem, the second has the mask that is called by its whole name: X.png.png is that of X.png beside X.jpg
    found |= {name: name for name in images if name not in found and name in masks and strip_endings(name) in found}
    if tag in BANDS:
        known = {remove_tag(name, tag) for name in images if remove_tag(name, tag) != name}
        for name in [name for name in images if remove_tag(name, tag) == name and not known.isdisjoint(beginnings(name))]:
            del images[name]
    return {image: masks[mask] for image, mask in found.items()}


def take_masks(files: Files) -> Files:
    """Takes the masks out of files that lie side by side with their images: X_mask beside X, X.png of ids beside X.jpg.

    A JPEG called X_mask is one as well, and refused when it is read; but where X has another, that is its mask. Returns the mask
    of each image that has one.
    """
    plain = {name: strip_endings(name) for name in files}
    tagged = {*having(BESIDE, plain.values())}
    words = {name: words for name in files if plain[name] in tagged and (words := mask_words(plain[name], files[name]))}
    photos = {name: path for name, path in files.items() if name not in words}
    best: Files = {}
    last = sorted(words, key=lambda name: may_be_mask(files[name]))  # of X_mask.jpg and X_mask.png, the second
    for tag in BESIDE:
        masks = {strip_endings(name): files[name] for name in last if tag in words[name]}
        if masks and len(found := pair_up(left := dict(photos), masks, FORMS[:2])) > len(best):
            best, kept = found, left
    if best:
        bare = {remove_tag(name, tag) for name in kept for tag in ("", *IMAGE_TAGS)}
        for name in [name for name, has in words.items() if any(remove_tag(strip_endings(name), tag) in bare for tag in has)]:
            del files[name]
        for name in photos.keys() - kept.keys():
            del files[name]
    for name, stem in [(name, stem) for name in files if (stem := plain[name]) != name and stem in files]:
        if stem not in best and holds_ids(files[name]) and not holds_ids(files[stem]):
            best[stem] = files.pop(name)
    return best


def mask_words(name: str, path: Path | str) -> list[str]:
    """The tags in a file's name without ending that make it a mask; a single letter does not in the name of a JPEG."""
    return [tag for tag in BESIDE if remove_tag(name, tag) != name and (len(tag) > 1 or may_be_mask(path))]


def may_be_mask(path: Path | str) -> bool:
    return os.path.splitext(path)[1].lower() in MASK_ENDINGS


def holds_ids(path: Path | str) -> bool:
    """Whether a file may be a mask by its ending and its mode; False if it cannot be read."""
    with suppress(DataError):
        return may_be_mask(path) and read_header({"path": str(path), "bytes": None}).mode in ID_MODES
    return False
