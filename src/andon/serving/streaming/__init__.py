"""Streams: consume, predict, produce. A small port (``StreamLog``), the embedded log, two brokers, and the loop between them."""

from andon.serving.streaming.endpoints import Endpoint, open_log, parse
from andon.serving.streaming.loop import Streamer, StreamOptions
from andon.serving.streaming.records import Capabilities, Message, Record, StreamLog

__all__ = ["Capabilities", "Endpoint", "Message", "Record", "StreamLog", "StreamOptions", "Streamer", "open_log", "parse"]
