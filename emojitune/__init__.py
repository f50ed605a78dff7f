"""What two or more of the numbered scripts need; docs/architecture.md is the map."""

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL would tell the hub of every training run
