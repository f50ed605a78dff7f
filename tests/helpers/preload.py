"""What hundreds of forked runs inherit from their server: imports, fonts, emoji pictures, Gemma's tokenizer."""

import datasets  # noqa: F401
import matplotlib.pyplot as plt
import peft  # noqa: F401
import torch
import trl  # noqa: F401
from conftest import SMALL_DATA
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import emojitune.evaluation.baselines
import emojitune.evaluation.conversations
import emojitune.evaluation.predictions
import emojitune.reporting.html
import emojitune.reporting.model_card
import emojitune.reporting.text
import emojitune.training.callbacks
import emojitune.training.run_record  # noqa: F401
from emojitune.data.emojis import LABELS
from emojitune.model.loading import token_lengths
from emojitune.reporting import figures

torch.set_num_threads(1)  # a process that has threads must not fork
get_checkpoint_conversion_mapping("gemma3_text")
for label in LABELS:
    figures.emoji_image(label)
token_lengths([row["messages"] for row in SMALL_DATA])
plt.close(plt.figure())
