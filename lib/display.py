"""How a result looks in a notebook."""

import math

import pandas as pd

_WIDTH = 120  # of a bar, in pixels


def _bar(density: float, decades: int) -> str:
    """A bar on a logarithmic axis from 10^-decades to 1, as inline SVG."""
    filled = _WIDTH * max(0.0, 1 + math.log10(density) / decades) if density else 0
    return (
        f'<svg width="{_WIDTH}" height="10">'
        f'<rect width="{_WIDTH}" height="10" fill="#E5E5E5"/>'
        f'<rect width="{filled:.1f}" height="10" fill="#0072B2"/></svg>'
    )


def layers(table: pd.DataFrame) -> str:
    """What a mask leaves of each layer, as HTML: a line that sums it up, a table and bars.

    Args:
        table: One row a layer: shape, weights, kept, effective and density, the effective fraction.
    """
    weights, kept, effective = (int(table[key].sum()) for key in ("weights", "kept", "effective"))
    smallest = table.loc[table["density"] > 0, "density"].min() if effective else 1.0
    decades = max(1, math.ceil(-math.log10(smallest)))
    shown = table.reset_index()
    shown["density"] = shown["density"].map("{:.2%}".format)
    bars = [_bar(density, decades) for density in table["density"]]
    shown[f"density, {10.0**-decades:g} to 1, logarithmic"] = bars
    return (
        f"<p>{kept:,} of {weights:,} weights kept, sparsity {1 - kept / weights:.3%}; {effective:,}"
        " of them lie on a path from input to output, effective sparsity "
        f"{1 - effective / weights:.3%}.</p>" + shown.to_html(index=False, border=0, escape=False)
    )
