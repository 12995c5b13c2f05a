"""Writes the tables by which the bundled model reads prompts: src/toile/assets/fashion/words.json.

    TOILE_DATA=data python recipes/fashion-words.py src/toile/assets/fashion/words.json

It counts what captions can say of the products (seconds), and adds what people say, src/toile/data/people_words.py. Run
it again when that table has changed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from toile.data.sources import find_data, open_source
from toile.data.word_tables import build_word_tables
from toile.weights.files import write_atomically


def main() -> None:
    records = open_source(find_data("products", None), None).records
    text = json.dumps(build_word_tables(records), indent=1, ensure_ascii=False, sort_keys=True)
    write_atomically(Path(sys.argv[1]), f"{text}\n".encode())


if __name__ == "__main__":
    main()
