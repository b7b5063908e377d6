"""Search over runs, experiments and logged models, in one language: what the wire, the board's filter box and the command line share.

``grammar`` is the language (pure), ``fields`` says what each noun has to offer, the other modules compile to SQL and page.
"""

from andon.tracking.search.experiments import experiments_in, search_experiments
from andon.tracking.search.fields import EXPERIMENTS, LOGGED_MODELS, RUNS
from andon.tracking.search.grammar import Clause, Grammar, Key, Kind, Order, parse_filter, parse_order, render_clause, render_filter
from andon.tracking.search.logged_models import ModelOrder, search_logged_models
from andon.tracking.search.ordering import MAX_RESULTS, Page
from andon.tracking.search.runs import Columns, columns_of, count_runs, search_runs

__all__ = [
    "EXPERIMENTS",
    "LOGGED_MODELS",
    "MAX_RESULTS",
    "RUNS",
    "Clause",
    "Columns",
    "Grammar",
    "Key",
    "Kind",
    "ModelOrder",
    "Order",
    "Page",
    "columns_of",
    "count_runs",
    "experiments_in",
    "parse_filter",
    "parse_order",
    "render_clause",
    "render_filter",
    "search_experiments",
    "search_logged_models",
    "search_runs",
]
