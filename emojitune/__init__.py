"""What two or more of the numbered scripts need. Nothing here parses arguments; the scripts tell the story."""

import os

# On a CPU, torch and oneDNN keep working memory for each of the last 1024 shapes that they multiplied in bf16, and
# nearly every batch has shapes of its own: training took 5 GB in the end. Both read this before their first product.
for cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(cache, "32")
