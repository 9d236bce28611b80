"""The paper's tables and figures, and a report, from run records: `python -m tfew.paper`. No torch.

* reference: the paper's numbers, and the runs of each row
* runs, variants: finished runs; names for runs that differ in settings
* table, table_1, cells, render: tables
* figures, spread, curves: points of figures
* pictures, drawing, svg: their drawings
* report, overview, answers, mistakes, texts: report.html
"""
