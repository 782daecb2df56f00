"""The objective: advantages, ratios, surrogates, aggregation. Pure functions on flat tensors, no padding.

Shapes: `B` rows (rollouts), `N` completion tokens of all rows one after the other, `row_N` the row of each token.
"""
