"""The paper's tables and figures, and a report, from run records: `python -m tfew.paper`. No torch.

reference                           the paper's numbers, and which runs belong to which row
runs, variants                      finished runs; names that tell their settings apart
table, table_1, cells, render       tables
figures, spread, curves             points of figures
pictures, drawing, svg              drawing them
report, overview, answers, mistakes, texts  report.html
"""
