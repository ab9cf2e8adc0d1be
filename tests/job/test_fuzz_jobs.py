"""Damaged job files, profiles, DeepSpeed files and overrides are refused with a place, or accepted; nothing else.

`ADAPTRUN_FUZZ_SEED` repeats a day's seed, which a failure prints with the damaged text.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from launcher.cluster.profile import load_profile
from launcher.cluster.variants import variants
from launcher.data.columns import check_columns
from launcher.errors import JobError, RequestError
from launcher.job.reading.job_file import load_job
from launcher.job.reading.paths import taken_for_hub_ids
from launcher.job.reading.yaml_reader import MOST_VALUES, YamlFaults, parse_yaml
from launcher.plan.deepspeed_config import read_deepspeed
from launcher.run.folder import RunFolder
from tests.fuzzing import seed_of_the_day
from tests.tiny import tiny_model_folder

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "examples").glob("*.yaml"))
PROFILES = sorted((ROOT / "slurm").glob("*.yaml"))
TEMPLATES = sorted((ROOT / "ds_configs").glob("*.json"))

TAGS = (
    *("!!bool", "!!int", "!!float", "!!null", "!!str", "!!timestamp", "!!binary", "!!set", "!!omap", "!!pairs"),
    *("!!map", "!!seq", "!!python/object:os.system", "!!python/tuple", "!own", "!", "!!merge", "!!value", "!<tag:x>"),
    *("!x!y",),
)
VALUES = (
    *("", "~", "null", "true", "maybe", "yes", "off", "0", "-1", "1e400", "-1e-400", ".inf", ".nan", "010", "0o17"),
    *("1_0", "20:00", "1:2:3.4", "2020-02-31", "0x" + "f" * 5000, "9" * 5000, "1e999999999", "[]", "{}", "[[]]"),
    *("{a: {b: c}}", "x" * 300, "x/" * 3000, "./x", "../..", ".", "/dev/null", "~", "~root/x"),
    *("~nobody-of-that-name/x", "a.py", "a.py:b", '"\\0"', '"\\ud800"', '"\\UFFFFFFFF"', '"\\x1b[2J"', "'", '"', "|"),
    *(">", "*nothing", "&a", "&a *a", "<<", "=", "?", "- - - a", "? a", "? [a, b]", "[" * 1000, "{a: " * 1000),
    *("- " * 1000, "%YAML 9.9", "--- a", "...", "#", "\t", "@", "`", "Ünïcödé", "😀", "\u2028", "\x85", "\ufeff"),
    *("org/model-1.5", "minilm", "auto", "lora", "dann", "deepspeed", "fsdp"),
)
BOMB = "x0: &x0 [1]\n" + "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 10))
MERGES = "m0: &m0 {a: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 40))
CHAIN = "c0: &c0 []\n" + "".join(f"c{i}: &c{i} [*c{i - 1}]\n" for i in range(1, 400))
LINES = (
    *(BOMB, MERGES, CHAIN, "<<: *x0\n", "x: &x {<<: *x}\n", "--- \n", "\ufeff", "name: again\n", "  - a\n"),
    *("%TAG ! x\n", "\t"),
)
BYTES = (
    *(b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\r", b"\n", b"\t", b":", b"{", b"}", b"[", b"]", b"'", b'"'),
    *(b"&", b"*"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples with data of one row, and a model where they name a run, so that whole files are accepted."""
    folder = tmp_path_factory.mktemp("fuzz")
    tiny_model_folder(folder / "runs" / "film-reviews")
    for job in JOBS:
        shutil.copy(job, folder)
        for name in re.findall(r"data/[\w.-]+", job.read_text(encoding="utf-8")):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(
                "text,label\na,b\n" if name.endswith(".csv") else '{"text": "a", "label": "b"}\n'
            )
    return folder


def test_some_hundred_damaged_files_are_refused_or_accepted(folder: Path) -> None:
    throw(400, 0, folder)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_damaged_files_are_refused_or_accepted(folder: Path) -> None:
    throw(10_000, seed_of_the_day(), folder)


def throw(count: int, seed: int, folder: Path) -> None:
    """Damage so many files, and read each as the program would."""
    refused = 0
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        kind, original, read = draw.choice(list(kinds(folder)))
        damaged = damage(original, draw)
        place = folder / f"damaged{Path(kind).suffix}"
        place.write_bytes(damaged)
        try:
            refused += not read(place, draw)
        except BaseException as error:
            error.add_note(f"seed {seed}, number {number}, from {kind}: {damaged[:3000]!r}")
            raise
    assert count / 3 < refused < count  # it damages, and not everything


Read = Callable[[Path, random.Random], bool]


def kinds(folder: Path) -> Iterator[tuple[str, bytes, Read]]:
    """Each kind of file with its reader, jobs most often."""
    for job in JOBS:
        yield job.name, job.read_bytes(), reads_a_job
    for profile in PROFILES:
        yield profile.name, profile.read_bytes(), reads_a_profile
    for template in TEMPLATES[:3]:
        yield template.name, template.read_bytes(), reads_deepspeed
    yield "film-reviews.yaml", (folder / "film-reviews.yaml").read_bytes(), reads_a_run
    yield "value.yaml", b"[1, {a: b}]", reads_an_override


