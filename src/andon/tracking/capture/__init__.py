"""What a run captures without being asked: code, environment, hardware and seeds. Nothing here ever fails the run."""

from andon.tracking.capture.code import CapturedCode, CodeCapture, begin_code, capture_code, keep_diff
from andon.tracking.capture.environment import capture_environment, environment_notes
from andon.tracking.capture.hardware import capture_hardware
from andon.tracking.capture.seeds import observed_seeds, seed

__all__ = [
    "CapturedCode",
    "CodeCapture",
    "begin_code",
    "capture_code",
    "capture_environment",
    "capture_hardware",
    "environment_notes",
    "keep_diff",
    "observed_seeds",
    "seed",
]
