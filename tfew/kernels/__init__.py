"""Fast versions of operations that torch does slowly on a CPU; on a GPU torch's own are used.

* dropout: dropout masks, four from one random number
* attention: attention with dropout over rows of different lengths
"""