def accepts(read: Callable[[], object], place: str) -> bool:
    """Whether a reader takes what it is given; else it must have said where the fault lies."""
    try:
        read()
    except JobError as error:
        for problem in error.problems:
            assert problem.where.startswith((place, "--set ")) or re.search(r"\.ya?ml|\.json", problem.where), problem
            assert problem.message
        return False
    except RequestError:
        return False
    return True


def reads_a_job(file: Path, draw: random.Random) -> bool:
    sets = [f"{draw.choice(FIELDS)}={draw.choice(VALUES)}"] if draw.random() < 0.2 else []

    def read() -> None:
        job = load_job(file, sets)
        check_columns(job)
        taken_for_hub_ids(job)

    return accepts(read, str(file))


def reads_a_profile(file: Path, draw: random.Random) -> bool:
    return accepts(lambda: load_profile(file), str(file))


def reads_deepspeed(file: Path, draw: random.Random) -> bool:
    job = load_job(file.parent / "film-reviews.yaml", ["engine.name=deepspeed", f"engine.deepspeed={file}"])
    return accepts(lambda: read_deepspeed(job), str(file))


def reads_a_run(file: Path, draw: random.Random) -> bool:
    run = RunFolder(file.parent / "run")
    run.path.mkdir(exist_ok=True)
    shutil.copy(file, run.job_file)
    return accepts(run.job_values, str(run.job_file))


def reads_an_override(file: Path, draw: random.Random) -> bool:
    text = file.read_bytes().decode("utf-8", errors="surrogateescape")
    with suppress(YamlFaults):
        assert len(parse_yaml(text).places) <= MOST_VALUES
    accepts(lambda: variants([f"train.seed={text}"]), "--each")
    job = file.parent / "film-reviews.yaml"
    return accepts(lambda: load_job(job, [f"{draw.choice(FIELDS)}={text}"]), str(job))


FIELDS = (
    *("name", "model", "model.pretrained", "model.frozen", "task", "data", "data.train", "data.train.label"),
    *("data.cache", "train.optimizer", "train.seed", "train.loss", "adapt", "adapt.method", "adapt.code", "engine"),
    *("engine.deepspeed", "launch.runs", "track", "validation", "verdict.compare", "verdict.baseline", "a.b.c"),
    *("train.epochs.x", "." * 9),
)


def damage(text: bytes, draw: random.Random) -> bytes:
    """One to three faults, now and then in a row of their own."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        text = draw.choice(DAMAGES)(text, draw)
    return text


def _bytes(text: bytes, draw: random.Random) -> bytes:
    at, long = draw.randrange(len(text) + 1), draw.choice((0, 0, 1, 1, 5, 50))
    put = draw.choice([draw.choice(BYTES), draw.randbytes(1), b"", text[at : at + long] * 2])
    return text[:at] + put + text[at + long :]


def _cut(text: bytes, draw: random.Random) -> bytes:
    return text[: draw.randrange(len(text) + 1)]


def _token(text: bytes, draw: random.Random) -> bytes:
    """A word between separators gives way to a nasty one, gets a tag or an anchor, or an alias."""
    ends = [found.span() for found in re.finditer(rb"[^\s:,{}\[\]]+", text)]
    if not ends:
        return text
    begin, end = draw.choice(ends)
    word = text[begin:end]
    put = draw.choice(
        [draw.choice(VALUES), draw.choice(VALUES), draw.choice(TAGS), f"{draw.choice(TAGS)} ", "&a ", "*a"]
    )
    new = put.encode("utf-8", errors="surrogatepass")
    return text[:begin] + new + (word if put.endswith(" ") else b"") + text[end:]


def _lines(text: bytes, draw: random.Random) -> bytes:
    """A line is moved, said twice, indented otherwise, or joined by lines that multiply."""
    lines = text.splitlines(keepends=True) or [b""]
    at = draw.randrange(len(lines))
    match draw.randrange(6):
        case 0:
            lines.insert(draw.randrange(len(lines)), lines.pop(at))
        case 1:
            lines.insert(at, lines[at])
        case 2:
            lines[at] = b" " * draw.randrange(5) + lines[at].lstrip(b" ")
        case 3:
            lines.insert(at, draw.choice(LINES).encode())
        case 4:
            lines[at] = lines[at].replace(b"\n", draw.choice((b"\r", b"\r\n", b"\t\n", b"\x0c\n", b" \n \n")))
        case _:
            del lines[at]
    return b"".join(lines)


def _encoding(text: bytes, draw: random.Random) -> bytes:
    """The whole file in another encoding, with a mark at its beginning, or with other ends of lines."""
    return draw.choice(
        [
            b"\xef\xbb\xbf" + text,
            text.decode("utf-8", errors="replace").encode(
                draw.choice(("utf-16", "utf-32", "latin-1", "cp037")), errors="replace"
            ),
            text.replace(b"\n", b"\r"),
            text.replace(b"\n", b"\r\n"),
            text * 2,
            b"---\n" + text + b"---\n" + text,
        ]
    )


DAMAGES = (_bytes, _bytes, _token, _token, _token, _lines, _lines, _cut, _encoding)
