"""What hundreds of forked runs inherit from their server: imports, fonts, emoji pictures, Gemma's tokenizer."""

import matplotlib.pyplot as plt
import torch
from conftest import SMALL_DATA
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from emojitune.data.emojis import LABELS
from emojitune.evaluation import baselines, conversations  # noqa: F401
from emojitune.model.loading import token_lengths
from emojitune.reporting import figures, html, model_card  # noqa: F401
from emojitune.training import callbacks, run_record  # noqa: F401

torch.set_num_threads(1)  # a process that has threads must not fork
get_checkpoint_conversion_mapping("gemma3_text")
for label in LABELS:
    figures.emoji_image(label)
token_lengths([row["messages"] for row in SMALL_DATA])
plt.close(plt.figure())
