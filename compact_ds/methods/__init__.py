"""The methods: what each sees, which rationales it trains on, and how it weighs them; what users add to them."""

from compact_ds.methods.added_metrics import add_metric
from compact_ds.methods.evidence import Evidence
from compact_ds.methods.method import Method, add_method

__all__ = ["Evidence", "Method", "add_method", "add_metric"]
