"""Writes bm25.json: scores of bm25s for every variant, and stems of Snowball's own English stemmer.

python tests/golden/make_bm25.py --out tests/golden        (bm25s 0.3.16, PyStemmer 3.1.0, NumPy 2.4.6)
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import bm25s
import numpy as np
import Stemmer

SETTINGS = [(1.5, 0.75), (0.9, 0.4), (0.0, 0.0), (2.0, 1.0)]
WORDS = """\
caresses ponies ties cries gas this kiwis gaps agreed feed plastered bled motoring sing conflated troubled sized
hopping falling hissing fizzed failing filing added egged happy sky cry by say relational conditional rational valency hesitancy
digitizer conformably radically differently vilely analogously vietnamization predication operator feudalism decisiveness
hopefulness callousness formality sensitivity sensibility apology geologist triplicate formative formalize electricity
electrical hopeful goodness revival allowance inference airliner gyroscopic adjustable defensible irritant replacement
adjustment dependent adoption homologous communism activate angularity effective bowdlerize probate rate cease
control roll skis skies dying lying tying vying idly gently ugly early only singly news howe atlas cosmos bias andes inning innings
outing cannings herring earring evening evenings proceed exceeding succeeded past paste pasted pasting pastes universe
universal university lateral later emerge emergency organ organic organization generate general generous communicate
community arsenic arsenal international interest internal dog's dogs' 'twas o'clock yes youth yellow boyish toy sayings
flying dyed eyeing cooly coolly oddly deedly indeed needed agreedly knightly youthfully thoughtlessly biologies logi
fluently abli bly connect connected connecting connection connections consist consistency consolations knackeries knaves
ied ies ss s a be bees adds odds off eggs ebbing inning tenniing luxuriate luxuriating hoped hoping shedding beaded beed
bed embedded uproot bestow disturb beautiful beauty beau animadversion sprinkled eucharist yyy ayy yay syzygy rhythm
aggression passage passing national nationality rationalize ative creative creatively comparatively ness fulness ful
""".split()  # noqa: E501, SIM905


def scores() -> dict:
    rng = random.Random(5)
    corpus = [[f"w{min(int(rng.paretovariate(0.6)), 60)}" for _ in range(rng.randint(1, 40))] for _ in range(40)]
    queries = [["w1", "w2"], ["w5", "w5", "w9"], ["w60"], ["w3", "w17", "w1", "w30"], ["w2", "w2", "w2", "w4"]]
    found = []
    for method in ("lucene", "robertson", "atire", "bm25l", "bm25+"):
        for k1, b in SETTINGS:
            if method in ("bm25l", "bm25+") and k1 == 0:  # 0 / 0 there
                continue
            index = bm25s.BM25(method=method, k1=k1, b=b, delta=0.7)
            index.index(corpus, show_progress=False)
            every = [np.asarray(index.get_scores(query), np.float64).round(7).tolist() for query in queries]
            found.append({"variant": method, "k1": k1, "b": b, "delta": 0.7, "scores": every})
    return {"corpus": corpus, "queries": queries, "found": found}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    stemmer = Stemmer.Stemmer("english")
    stems = {word: stemmer.stemWord(word) for word in WORDS}
    result = {"stems": stems, **scores()}
    (parser.parse_args().out / "bm25.json").write_text(json.dumps(result, indent=None, ensure_ascii=False) + "\n")
