"""The paper's tables and figures, and a report, from run records: `python -m tfew.paper`. No torch.

* reference: the paper's numbers, and which runs make up which row
* runs, variants: finished runs; those that differ in settings
* table, table_1, cells, render: tables
* figures, spread, curves: points of figures
* pictures, drawing, svg: their drawings
* report, overview, answers, mistakes, texts: report.html
"""
