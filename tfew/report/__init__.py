"""`report.html` of a run on somebody's own rows, and what all pages that are written have in common.

`style.css` is the look of every page, `macros.html` its parts, `task.html` the page of one run.

* task_report: the page of one run, from its record, its predictions and its rows
* hardest_rows: the held-out rows that cost the most, with their texts
* advice: what to do next, from the numbers
* confusion: what was taken for what, for a page
* page: templates, and texts that do no harm in them
"""
