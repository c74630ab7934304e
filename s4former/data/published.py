"""The published lists of labelled images, known by content: how many ids, and the SHA-256 of them sorted.

The lists themselves are not ours to ship. A list that a user has is recognised whatever its file is called and however
its lines are written: `2007_000032`, `JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png` and
`/JPEGImages/2007_000032.jpg` are the same id. Families that cannot be compared have different names: `voc_blend_cps`
draws from all 10,582 images of VOC and SBD, `voc_blend_u2pl` takes the finely labelled ones first.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError, plural
from .lists import list_fingerprint, read_text_lines, strip_endings


class Published(NamedTuple):
    """What identifies a list, and where UniMatch's repository keeps it below its folder splits/."""

    images: int
    sha256: str
    unimatch: str = ""


def pascal(fraction: str) -> str:
    return f"pascal/{fraction}/labeled.txt"


# The names are those of the files below ROOT/splits, as the configs have them. In each family, the number is that of
# the labelled images; COCO's lists go by their share of train2017.
PUBLISHED = {
    "voc_classic/92": Published(92, "325a965b6206ac6e9c4c86961d5f4d9f1aff9c361c42dc79719ca85de7e64cc6", pascal("92")),
    "voc_classic/183": Published(
        183, "3b208061a59a42b4954b136dc46b00f263178ebf25ead1164eb3509ab6657ce1", pascal("183")
    ),
    "voc_classic/366": Published(
        366, "ea8aa0b2ceedf56b536241b16b57fadfd9c0c8301bd93f7c9b7ad6df2ffc4c26", pascal("366")
    ),
    "voc_classic/732": Published(
        732, "81c3256e4a7fc4c31b6b1e9084c44eec318b44c58c622283035d02f6b17c0137", pascal("732")
    ),
    "voc_classic/732_pseudoseg_variant": Published(
        732, "80cc40b7c0ab6fe4942149cbd58f24dbf6bf028b5556aa154de2098fa692d068"
    ),
    "voc_classic/1464": Published(
        1464, "aa623bd2c8ce4443a8aaae51c524c0eb165e8e44caf6aa9e3ad33d7b75a3ef20", pascal("1464")
    ),
    "voc_blend_cps/662": Published(
        662, "7dada8ccc5eb6309b4b81e172dfc24f0d83ea72078675083778ca10487182748", pascal("1_16")
    ),
    "voc_blend_cps/1323": Published(
        1323, "df63f50a798512c3befb5364052733bd8bc169f609e034e9f55b5853798ead10", pascal("1_8")
    ),
    "voc_blend_cps/2646": Published(
        2646, "62c450787069b36d88ea7bb35895a808885720ae833bae8b9c81775731062ea1", pascal("1_4")
    ),
    "voc_blend_cps/5291": Published(5291, "192132b4f645339dd143850359d4e27bb62ba3ce447553a07de23fbff4f0c8b9"),
    "voc_blend_cps/5291_s4former_repo_variant": Published(
        5291, "415761b09b2b58696eadbe27d4cf09e42c495d247723d2a3267a7537fa410107"
    ),
    "voc_blend_u2pl/662": Published(
        662, "0c6466b63b2f52069830afd605968347ec2696b15d25b91329d77d203023c1b1", pascal("u2pl_1_16")
    ),
    "voc_blend_u2pl/1323": Published(
        1323, "2f24ef964761485ffeb474d2e312d92cf4135e0032e54d0574a3a8a72546e444", pascal("u2pl_1_8")
    ),
    "voc_blend_u2pl/2646": Published(
        2646, "3c653f4ff30f3c059b091ea51a8ac90e0481aab837721c404e73cbe0a4a14aa9", pascal("u2pl_1_4")
    ),
    "voc_blend_u2pl/5291": Published(5291, "8ef07e486384a8252039367570eac09e86e9a1ea1876da9128267030163b8b4d"),
    "voc_train_aug_10582": Published(10582, "d1326bd532648d73bc4b1bd275434eba81930982dc7401a65a8cecb26c028e24"),
    "voc_val_1449": Published(
        1449, "cdc1326d12f69ce5153aa5da04a4d8783e146868d42d19f82f44e74b97ac907d", "pascal/val.txt"
    ),
    "cityscapes_cps/186": Published(
        186, "dc2a06a86232bc32e733a8ae33e60807e9b017bf9dd5ce03b106426f3c96c496", "cityscapes/1_16/labeled.txt"
    ),
    "cityscapes_cps/372": Published(
        372, "2755fe0b6533339404a82029602157051c7be06d9d775ce445f5e5c43767d3bc", "cityscapes/1_8/labeled.txt"
    ),
    "cityscapes_cps/744": Published(
        744, "605f06bce9cb841e11db460b00e05c6edfdbd3e66a390f3ade7ef00172af4694", "cityscapes/1_4/labeled.txt"
    ),
    "cityscapes_cps/1488": Published(
        1488, "f071d8e32b163da41105b296af66975544141343a3af44449f74dd30a16facc9", "cityscapes/1_2/labeled.txt"
    ),
    "cityscapes_u2pl/186": Published(186, "c9b2d8a6a7290bcaf224c7cdec576682a677f7248a36dbfde498c55962a363fa"),
    "cityscapes_u2pl/372": Published(372, "af350f9ea948a470ca54a5c0fa8c9829a30ce537825aa9d3de2d450a9bbcc839"),
    "cityscapes_u2pl/744": Published(744, "d787c1a5a4d0e4b8dbff17803e79a1eb2b7e96516fd89a36a3eb1923a6f8bac9"),
    "cityscapes_u2pl/1488": Published(1488, "245bcea234d21ace2a4f968503cd0662f88b1ace5096d8040e393b8c4c0eb2ca"),
    "cityscapes_100": Published(100, "d356a23daa743733be4afc4b4e5ce286ff4ad35b00a442266ea721713c78b219"),
    "cityscapes_train_2975": Published(2975, "7f56ebec1d2eb8db59a3600206fcf7f05b53a7f3a8cf66381e6de73356b9eb7a"),
    "cityscapes_val_500": Published(
        500, "73099b252b778d6fa89467ad05a7068b8a6a0f931693f909e1acbf189a36fb52", "cityscapes/val.txt"
    ),
    "coco/1_512": Published(
        232, "67defdabc1ae060bf545dcaccd9e51620c398ede6342fb0efe002afd273d228f", "coco/1_512/labeled.txt"
    ),
    "coco/1_256": Published(
        463, "5544ded2cdec4fb0341275f0197b85519d10a49a8981ad57bf3c19deaf7ab621", "coco/1_256/labeled.txt"
    ),
    "coco/1_128": Published(
        925, "4b6fec1f28d42050c81d2282605c732654203318df6f6879615a6aa968dc6c53", "coco/1_128/labeled.txt"
    ),
    "coco/1_64": Published(
        1849, "f53fa8b35efc7b3566b6317d9bffdba835efc933e6cb82877da518923a846926", "coco/1_64/labeled.txt"
    ),
    "coco/1_32": Published(
        3697, "2d8bc09bea3afaf3b0201543fdbff4d9b3749151edc37a4f00ae6b9c55b087e5", "coco/1_32/labeled.txt"
    ),
    "coco/val_5000": Published(
        5000, "e1cc220cde76f9a1fc39aff5b5f8c0b128de8b071602e6d57f262697116e2906", "coco/val.txt"
    ),
}


