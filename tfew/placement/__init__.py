"""Where adapters are placed in a model: found from its structure, never from a name that matches by chance.

* structure: the transformer layers of a model, with the attention and the feed-forwards that each has
* attention, feed_forward: recognise these modules
* backbone_rules: rules of configs/backbone for attention and feed-forward classes whose structure is ambiguous
* places: a vector's place, and helpers for linear layers
* position_table: tables of positions, beyond which a model cannot be run
* named_layers: layers named by the user, by full name or pattern
* legacy_names: placement by lists of names, for adapters saved before version 0.3
* report: where a method is, in one line and as a table; errors for layers without a place
"""
