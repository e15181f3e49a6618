"""Tables and pictures from plain values; whoever shows them decides how they look."""

from lorank.report.tables import (
    cut_rows,
    layer_rows,
    relative,
    skipped_rows,
    sparkline,
    totals,
)

__all__ = ["cut_rows", "layer_rows", "relative", "skipped_rows", "sparkline", "totals"]
