"""Where things lie: the clone, the course's recorded runs, checkpoints."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "lessons" / "recorded"
CHECKPOINTS = ROOT / "build" / "checkpoints"
