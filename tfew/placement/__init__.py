"""Where in a model adapters belong: read off its structure, never off a name that matches by chance.

* structure: the transformer layers of a model, with the attention and the feed-forwards that each has
* attention, feed_forward: how those are known
* backbone_rules: what configs/backbone says of attention and feed-forward classes that structure alone does not tell
* places: a vector's place, and the linear layers that a method of matrices takes
* named_layers: layers named by the user, by full name or pattern
* legacy_names: placement by lists of names, as adapters saved before version 0.3 have it
* report: where a method is, in one line and as a table, and the error for a layer without its share
"""
