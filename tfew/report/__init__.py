"""`report.html` of a run on a user's own rows, and the parts shared by all generated pages.

`style.css` is the look of every page, `macros.html` its parts, `task.html` the page of one run.

* task_report: the page of one run, from its record, its predictions and its rows
* hardest_rows: the held-out rows with the highest loss, with their texts
* advice: what to do next, from the numbers
* confusion: the confusion matrix of a page
* page: HTML templates, and escaping of texts in them
"""
