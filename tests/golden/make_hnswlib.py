"""Makes hnswlib.bin and faiss_flat.bin: run once where hnswlib and faiss are installed."""

from pathlib import Path

import faiss
import hnswlib
import numpy as np

here = Path(__file__).parent
x = np.random.default_rng(7).normal(size=(40, 5)).astype(np.float32)
index = hnswlib.Index("l2", 5)
index.init_index(max_elements=50, M=3, ef_construction=20, random_seed=1)
index.add_items(x, np.arange(40) * 10 + 3, num_threads=1)
index.mark_deleted(13)
index.save_index(str(here / "hnswlib.bin"))
flat = faiss.IndexFlatIP(5)
flat.add(x)
faiss.write_index(flat, str(here / "faiss_flat.bin"))
