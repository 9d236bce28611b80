"""Operations that torch does slowly on a CPU, written so that they are fast there; on a GPU torch's own are taken.

* dropout: masks of dropout, four from one random number
* attention: attention with dropout over rows of uneven length
"""
