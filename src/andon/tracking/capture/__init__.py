"""What a run captures without being asked: code, environment, hardware and seeds. Nothing here ever fails the run."""

from andon.tracking.capture.code import CodeCapture, begin_code
from andon.tracking.capture.environment import capture_environment, environment_notes
from andon.tracking.capture.hardware import capture_hardware
from andon.tracking.capture.seeds import observed_seeds, seed

__all__ = [
    "CodeCapture",
    "begin_code",
    "capture_environment",
    "capture_hardware",
    "environment_notes",
    "observed_seeds",
    "seed",
]