def image_id(name: str) -> str:
    """The id that a line of any project's list, or an id of ours, means: a file name without folder, suffix, tag."""
    return strip_endings(name.split()[0].rsplit("/", 1)[-1], ("_leftImg8bit",))


def parse_ids(lines: Iterable[str]) -> list[str]:
    """The ids of a list's lines, in its order; blank lines and comments left out."""
    lines = (line.strip() for line in lines)
    return [image_id(line) for line in lines if line and not line.startswith("#")]


def identify_list(ids: Iterable[str]) -> str | None:
    """The name of the published list that has exactly these ids, in any order; None if there is none."""
    facts = list_fingerprint(image_id(name) for name in ids if name.strip())
    same = (name for name, known in PUBLISHED.items() if known[:2] == (facts["images"], facts["sha256"]))
    return next(same, None)


def verify_list(ids: list[str], name: str, origin: Path | str) -> None:
    """`DataError` that says what the ids of `origin` are if they are not the list `name`."""
    found = identify_list(ids)
    if found == name:
        return
    known, facts = PUBLISHED[name], list_fingerprint(ids)
    if found:
        raise DataError(f"{origin}: this is {found}, not {name}; name it {found}.txt, or get the right list")
    raise DataError(
        f"{origin}: this is not {name}: it has {plural(facts['images'], 'id')} with SHA-256 {facts['sha256'][:12]}…,"
        f" the published list has {known.images} with {known.sha256[:12]}…; get the list again, or use your own list"
        " under another name"
    )


def list_named_by(path: Path) -> str | None:
    """The list that a file's name says it is: FAMILY/N.txt or NAME.txt."""
    names = (f"{path.parent.name}/{path.stem}", path.stem)
    return next((name for name in names if name in PUBLISHED), None)


def lists_of_benchmark(benchmark: str) -> list[str]:
    """The names of the lists of voc, cityscapes or coco."""
    return [name for name in PUBLISHED if name.partition("/")[0].partition("_")[0] == benchmark]


def find_published_lists(folder: Path, benchmark: str) -> tuple[dict[str, list[str]], list[Path]]:
    """The published lists of a benchmark among the .txt files below a folder, and the files that are none.

    Raises:
        DataError: for a file that has the name of a published list but not its ids.
    """
    if not folder.is_dir():
        raise DataError(f"--lists is {str(folder)!r}, but there is no such folder; give the one that holds the lists")
    wanted = lists_of_benchmark(benchmark)
    found: dict[str, list[str]] = {}
    others = []
    for path in sorted(folder.rglob("*.txt")):
        claim = list_named_by(path)
        if claim and claim not in wanted:
            continue
        ids = parse_ids(read_text_lines(path))
        if claim:
            verify_list(ids, claim, path)
        name = claim or identify_list(ids)
        labeled = path.with_name("labeled.txt")
        if name is None and path.name == "unlabeled.txt" and labeled.is_file():  # the whole pool is the two together
            ids = sorted({*ids, *parse_ids(read_text_lines(labeled))})
            name = identify_list(ids)
        if name in wanted:
            found[name] = ids
        else:
            others.append(path)
    return found, others
